"""Why a job waits: one example of every reason, with its text; and when it is expected to start."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from core_helpers import GIB, node, schedule_of, settle, spec

from batchns.core.decide import decide
from batchns.core.explain import explain, forecast
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


def freeze(schedule: Schedule) -> None:
    schedule.freezing("1", 0.0, FreezeCause.PREEMPTED, by="2", thaw_by=50.0)


full = spec(cpus=4, memory=GIB, time_limit=100.0)
CASES: dict[str, tuple[Why, str, Schedule]] = {
    "dependency": (Why.DEPENDENCY, "waits for afterok:a", pending(spec("a"), spec(after=["afterok:a"]))),
    "singleton": (
        Why.DEPENDENCY,
        "waits for other jobs of its name",
        pending(spec("a"), spec("a", after=["singleton"])),
    ),
    "held": (Why.HELD, "waits: it is held", pending(full, spec(hold=True))),
    "begin": (Why.BEGIN, "waits for its time to begin", pending(full, spec(begin_after=60.0))),
    "cpus": (Why.RESOURCES, "waits for cpus: 1 needed, 0 of 4 free", pending(full, spec(memory=GIB))),
    "array": (
        Why.ARRAY_THROTTLE,
        "waits for its array: 1 tasks at a time",
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
    "next": (Why.NEXT, "is next", schedule_of([spec()], node(4), CONFIG)),
}


@pytest.mark.parametrize("name", CASES)
def test_every_reason_has_a_short_text(name: str) -> None:
    why, text, schedule = CASES[name]
    reason = explain(schedule, schedule.pending[-1], 0.0)
    assert (reason.why, render(reason)) == (why, text)
    assert len(text) <= 60


def test_every_reason_but_one_that_is_told_when_it_cancels_has_an_example() -> None:
    assert {why for why, _, _ in CASES.values()} == set(Why) - {Why.DEADLINE}


def test_a_forecast_names_the_moment_of_a_start() -> None:
    schedule = pending(full, spec(cpus=4, time_limit=50.0), spec(cpus=4))
    assert forecast(schedule, "2", 10.0).expected == 100.0
    assert forecast(schedule, "3", 10.0).expected == 150.0


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
