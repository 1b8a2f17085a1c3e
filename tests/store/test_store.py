"""What is committed comes back, as far as it matters, and nothing else does."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import attrs
import pytest

from batchns.core.changes import (
    Closed,
    Finished,
    Held,
    Launched,
    Opened,
    Prioritised,
    Started,
    Submitted,
)
from batchns.core.job import Edge
from batchns.core.placement import Placement
from batchns.errors import UserError
from batchns.model.job import Condition
from batchns.model.lifecycle import Event, State
from batchns.store.interface import Batch, Entry, HistoryQuery, Journal, Loaded, StoreError
from batchns.store.store import Store

from .batches import batch, ending, life, missing, spec, submission


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "state" / "batchns.db")


def reopened(store: Store) -> Store:
    store.close()
    return Store.open(store.path)


def test_a_store_is_a_journal(store: Store) -> None:
    journal: Journal = store
    assert journal.load() == Loaded()


class TestLoad:
    def test_in_the_order_of_the_commits(self, store: Store) -> None:
        """Submissions and entries come back one after another, as they were committed, with data and notes."""
        first, second = submission(1, spec("a"), spec("b", tasks=3)), submission(3, spec("c"), at=5.0)
        launch = Entry(at=4.0, change=Launched("1", Placement((0, 2), (0,))), data={"launch": "x", "slot": [1, None]})
        held = Entry(at=6.0, change=Held("3"))
        assert store.commit(Batch(submissions=(first,))) == 1
        assert store.commit(Batch(entries=(launch,), notes={"idle": {"since": 1.5}, "gone": 1})) == 2
        assert store.commit(Batch(submissions=(second,), entries=(held,), notes={"gone": None})) == 4
        expected = Loaded(log=(first, launch, second, held), notes={"idle": {"since": 1.5}}, last=6.0)
        assert store.load() == expected
        assert reopened(store).load() == expected

    def test_what_is_over_stays_away(self, store: Store) -> None:
        """A job with an ending is not loaded; one that has finished an attempt, and is to have another, is."""
        both = submission(1, spec("a"), spec("b"))
        again = (*life("2"),)
        store.commit(Batch(submissions=(both,), entries=(*life("1"), *again), endings=(ending("1", name="a"),)))
        loaded = store.load()
        assert loaded.log == (attrs.evolve(both, jobs=both.jobs[1:]), *again)
        assert loaded.last == 4.0

    def test_the_last_moment_is_that_of_all_entries(self, store: Store) -> None:
        """Also of jobs that are over, and of what was pruned: the schedule's clock never goes back."""
        store.commit(Batch(submissions=(submission(1, spec("a")),), entries=life("1"), endings=(ending("1"),)))
        assert store.prune(100.0) == 1
        assert reopened(store).load() == Loaded(last=4.0)

    def test_what_others_wait_for_comes_too(self, store: Store) -> None:
        """All tasks of an array that a waiting job depends on, over or not, with their entries; no others."""
        jobs = submission(1, spec("other"), spec("prep", tasks=2), spec("rest", after="afterok:prep"))
        entries = (*life("1"), *life("2_0"))
        store.commit(Batch(submissions=(jobs,), entries=entries, endings=(ending("1"), ending("2_0"))))
        loaded = store.load()
        assert loaded.log == (attrs.evolve(jobs, jobs=jobs.jobs[1:]), *entries[3:])

    def test_an_array_comes_as_a_whole(self, store: Store) -> None:
        """Also the tasks that are over: whoever comes to depend on it has to know how they ended."""
        jobs = submission(1, spec("a", tasks=3), spec("b"))
        store.commit(Batch(submissions=(jobs,), entries=life("1_1"), endings=(ending("1_1"), ending("2"))))
        assert store.load().log == (attrs.evolve(jobs, jobs=jobs.jobs[:3]), *life("1_1"))

    def test_what_jobs_of_other_submissions_wait_for_comes_too(self, store: Store) -> None:
        """By the ids that their edges point at."""
        first, other = submission(1, spec("prep", tasks=2)), submission(2, spec("prep", tasks=2))
        rest = submission(3, spec("rest"), at=9.0)
        edge = Edge(Condition.AFTERANY, "1", ("1",))
        rest = attrs.evolve(rest, jobs=(attrs.evolve(rest.jobs[0], edges=(edge,)),))
        done = (ending("1_0"), ending("1_1"), ending("2_0"), ending("2_1"))
        store.commit(Batch(submissions=(first, other), entries=(*life("1_0"), *life("2_0")), endings=done))
        store.commit(Batch(submissions=(rest,)))
        assert store.load().log == (first, *life("1_0"), rest)
        assert store.prune(100.0) == 2
        assert store.load().log == (first, *life("1_0"), rest)

    def test_once_nobody_waits_it_stays_away(self, store: Store) -> None:
        jobs = submission(1, spec("prep"), spec("rest", after="afterok:prep"))
        store.commit(Batch(submissions=(jobs,), entries=(*life("1"), *life("2")), endings=(ending("1"), ending("2"))))
        assert store.load().log == ()

    def test_the_node_is_as_it_was_last(self, store: Store) -> None:
        closed, opened = Entry(at=1.0, change=Closed("a disk fails")), Entry(at=2.0, change=Opened())
        store.commit(Batch(entries=(closed, opened, closed)))
        store.commit(Batch(entries=(opened,)))
        assert store.load().log == (opened,)
        last = Entry(at=3.0, change=Closed("again"), data={"by": "root"})
        store.commit(Batch(entries=(last,)))
        assert store.load().log == (last,)

    def test_equal_objects_are_shared_again(self, store: Store) -> None:
        store.commit(Batch(submissions=tuple(submission(n, spec("a")) for n in range(1, 5))))
        jobs = [job for item in store.load().log for job in item.jobs]  # type: ignore[union-attr]
        assert len(jobs) == 4
        assert len({id(job.demand) for job in jobs}) == len({id(job.spec) for job in jobs}) == 1

    def test_a_folder_may_be_no_text(self, store: Store) -> None:
        odd = attrs.evolve(submission(1, spec("a")), anchors={"/data/\udcff\n'": "/srv"})
        store.commit(Batch(submissions=(odd,)))
        assert reopened(store).load().log == (odd,)

    def test_is_quick(self, store: Store) -> None:
        """10,000 jobs of as many submissions, and an array of 10,000 tasks. The bounds are wide: a slow machine's."""
        place = 1
        for _ in range(20):
            many = tuple(submission(n, spec(f"job{n}")) for n in range(place, place + 500))
            store.commit(Batch(submissions=many))
            place += 500
        begun = time.perf_counter()
        assert len(store.load().log) == 10_000
        assert time.perf_counter() - begun < 6
        store.commit(
            Batch(
                submissions=(submission(place, spec("array", tasks=10_000)),),
                endings=tuple(ending(str(n)) for n in range(1, place)),
            )
        )
        begun = time.perf_counter()
        (array,) = store.load().log
        assert len(array.jobs) == 10_000  # type: ignore[union-attr]
        assert time.perf_counter() - begun < 3


class TestCommit:
    def test_nothing_is_no_commit(self, store: Store) -> None:
        assert store.commit(Batch()) == 0
        assert store.commit(Batch(notes={"a": 1})) == 0
        assert store.commit(Batch(submissions=(submission(1, spec()),))) == 1
        assert store.commit(Batch()) == 1

    def test_a_batch_that_contradicts_the_store_is_refused_as_a_whole(self, store: Store) -> None:
        store.commit(batch(0))
        before = store.load()
        for wrong in (
            Batch(entries=(Entry(at=9.0, change=Held("77")),)),  # no such job
            Batch(submissions=(submission(50, spec()), submission(1, spec()))),  # the second is there already
            Batch(endings=(ending("1"),), notes={"a": 1}),  # it is over already
        ):
            with pytest.raises(StoreError, match="contradicts"):
                store.commit(wrong)
            assert store.load() == before
            assert store.job("50") is None
        store.commit(batch(1))
        assert not missing(store, 0) + missing(store, 1)

    def test_jobs_are_submitted_as_submissions(self, store: Store) -> None:
        with pytest.raises(TypeError):
            store.commit(Batch(entries=(Entry(at=1.0, change=Submitted(())),)))

    def test_what_cannot_be_written_leaves_nothing(self, store: Store) -> None:
        with pytest.raises(TypeError):
            store.commit(Batch(submissions=(submission(1, spec()),), notes={"a": object()}))
        assert store.load() == Loaded()
        assert store.commit(Batch(submissions=(submission(1, spec()),))) == 1

    def test_numbers_go_on_after_a_restart(self, store: Store) -> None:
        last = store.commit(batch(0))
        store.prune(100.0)
        assert reopened(store).commit(Batch(entries=(Entry(at=1.0, change=Opened()),))) == last + 1

    def test_from_many_threads(self, store: Store) -> None:
        """Readers see whole batches while others are written."""
        failed: list[str] = []

        def read() -> None:
            for _ in range(60):
                notes = store.load().notes
                count = notes.get("batch", -1) + 1
                if len(notes) != (count + 1 if count else 0):
                    failed.append(f"{count} batches, {len(notes)} notes")

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for number in range(60):
            store.commit(batch(number))
        for reader in readers:
            reader.join()
        assert failed == []
        assert store.check() == []


class TestIds:
    def test_are_fresh(self, store: Store) -> None:
        assert store.job_ids(3) == 1
        assert store.job_ids(1) == 4
        store.commit(Batch(submissions=(submission(4, spec()),)))
        store = reopened(store)
        assert store.job_ids(2) == 5

    def test_of_acknowledged_jobs_are_never_used_again(self, store: Store) -> None:
        """Not even where the jobs' ids did not come from the store, or the jobs were pruned."""
        store.commit(
            Batch(
                submissions=(submission(90, spec(tasks=2), spec()),), endings=tuple(map(ending, ("90_0", "90_1", "91")))
            )
        )
        assert store.prune(100.0) == 3
        assert reopened(store).job_ids(1) == 92

    def test_of_refused_ones_may_be(self, store: Store) -> None:
        store.job_ids(5)
        assert reopened(store).job_ids(1) == 1


class TestJob:
    def test_over_or_not(self, store: Store) -> None:
        jobs = submission(1, spec("a"), spec("b", tasks=2))
        store.commit(Batch(submissions=(jobs,), entries=life("2_1"), endings=(ending("2_1"),)))
        waiting = store.job("1")
        assert waiting is not None
        assert (waiting.submission, waiting.entries, waiting.ending) == (
            attrs.evolve(jobs, jobs=jobs.jobs[:1]),
            (),
            None,
        )
        over = store.job("2_1")
        assert over is not None
        assert (over.submission.jobs, over.entries, over.ending) == (jobs.jobs[2:], life("2_1"), ending("2_1"))

    @pytest.mark.parametrize("job_id", ["2", "9", "1_0", "x", "", "01"])
    def test_one_that_there_is_not(self, store: Store, job_id: str) -> None:
        store.commit(Batch(submissions=(submission(1, spec("a"), spec("b", tasks=2)),)))
        assert store.job(job_id) is None


class TestHistory:
    @pytest.fixture
    def past(self, store: Store) -> Store:
        """40 jobs; two end at each moment. Names a and b, users 1000 and 1001, every fifth FAILED, queues by halves."""
        store.commit(
            Batch(
                submissions=tuple(submission(n, spec("a")) for n in range(1, 41)),
                endings=tuple(
                    ending(
                        str(n),
                        float(n // 2),
                        name="ab"[n % 2],
                        uid=1000 + (n % 3 == 0),
                        state=State.FAILED if n % 5 == 0 else State.COMPLETED,
                        queue="normal" if n <= 20 else "urgent",
                    )
                    for n in range(1, 41)
                ),
            )
        )
        return store

    def ids(self, store: Store, **query: object) -> list[int]:
        return [int(one.job_id) for one in store.endings(HistoryQuery(**query))]  # type: ignore[arg-type]

    @pytest.mark.parametrize("limit", [1, 2, 7, 40, 100])
    def test_pages_have_everything_once_the_newest_first(self, past: Store, limit: int) -> None:
        assert self.ids(past, limit=limit) == list(range(40, 0, -1))

    @pytest.mark.parametrize("limit", [1, 3, 100])
    @pytest.mark.parametrize(
        ("query", "chosen"),
        [
            ({"uid": 1001}, lambda n: n % 3 == 0),
            ({"names": ("b",)}, lambda n: n % 2 == 1),
            ({"names": ("a", "b", "a", "c")}, lambda n: True),
            ({"names": ("a",), "uid": 1001}, lambda n: n % 6 == 0),
            ({"states": (State.FAILED,)}, lambda n: n % 5 == 0),
            ({"states": (State.FAILED, State.COMPLETED, State.TIMEOUT)}, lambda n: True),
            ({"states": (State.FAILED, State.TIMEOUT), "uid": 1001}, lambda n: n % 15 == 0),
            ({"states": (State.FAILED,), "names": ("a", "b")}, lambda n: n % 5 == 0),
            ({"queue": "urgent"}, lambda n: n > 20),
            ({"since": 5.0, "until": 8.0}, lambda n: 5 <= n // 2 < 8),
            (
                {"since": 5.0, "uid": 1001, "names": ("a", "b"), "queue": "normal"},
                lambda n: 10 <= n <= 20 and n % 3 == 0,
            ),
            ({"uid": 7}, lambda n: False),
        ],
    )
    def test_chooses(self, past: Store, query: dict[str, object], chosen: object, limit: int) -> None:
        expected = [n for n in range(40, 0, -1) if chosen(n)]  # type: ignore[operator]
        assert self.ids(past, limit=limit, **query) == expected

    def test_what_ends_meanwhile_moves_nothing(self, past: Store) -> None:
        first = past.history(HistoryQuery(limit=10))
        past.commit(Batch(submissions=(submission(41, spec()),), endings=(ending("41", 99.0),)))
        second = past.history(HistoryQuery(limit=10, after=first.next))
        assert [one.job_id for one in second.endings] == [str(n) for n in range(30, 20, -1)]

    def test_the_last_page_says_so(self, past: Store) -> None:
        assert past.history(HistoryQuery(limit=40)).next == ""
        assert past.history(HistoryQuery(limit=39)).next != ""

    @pytest.mark.parametrize("after", ["x", "1", "1:", ":1", "1.0:99999999999999999999", "e:1", "1:1;", "nan:1"])
    def test_a_bad_cursor_is_the_users_mistake(self, past: Store, after: str) -> None:
        with pytest.raises(UserError, match="no place in the history"):
            past.history(HistoryQuery(after=after))

    def test_recent_ones_the_oldest_first(self, past: Store) -> None:
        assert [one.job_id for one in past.recent(3)] == ["38", "39", "40"]
        assert len(past.recent(1000)) == 40
        assert past.recent(0) == []

    def test_every_walk_has_its_index(self, past: Store) -> None:
        """No page sorts, or looks at what it does not show but for what a filter leaves out."""
        from batchns.store.history import _select, _walks

        for query in (
            HistoryQuery(after="5.0:7"),
            HistoryQuery(uid=1, since=1.0, until=4.0),
            HistoryQuery(names=("a", "b"), uid=1),
            HistoryQuery(states=(State.FAILED, State.TIMEOUT), after="5.0:7"),
            HistoryQuery(queue="normal", after="5.0:7"),
        ):
            for text, values in map(_select, _walks(query)):
                plan = past._reader.execute(f"EXPLAIN QUERY PLAN {text}", (*values, 5)).fetchall()
                assert "B-TREE" not in str(plan), plan
                assert "INDEX ending_" in str(plan), plan


class TestPrune:
    def old(self, store: Store, count: int, first: int = 1) -> None:
        ids = [str(n) for n in range(first, first + count)]
        store.commit(
            Batch(
                submissions=tuple(submission(int(n), spec("a" * 60)) for n in ids),
                entries=tuple(entry for n in ids for entry in life(n)),
                endings=tuple(ending(n, float(n)) for n in ids),
            )
        )

    def tables(self, store: Store) -> dict[str, int]:
        names = ("submission", "job", "open", "edge", "entry", "ending")
        return {name: store._reader.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}

    def test_forgets_with_all_that_belongs_to_it(self, store: Store) -> None:
        self.old(store, 10)
        assert store.prune(6.0) == 5
        assert store.prune(6.0) == 0
        assert [one.job_id for one in store.endings(HistoryQuery())] == ["10", "9", "8", "7", "6"]
        assert store.job("5") is None
        assert self.tables(store) == {"submission": 5, "job": 5, "open": 0, "edge": 0, "entry": 15, "ending": 5}
        assert store.check() == []

    def test_keeps_an_array_until_all_of_it_is_over(self, store: Store) -> None:
        store.commit(
            Batch(submissions=(submission(1, spec(tasks=3)),), endings=(ending("1_0", 1.0), ending("1_2", 2.0)))
        )
        before = store.load()
        assert store.prune(10.0) == 0
        assert store.load() == before
        store.commit(Batch(endings=(ending("1_1", 30.0),)))
        assert store.prune(10.0) == 2
        assert store.prune(100.0) == 1
        assert not any(self.tables(store).values())

    def test_keeps_what_others_depend_on(self, store: Store) -> None:
        """As long as those are there: a waiting job finds what it waits for, however long ago that ended."""
        jobs = submission(1, spec("prep"), spec("rest", after="afterok:prep"))
        store.commit(Batch(submissions=(jobs,), entries=life("1"), endings=(ending("1", 4.0),)))
        before = store.load()
        assert store.prune(100.0) == 0
        assert store.load() == before
        store.commit(Batch(endings=(ending("2", 50.0),)))
        assert store.prune(40.0) == 0
        assert store.prune(100.0) == 1
        assert store.prune(100.0) == 1
        assert not any(self.tables(store).values())

    def test_keeps_the_nodes_last_state(self, store: Store) -> None:
        entries = [Entry(at=float(n), change=Closed(str(n)) if n % 2 else Opened()) for n in range(10)]
        store.commit(Batch(entries=tuple(entries)))
        store.prune(100.0)
        assert store.load().log == (entries[-1],)
        assert self.tables(store)["entry"] == 2

    def test_passes_what_is_kept(self, store: Store) -> None:
        """However much of it there is before what can go."""
        store.commit(
            Batch(
                submissions=(submission(1, spec(tasks=2000)),),
                endings=tuple(ending(f"1_{n}", float(n)) for n in range(1999)),
            )
        )
        store.commit(Batch(submissions=(submission(2, spec()),), endings=(ending("2", 5000.0),)))
        assert store.prune(1e9) == 1
        assert store.prune(1e9) == 0
        assert len(store.recent(5000)) == 1999

    def test_does_it_in_pieces(self, store: Store) -> None:
        """No call blocks for long; the bound is a slow machine's."""
        self.old(store, 6000)
        calls, gone = [], 0
        while True:
            begun = time.perf_counter()
            count = store.prune(1e9)
            calls.append(time.perf_counter() - begun)
            gone += count
            if not count:
                break
        assert gone == 6000
        assert len(calls) > 3
        assert sorted(calls)[len(calls) // 2] < 0.3

    def test_the_file_stays_bounded(self, store: Store) -> None:
        """Room that became free is used again, and given back where there is much of it."""
        sizes = []
        for turn in range(6):
            self.old(store, 1500, first=1 + turn * 1500)
            while store.prune(1e9):
                pass
            sizes.append(store._reader.execute("PRAGMA page_count").fetchone()[0] * 4096)
        assert sizes[-1] < 1.2 * max(sizes[:2]), sizes
        self.old(store, 20_000, first=100_000)
        large = store._reader.execute("PRAGMA page_count").fetchone()[0]
        while store.prune(1e9):
            pass
        for _ in range(200):
            store.prune(1e9)
        assert store._reader.execute("PRAGMA page_count").fetchone()[0] < large / 3


def journal_of(store: Store, *entries: Entry, state: State | None = None) -> list[str]:
    endings = () if state is None else (ending("1", state=state),)
    store.commit(Batch(submissions=(submission(1, spec()),), entries=entries, endings=endings))
    return store.check()


class TestCheck:
    def test_a_good_store(self, store: Store) -> None:
        store.commit(batch(0))
        assert store.check() == []

    def test_an_illegal_transition_is_named(self, store: Store) -> None:
        launch, started, finished = life("1")
        assert journal_of(store, launch, finished, started) == [
            "entry 3: job 1: event 'exited with 0' is illegal in state STARTING"
        ]

    def test_changes_without_a_transition_are_legal(self, store: Store) -> None:
        assert journal_of(store, Entry(at=1.0, change=Prioritised("1", 3)), Entry(at=1.0, change=Held("1"))) == []

    def test_another_end_than_the_journal_has(self, store: Store) -> None:
        assert journal_of(store, *life("1"), state=State.FAILED) == [
            "job 1: ended as FAILED, and its journal as COMPLETED"
        ]

    def test_an_end_that_the_journal_does_not_have(self, store: Store) -> None:
        assert journal_of(store, state=State.CANCELLED) == ["job 1: ended as CANCELLED, and its journal as PENDING"]

    def test_a_cancelled_job(self, store: Store) -> None:
        assert journal_of(store, Entry(at=1.0, change=Finished("1", Event.CANCEL)), state=State.CANCELLED) == []

    @pytest.mark.parametrize(
        ("damage", "expected"),
        [
            ("DELETE FROM submission", "job 2_0: its submission lacks"),
            ("DELETE FROM open", "job 4_0: is neither over nor among those that are not"),
            ("DELETE FROM job WHERE key = 1 << 20", "ending 1: its job lacks"),
            ("DELETE FROM job WHERE key = 1 << 20", "entry 2: its job lacks"),
            ("INSERT INTO open SELECT job FROM ending", "job 1: is over, and among those that are not"),
            ("UPDATE entry SET kind = 'Teleported' WHERE kind = 'Started'", "'Teleported' is not known"),
            ("DELETE FROM entry WHERE kind = 'Started'", "is illegal in state STARTING"),
        ],
    )
    def test_what_does_not_fit_is_named(self, store: Store, damage: str, expected: str) -> None:
        for number in range(2):
            store.commit(batch(number))
        store.close()
        db = sqlite3.connect(store.path)
        db.execute(damage)
        db.commit()
        db.close()
        with Store.open(store.path) as again:
            assert any(expected in text for text in again.check()), again.check()


def test_entries_of_one_kind_take_their_job(store: Store) -> None:
    """The job is a column of its own, and nothing is written for a change that has no more to say."""
    store.commit(Batch(submissions=(submission(7, spec(tasks=2)),), entries=(Entry(at=1.0, change=Started("7_1")),)))
    assert store._reader.execute("SELECT job >> 20, kind, change, data FROM entry").fetchall() == [
        (7, "Started", None, None)
    ]
