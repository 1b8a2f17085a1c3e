"""Jobs make room for others, against a fake kernel: who is frozen when, and what is done before it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, evolve, field
from supervise_fakes import GIB, Behaviour, Bench, bench
from supervise_fakes import spec as any_spec

from batchns.errors import HostError, UserError
from batchns.metrics.counting import Counting
from batchns.metrics.meters import Meters
from batchns.model.config import Config, Neighbour, Queue, ScheduleSettings
from batchns.model.job import JobSpec, Preempt, PreemptMode, WarnSignal
from batchns.model.lifecycle import State
from batchns.model.submitter import Submitter
from batchns.supervise.history import Record

S = State
URGENT = Config(queues={"normal": Queue(), "urgent": Queue(priority=90, preempts=("normal",))})


def spec(folder: Path, name: str, **more: Any) -> JobSpec:
    """A job with little memory: by default each has its CPUs' part of it, and frozen ones keep theirs."""
    return any_spec(folder, name, **{"memory": GIB // 8, **more})


def ledger(here: Bench, results: dict, job_id: str) -> tuple[float, float, float]:
    result = results[job_id]
    return tuple(round(value, 6) for value in (result.queued_seconds, result.running_seconds, result.frozen_seconds))


def reasons(here: Bench, job_id: str) -> list[str]:
    return list(dict.fromkeys(view.reason for _, view in here.watcher.views if view.job_id == job_id and view.reason))


def test_an_urgent_job_freezes_the_other_one_for_as_long_as_it_runs(tmp_path: Path) -> None:
    here = bench(tmp_path, {"long": Behaviour(seconds=20), "hot": Behaviour(seconds=3)}, cpus=1, config=URGENT)
    results = here.run([spec(tmp_path, "long"), spec(tmp_path, "hot", queue="urgent", begin_after=5.0)])
    assert ledger(here, results, "7") == (0, 20, 3)
    assert ledger(here, results, "8") == (5, 3, 0)
    assert here.watcher.states("7") == [
        S.PENDING, S.STARTING, S.RUNNING, S.SUSPENDING, S.SUSPENDED, S.RUNNING, S.COMPLETED
    ]  # fmt: skip
    assert "makes room for 8" in reasons(here, "7")
    assert here.driver.moves == [], "on the CPU that it had"


def test_a_freeze_that_the_kernel_does_not_confirm_costs_the_job_nothing(tmp_path: Path) -> None:
    """The urgent one waits for its end; nothing is tried over and over."""
    scripts = {"long": Behaviour(seconds=20), "hot": Behaviour(seconds=3)}
    here = bench(tmp_path, scripts, cpus=1, config=URGENT, freezes=False)
    meters = Meters()
    here.supervisor.count(Counting(meters=meters))
    results = here.run([spec(tmp_path, "long"), spec(tmp_path, "hot", queue="urgent", begin_after=5.0)])
    failures = meters.counted().counters["batchns_freeze_failures_total"]
    assert failures == {("normal", "freeze", "preempted"): 1}
    assert ledger(here, results, "7") == (0, 20, 0)
    assert ledger(here, results, "8") == (20, 3, 0)
    assert here.watcher.states("7").count(S.SUSPENDING) == 1


def test_it_goes_on_on_another_cpu_that_is_free_before_its_own(tmp_path: Path) -> None:
    scripts = {"short": Behaviour(seconds=7), "long": Behaviour(seconds=20), "hot": Behaviour(seconds=10)}
    here = bench(tmp_path, scripts, cpus=2, config=URGENT)
    jobs = [
        spec(tmp_path, "short", priority=60),
        spec(tmp_path, "long"),
        spec(tmp_path, "hot", queue="urgent", begin_after=5.0),
    ]
    results = here.run(jobs)
    assert ledger(here, results, "8") == (0, 20, 2)
    assert here.driver.moves == [("abcde-1", "0", "0")]
    assert results["8"].limits["cpuset_cpus"].value == "0"


def test_one_that_could_not_be_moved_never_runs_on_the_cpus_that_are_others_now(tmp_path: Path) -> None:
    scripts = {"short": Behaviour(seconds=7), "long": Behaviour(seconds=20), "hot": Behaviour(seconds=10)}
    here = bench(tmp_path, scripts, cpus=2, config=URGENT, move_failures=2)
    jobs = [
        spec(tmp_path, "short", priority=60),
        spec(tmp_path, "long"),
        spec(tmp_path, "hot", queue="urgent", begin_after=5.0),
    ]
    results = here.run(jobs)
    assert here.driver.thawed_on == [("abcde-1", "0")]
    assert ledger(here, results, "8") == (0, 20, 4)


def test_a_thaw_is_tried_again_until_it_is_confirmed(tmp_path: Path) -> None:
    scripts = {"long": Behaviour(seconds=20), "hot": Behaviour(seconds=3)}
    here = bench(tmp_path, scripts, cpus=1, config=URGENT, thaw_failures=2)
    results = here.run([spec(tmp_path, "long"), spec(tmp_path, "hot", queue="urgent", begin_after=5.0)])
    assert ledger(here, results, "7") == (0, 20, 5)


def test_memory_is_taken_from_a_frozen_job_and_given_back_before_it_runs(tmp_path: Path) -> None:
    scripts = {"long": Behaviour(seconds=20), "hot": Behaviour(seconds=6), "more": Behaviour(seconds=2)}
    here = bench(tmp_path, scripts, cpus=2, config=URGENT, squeezed_to=GIB // 4)
    jobs = [
        spec(tmp_path, "long", cpus=2, memory=GIB),
        spec(tmp_path, "hot", queue="urgent", memory=3 * GIB // 4, begin_after=5.0),
        spec(tmp_path, "more", queue="urgent", memory=3 * GIB // 4, begin_after=6.0),
    ]
    results = here.run(jobs)
    assert ledger(here, results, "9") == (6, 2, 0), "it had not to wait for the first one"
    assert ledger(here, results, "7") == (0, 20, 6)
    assert here.driver.thawed_with == [GIB], "its own limit again, before it ran"


def test_nothing_spins_where_a_frozen_job_is_due_and_cannot_go_on(tmp_path: Path) -> None:
    """The one that took its CPU says that it may not be frozen: on this clock a loop without a pause would hang."""
    config = evolve(URGENT, schedule=ScheduleSettings(max_frozen=20.0, assume=1.0))
    scripts = {"long": Behaviour(seconds=20), "hot": Behaviour(seconds=30)}
    here = bench(tmp_path, scripts, cpus=1, config=config)
    off = Preempt(mode=PreemptMode.OFF)
    results = here.run([spec(tmp_path, "long"), spec(tmp_path, "hot", queue="urgent", begin_after=5.0, preempt=off)])
    assert ledger(here, results, "7") == (0, 20, 30)


def test_a_requeued_job_starts_anew_and_uses_up_no_retry(tmp_path: Path) -> None:
    scripts = {"long": [Behaviour(seconds=20), Behaviour(seconds=4)], "hot": Behaviour(seconds=3)}
    here = bench(tmp_path, scripts, cpus=2, config=URGENT)
    again = Preempt(mode=PreemptMode.REQUEUE)
    jobs = [
        spec(tmp_path, "long", memory=3 * GIB // 2, preempt=again),
        spec(tmp_path, "hot", queue="urgent", memory=GIB, begin_after=5.0),
    ]
    results = here.run(jobs)
    assert (results["7"].state, results["7"].attempts) == (S.COMPLETED, 2)
    assert ledger(here, results, "8") == (5, 3, 0)
    assert "made room for job 8" in reasons(here, "7")


def test_a_job_is_warned_once_some_time_before_its_limit(tmp_path: Path) -> None:
    here = bench(tmp_path, {"job": Behaviour(seconds=100, ignores_sigterm=True)})
    results = here.run([spec(tmp_path, "job", time_limit=10.0, warn=WarnSignal(10, 4.0))])
    assert [(when, number) for when, _, number in here.host.signals][:2] == [(6.0, 10), (10.0, 15)]
    assert results["7"].state is S.TIMEOUT


@define
class Machine:
    """What others use of the CPUs, by moment: (from, how many)."""

    uses: list[tuple[float, float]]

    def sample(self, now: float) -> float | None:
        return next((cpus for since, cpus in reversed(self.uses) if since <= now), None)


def test_jobs_that_yield_are_frozen_while_others_are_busy_and_the_rest_is_not(tmp_path: Path) -> None:
    config = Config(
        queues={"normal": Queue(), "idle": Queue(yields=True)},
        neighbour=Neighbour(freeze_above=0.5, thaw_below=0.25, seconds=3.0),
    )
    scripts = {"polite": Behaviour(seconds=30), "other": Behaviour(seconds=30)}
    here = bench(tmp_path, scripts, cpus=4, config=config)
    here.supervisor.sampler = Machine([(0, 0.0), (5, 3.0), (15, 0.5)])
    results = here.run([spec(tmp_path, "polite", queue="idle"), spec(tmp_path, "other")])
    queued, running, frozen = ledger(here, results, "7")
    assert (queued, running, frozen) == (0, 30, 10), "from 5 + 3 s on, to 15 + 3 s"
    assert ledger(here, results, "8") == (0, 30, 0)
    assert "the machine is busy with other things" in reasons(here, "7")


@define
class Shelf:
    """A history in memory; `broken`: that cannot be written."""

    broken: bool = False
    past: list[Record] = field(factory=list)
    records: list[Record] = field(factory=list)

    def append(self, *records: Record) -> None:
        if self.broken:
            raise HostError("history.jsonl: No space left on device", "free some space there")
        self.records += records

    def recent(self, limit: int) -> list[Record]:
        return self.past[-limit:]


def test_what_each_attempt_took_is_kept(tmp_path: Path) -> None:
    scripts = {"long": Behaviour(seconds=20), "hot": [Behaviour(seconds=1, exit_code=3), Behaviour(seconds=3)]}
    here = bench(tmp_path, scripts, cpus=1, config=URGENT)
    shelf = here.supervisor._chronicle.keeper = Shelf()
    here.supervisor._chronicle.wall = lambda: 1000 + trio.current_time()
    here.run([spec(tmp_path, "long"), spec(tmp_path, "hot", queue="urgent", begin_after=5.0, max_retries=1)])
    found = {(one.job_id, one.state): (one.running_seconds, one.frozen_seconds, one.ended) for one in shelf.records}
    assert found == {
        ("8", S.FAILED): (1, 0, 1006),
        ("8", S.COMPLETED): (3, 0, 1009),
        ("7", S.COMPLETED): (20, 4, 1024),
    }


def test_a_history_that_cannot_be_written_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    here = bench(tmp_path, cpus=1)
    told: list[str] = []
    here.supervisor._chronicle.keeper = Shelf(broken=True)
    here.supervisor._chronicle.tell = told.append
    results = here.run([spec(tmp_path, "many", tasks=5)])
    assert {result.state for result in results.values()} == {S.COMPLETED}
    assert told == ["the history is not kept: history.jsonl: No space left on device - free some space there"]


def test_a_queue_is_for_those_that_it_names(tmp_path: Path) -> None:
    config = Config(queues={"normal": Queue(), "hers": Queue(users=("ada",))})
    for name, fine in (("ada", True), ("bob", False), ("root", True)):
        here = bench(tmp_path, cpus=1, config=config)
        here.supervisor.submitter = Submitter(name=name, uid=0 if name == "root" else 1000, gid=1000, groups=(1000,))
        if fine:
            here.run([spec(tmp_path, "job", queue="hers")])
        else:
            with pytest.raises((UserError, BaseExceptionGroup), match="is not for bob") as raised:
                here.run([spec(tmp_path, "job", queue="hers")])
            assert here.host.launched == []
            assert "choose from normal" in str(raised.value)
