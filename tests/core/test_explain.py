"""Why a job waits: one example of every reason, with its text; and when it is expected to start."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from core_helpers import GIB, node, schedule_of, settle, spec

from batchns.core.decide import decide
from batchns.core.explain import explain, forecast, reasons_of
from batchns.core.job import FreezeCause
from batchns.core.reasons import Why, render
from batchns.core.schedule import Schedule
from batchns.model.config import Backfill, Bound, Config, Queue, ScheduleSettings
from batchns.model.lifecycle import Event

CONFIG = Config(
    queues={
        "normal": Queue(),
        "few": Queue(total=Bound(jobs=1)),
        "each": Queue(per_user=Bound(memory=2 * GIB)),
        "idle": Queue(yields=True),
        "urgent": Queue(priority=90, preempts=("normal",)),
    }
)


def pending(
    *specs: object, more: Callable[[Schedule], None] = lambda schedule: None, config: Config = CONFIG
) -> Schedule:
    schedule = schedule_of(specs, node(4), config)  # type: ignore[arg-type]
    settle(schedule, 0.0)
    more(schedule)
    return schedule


def shrink(schedule: Schedule) -> None:
    schedule.reconfigure(node(2), CONFIG, 1.0)


def drain(schedule: Schedule) -> None:
    schedule.close("new disks")


def fail_to_thaw(schedule: Schedule) -> None:
    schedule.pause()
    settle(schedule, 1.0)
    schedule.resume()
    schedule.thawing("1", None, 2.0)
    schedule.thaw_failed("1", "cpuset.cpus: EIO")


def freeze(schedule: Schedule) -> None:
    schedule.freezing("1", 0.0, FreezeCause.PREEMPTED, by="2", thaw_by=50.0)


def freeze_for_its_owner(schedule: Schedule) -> None:
    schedule.freeze("1", 0.0)
    settle(schedule, 0.0)


full = spec(cpus=4, memory=GIB, time_limit=100.0)
CASES: dict[str, tuple[Why, str, Schedule]] = {
    "dependency": (Why.DEPENDENCY, "waits for afterok:a", pending(spec("a"), spec(after=["afterok:a"]))),
    "singleton": (
        Why.DEPENDENCY,
        "waits for other jobs of its name",
        pending(spec("a"), spec("a", after=["singleton"])),
    ),
    "held": (Why.HELD, "waits: it is held", pending(full, spec(hold=True))),
    "frozen": (Why.FROZEN, "frozen until batchns thaw 1", pending(full, more=freeze_for_its_owner)),
    "begin": (Why.BEGIN, "waits for its time to begin", pending(full, spec(begin_after=60.0))),
    "cpus": (Why.RESOURCES, "waits for cpus: 1 needed, 0 of 4 free", pending(full, spec(memory=GIB))),
    "array": (
        Why.ARRAY_THROTTLE,
        "waits for its array: 1 task at a time",
        pending(spec(tasks=2, throttle=1, memory=GIB), config=CONFIG),
    ),
    "queue": (
        Why.LIMIT,
        "waits for its queue's limit: jobs 1, 1 more needed",
        pending(spec(queue="few", memory=GIB), spec(queue="few", memory=GIB)),
    ),
    "user": (
        Why.LIMIT,
        "waits for its user's limit: memory 2GiB, 1GiB more needed",
        pending(spec(queue="each", memory=2 * GIB), spec(queue="each", memory=GIB)),
    ),
    "paused": (
        Why.PAUSED,
        "waits: everything is paused",
        pending(full, spec(), more=lambda schedule: schedule.pause()),
    ),
    "yielding": (
        Why.YIELDING,
        "waits: the machine is busy with other things",
        pending(full, spec(queue="idle"), more=lambda schedule: schedule.yield_to_others(on=True)),
    ),
    "clearing": (Why.CLEARING, "waits for others to make room", pending(full, spec(cpus=2), more=freeze)),
    "behind": (
        Why.BEHIND,
        "waits: it would delay 2",
        pending(spec(cpus=3, memory=GIB), spec(cpus=4, memory=GIB), spec(memory=GIB, time_limit=1e6)),
    ),
    "drained": (Why.DRAINED, "interrupted", pending(full, spec(), more=lambda schedule: schedule.drain("interrupted"))),  # type: ignore[arg-type,return-value]
    "never": (
        Why.DEPENDENCY_NEVER,
        "dependency afterok:a can never be satisfied",
        pending(
            spec("a", memory=GIB),
            spec(after=["afterok:a"]),
            more=lambda schedule: schedule.finish("1", Event.EXITED_BAD, 1.0),  # type: ignore[arg-type,return-value]
        ),
    ),
    "unfit": (
        Why.UNFIT,
        "cannot run: cpus 4, this machine has 2",
        pending(spec(cpus=4, hold=True), more=lambda schedule: (schedule.release("1"), shrink(schedule))),  # type: ignore[arg-type,return-value]
    ),
    "closed": (Why.CLOSED, "waits: the node is drained: new disks", pending(full, spec(), more=drain)),
    "thaw": (Why.THAW, "cannot be thawed: cpuset.cpus: EIO", pending(full, more=fail_to_thaw)),
    "next": (Why.NEXT, "is next", schedule_of([spec()], node(4), CONFIG)),
}


@pytest.mark.parametrize("name", CASES)
def test_every_reason_has_a_short_text(name: str) -> None:
    why, text, schedule = CASES[name]
    reason = explain(schedule, (*schedule.active, *schedule.pending)[-1], 0.0)
    assert (reason.why, render(reason)) == (why, text)
    assert len(text) <= 60


def test_every_reason_but_one_that_is_told_when_it_cancels_has_an_example() -> None:
    assert {why for why, _, _ in CASES.values()} == set(Why) - {Why.DEADLINE}


def test_a_forecast_names_the_moment_of_a_start() -> None:
    schedule = pending(full, spec(cpus=4, time_limit=50.0), spec(cpus=4))
    assert forecast(schedule, "2", 10.0).expected == 100.0
    assert forecast(schedule, "3", 10.0).expected == 150.0


def test_a_forecast_that_ends_early_says_until_when_it_has_looked() -> None:
    schedule = pending(full, spec(cpus=4, time_limit=50.0), spec(cpus=4))
    whole = forecast(schedule, "3", 10.0)
    assert whole.expected is not None and whole.not_before is None
    for steps in (1, 2):
        short = forecast(schedule, "3", 10.0, steps=steps)
        assert short.expected is None and short.not_before == (10.0, 100.0)[steps - 1]


def test_a_forecast_looks_no_further_than_is_enough() -> None:
    schedule = pending(full, spec(cpus=4, time_limit=50.0), spec(cpus=4))
    for moments, expected in ((1, None), (2, None), (3, 150.0)):
        left = iter(range(moments - 1))
        assert forecast(schedule, "3", 10.0, enough=lambda left=left: next(left, None) is None).expected == expected


def test_a_forecast_takes_what_is_under_way_for_done() -> None:
    """A job that is being started ends one day; one that was asked to end is gone."""
    schedule = schedule_of([full, spec(cpus=4)], node(4), CONFIG)
    (launch,) = decide(schedule, 0.0)
    schedule.launch("1", launch.placement, 0.0)  # type: ignore[union-attr]
    assert forecast(schedule, "2", 0.0).expected == 100.0


def test_a_held_job_is_expected_never() -> None:
    assert forecast(pending(full, spec(hold=True)), "2", 0.0).expected is None


def test_strict_order_says_who_is_first() -> None:
    strict = Config(schedule=ScheduleSettings(backfill=Backfill.OFF))
    schedule = pending(
        spec(cpus=3, memory=GIB), spec(cpus=4, memory=GIB), spec(memory=GIB, time_limit=1.0), config=strict
    )
    assert render(explain(schedule, "3", 0.0)) == "waits: it would delay 2"


def test_the_reasons_of_many_are_those_of_each() -> None:
    queues = ("normal", "idle")
    specs = [
        spec(cpus=2 + n % 2, memory=GIB, hold=n % 7 == 0, queue=queues[n % 2], priority=n, time_limit=60.0)
        for n in range(40)
    ]
    schedule = pending(full, *specs)
    schedule.freeze("1", 0.0)
    settle(schedule, 0.0)
    schedule.release("1")
    waiting = [*schedule.pending, *(job.id for job in schedule.lending)]
    for now in (None, 10.0):
        assert reasons_of(schedule, waiting, now) == {job_id: explain(schedule, job_id, now) for job_id in waiting}
    assert len({reason.behind for reason in reasons_of(schedule, waiting, 10.0).values()}) == 2


def test_the_reasons_of_ten_thousand_cost_little() -> None:
    schedule = pending(full, spec(cpus=2, memory=GIB, tasks=10_000))
    begin = time.perf_counter()
    reasons = reasons_of(schedule, schedule.pending, 10.0)
    assert time.perf_counter() - begin < 0.3, "30 us a job"  # 2 us, on a machine with nothing else to do
    assert len(reasons) == 10_000
