"""How many jobs lack nothing but the next decision: none once it has been made, whatever they wait for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from core_helpers import GIB, node, schedule_of, settle, spec, submit

from batchns.core.schedule import Schedule
from batchns.core.starts import startable
from batchns.model.config import Bound, Config, Order, Queue, ScheduleSettings
from batchns.model.job import JobSpec

QUEUES = {"normal": Queue(), "few": Queue(total=Bound(jobs=1)), "urgent": Queue(priority=90, preempts=("normal",))}
CONFIG = Config(queues=QUEUES)


def small(**more: Any) -> JobSpec:
    return spec(memory=GIB, **more)


def test_those_that_the_next_decision_starts() -> None:
    schedule = schedule_of([small(), small(queue="few"), small(queue="few"), small(cpus=2)], node(4), CONFIG)
    assert startable(schedule, 0.0, 100) == Counter(normal=2, few=1)
    assert startable(schedule, 0.0, 2).total() == 2, "no more are looked at"
    settle(schedule, 0.0)
    assert startable(schedule, 0.0, 100) == Counter()


def closed(schedule: Schedule) -> None:
    schedule.close("new disks")


def test_nobody_who_waits_behind_a_shorter_one() -> None:
    """The order by length is not that in which they came."""
    config = Config(queues=QUEUES, schedule=ScheduleSettings(order=Order.SHORTEST))
    specs = [small(cpus=2, time_limit=1e4), small(cpus=1, time_limit=1e6), small(cpus=4, time_limit=60.0)]
    schedule = schedule_of(specs[:1], node(4), config)
    settle(schedule, 0.0)
    submit(schedule, specs[1], specs[2], now=1.0)
    settle(schedule, 1.0)
    assert [job.id for job in schedule if job.id in schedule.ready] == ["2", "3"]
    assert startable(schedule, 1.0, 100) == Counter()


@pytest.mark.parametrize(
    ("specs", "before"),
    [
        pytest.param([small()], closed, id="drained"),
        pytest.param([small()], lambda schedule: schedule.pause(), id="paused"),
        pytest.param([small(tasks=4, throttle=1)], None, id="throttled"),
        pytest.param([small(queue="few"), small(queue="few")], None, id="limited"),
        pytest.param([small(named={"gpu": 1}), small(named={"gpu": 1})], None, id="named"),
        pytest.param([small(cpus=2, time_limit=1e4), small(cpus=4), small(cpus=2, time_limit=1e6)], None, id="wide"),
        pytest.param([small(cpus=4), small(cpus=4)], None, id="full"),
    ],
)
def test_nobody_who_waits_for_something_else(specs: list[JobSpec], before: Callable[[Schedule], None] | None) -> None:
    schedule = schedule_of(specs, node(4, named={"gpu": 1}), CONFIG)
    if before:
        before(schedule)
    settle(schedule, 0.0)
    assert [job.id for job in schedule if job.id in schedule.ready], "somebody waits"
    assert startable(schedule, 0.0, 100) == Counter()
