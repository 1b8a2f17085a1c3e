"""What the daemon remembers of its users is bounded, and one user's flood is not another's."""

from __future__ import annotations

from collections import Counter
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from batchns.core.job import Job
from batchns.daemon import keys, submitting
from batchns.daemon.keys import Keys
from batchns.daemon.owners import Owners
from batchns.daemon.register import MOST_KNOWN, Register
from batchns.daemon.service import Peer, Refused
from batchns.daemon.submitting import Submitting
from batchns.model.job import Array, Condition, Dependency, JobSpec
from batchns.store.interface import Submission
from batchns.wire import types as wire

ALICE = Peer(uid=1001, gid=1001, user="alice", admin=False, groups=(1001,))
BOB = Peer(uid=1002, gid=1002, user="bob", admin=False, groups=(1002,))


def answer(number: int, jobs: int = 1) -> wire.Submitted:
    return wire.Submitted(jobs=tuple(wire.SubmittedJob(id=str(number + more), name="a") for more in range(jobs)))


def test_keys_of_one_user_are_bounded_and_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MOST", 3)
    known, notes = Keys(), dict[str, Any]()
    for number in range(5):
        notes |= known.note(ALICE.uid, f"k{number}", answer(number), number)
        known.used(ALICE.uid, f"k{number}", answer(number), number)
    known.used(BOB.uid, "k0", answer(9), 0)
    assert known.answer(ALICE.uid, "k1") is None
    assert known.answer(ALICE.uid, "k2") == answer(2)
    assert known.answer(BOB.uid, "k0") == answer(9)
    assert known.expired(5.0) == [f"key {ALICE.uid} k0", f"key {ALICE.uid} k1"]
    assert known.expired(5.0) == []

    again = Keys()
    again.recall(dict(reversed(notes.items())))
    assert again.answer(ALICE.uid, "k1") is None
    assert again.answer(ALICE.uid, "k4") == answer(4)


def test_answers_that_name_many_jobs_count_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MOST_JOBS", 10)
    known = Keys()
    for number in range(4):
        known.used(ALICE.uid, f"k{number}", answer(number, 4), 0)
    assert [known.answer(ALICE.uid, f"k{number}") is not None for number in range(4)] == [False, False, True, True]


def test_a_key_that_comes_again_after_it_was_dropped_stays() -> None:
    known = Keys()
    known.used(ALICE.uid, "k", answer(1), 0.0)
    assert known.answer(BOB.uid, "k") is None
    assert known.expired(keys.KEPT + 1) == [f"key {ALICE.uid} k"]
    known.used(ALICE.uid, "k", answer(2), keys.KEPT + 1)
    assert known.expired(keys.KEPT + 2) == []
    assert known.answer(ALICE.uid, "k") == answer(2)


def spec(name: str, tasks: int = 0, after: int = 0) -> JobSpec:
    edges = tuple(Dependency(Condition.AFTEROK, f"a{number}") for number in range(after))
    array = Array(tuple(range(tasks))) if tasks else None
    return JobSpec(name=name, command=("true",), cwd="/", dependency=edges, array=array)


def check(specs: list[JobSpec], *, coming: list[Any] | None = None, peer: Peer = ALICE) -> None:
    here = SimpleNamespace(owners=Owners(), _coming=coming or [])
    Submitting._check_flood(here, peer, submitting._Coming(peer.uid, specs))  # type: ignore[arg-type]


def test_dependencies_of_all_tasks_are_counted_before_they_are_made() -> None:
    """An array of 5000 tasks, each of which waits for 1000 jobs, would hold everybody up for half a minute."""
    check([spec("z", tasks=5000, after=20)])
    with pytest.raises(Refused, match="5000000 more would make more than 100000"):
        check([spec("z", tasks=5000, after=1000)])


def test_jobs_that_are_on_their_way_count_but_not_for_others() -> None:
    """Eight requests at a time must not be let in where one would be."""
    way = submitting._Coming(ALICE.uid, [spec("a", tasks=9000)] * 10)
    with pytest.raises(Refused, match="alice has 90000 jobs here"):
        check([spec("b", tasks=10_001)], coming=[way])
    check([spec("b", tasks=10_001)], coming=[way], peer=BOB)
    way.clear()
    check([spec("b", tasks=10_001)], coming=[way])


def test_what_an_owner_has_is_counted_and_forgotten() -> None:
    def job(job_id: str, array_id: str, edges: int) -> Job:
        return SimpleNamespace(id=job_id, array_id=array_id, edges=(None,) * edges)  # type: ignore[return-value]

    owners = Owners()
    jobs = (job("7_0", "7", 3), job("7_1", "7", 3), job("8", "8", 0))
    owners.add(Submission(at=0.0, jobs=jobs, uid=ALICE.uid, user="alice", anchors={}))
    assert (owners.count(ALICE.uid), owners.waits(ALICE.uid)) == (3, 6)
    assert not owners.forget("7", 2)
    assert (owners.count(ALICE.uid), owners.waits(ALICE.uid)) == (1, 0)
    assert owners.forget("8", 1)
    assert (owners.count(ALICE.uid), owners.waits(BOB.uid)) == (0, 0)


class Leaving:
    """As much of a schedule as the register asks of one."""

    def __init__(self, users: dict[str, str]) -> None:
        self.jobs = {
            job_id: SimpleNamespace(id=job_id, array_id=job_id.partition("_")[0], user=user)
            for job_id, user in users.items()
        }
        self.left: set[str] = set(users)
        self.asked = Counter[str]()

    def __contains__(self, job_id: str) -> bool:
        return job_id in self.jobs

    def __getitem__(self, job_id: str) -> Any:
        return self.jobs[job_id]

    def forget(self, job_id: str) -> tuple[str, ...]:
        array_id = self.jobs[job_id].array_id
        self.asked[array_id] += 1
        mine = [one for one, job in self.jobs.items() if job.array_id == array_id]
        if self.left & set(mine):
            return ()
        for one in mine:
            del self.jobs[one]
        return tuple(mine)


class LastArrays:
    """Owners of arrays that are all of their submission."""

    def __init__(self, gone: list[str]) -> None:
        self.gone = gone

    def __getitem__(self, array_id: str) -> Any:
        return SimpleNamespace(key=array_id)

    def forget(self, array_id: str, jobs: int) -> bool:
        self.gone.append(array_id)
        return True


def register(schedule: Leaving) -> tuple[Register, list[str]]:
    gone: list[str] = []
    found = Register(
        recorder=None,  # type: ignore[arg-type]
        owners=LastArrays(gone),  # type: ignore[arg-type]
        hub=SimpleNamespace(row=lambda job: b"", leave=lambda job, row: None),  # type: ignore[arg-type]
        outputs=SimpleNamespace(forget=lambda key: None),  # type: ignore[arg-type]
    )
    hours = count()
    found.books = SimpleNamespace(  # type: ignore[assignment]
        schedule=schedule, accounts=dict.fromkeys(schedule.jobs), clock=lambda: 3600.0 * next(hours)
    )
    return found, gone


def test_a_user_whose_submissions_are_under_way_keeps_no_others_jobs_in_memory() -> None:
    """Two loops that submit all the time would else keep everything that ever ended."""
    schedule = Leaving({"7": "alice", "8": "bob"})
    schedule.left.clear()
    here, gone = register(schedule)
    here.pins["alice"] += 1
    here.over(["7", "8"])
    here.turn_over()
    assert gone == ["8"]
    here.unpin("alice")
    assert not here.pins
    here.turn_over()
    here.turn_over()
    assert gone == ["8", "7"]


def test_an_array_is_looked_at_once_a_turn_however_many_of_its_tasks_are_over() -> None:
    schedule = Leaving({f"7_{task}": "alice" for task in range(100)})
    here, gone = register(schedule)
    for task in range(100):
        schedule.left.discard(f"7_{task}")
        here.over([f"7_{task}"])
        here.turn_over()
    here.turn_over()
    assert gone == ["7"]
    assert schedule.asked["7"] <= 101
    assert not schedule.jobs


def test_jobs_that_are_over_are_known_for_a_while_but_not_too_many_of_them() -> None:
    schedule = Leaving({str(job): "alice" for job in range(MOST_KNOWN + 10)})
    schedule.left.clear()
    here, gone = register(schedule)
    here.books.clock = lambda: 0.0  # type: ignore[method-assign]
    here.over(list(schedule.jobs))
    here.turn_over()
    assert gone == [str(job) for job in range(10)]


def test_locks_of_keys_go_when_nobody_uses_them() -> None:
    async def main() -> None:
        known = Keys()
        async with known.turn(1, "a"), known.turn(2, "a"):
            assert len(known._under_way) == 2
        assert not known._under_way

    trio.run(main)
