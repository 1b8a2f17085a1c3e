"""What is counted of a real schedule's changes, also by a daemon that took it over from another one."""

from __future__ import annotations

import pytest

from batchns.core import changes
from batchns.core.admit import admit, expand
from batchns.core.changes import Change, apply_change
from batchns.core.job import FreezeCause
from batchns.core.node import NodeCapacity
from batchns.core.placement import Placement
from batchns.core.schedule import Schedule
from batchns.metrics.counting import Counting
from batchns.metrics.meters import Meters
from batchns.model.config import Config
from batchns.model.job import JobSpec, Resources
from batchns.model.lifecycle import Event

NODE = NodeCapacity(cpus=(0, 1, 2, 3), memory=8 << 30)
PLACE = Placement(cpus=(0, 1), mems=(0,))


class Counted:
    """Job 1 of ada's has 2 CPUs. `restart`: another daemon counts from here on."""

    def __init__(self) -> None:
        config = Config()
        self.schedule = Schedule(NODE, config)
        spec = JobSpec(name="a", command=("true",), cwd="/", resources=Resources(cpus=2.0), max_retries=3)
        self.schedule.submit(expand(admit([spec], NODE, config), 1, config, 0.0, user="ada"))
        self.restart(0.0)

    def restart(self, now: float) -> None:
        self.meters = Meters()
        self.counting = Counting(meters=self.meters)
        self.counting.begin(["normal"])
        self.counting.adopt((self.schedule[job_id] for job_id in self.schedule.active), now)

    def change(self, now: float, *made: Change) -> None:
        for one in made:
            before = self.schedule["1"]
            apply_change(self.schedule, one, now)
            self.counting.changed(one, before, self.schedule["1"])

    def value(self, name: str, *labels: str) -> float:
        return self.meters.counted().counters[name][labels]


def started() -> Counted:
    world = Counted()
    world.change(10.0, changes.Launched("1", PLACE), changes.Started("1"))
    return world


ALLOCATED = "batchns_user_allocated_cpu_seconds_total"


def test_cpus_had_are_counted_from_the_restart_on() -> None:
    world = started()
    world.restart(110.0)
    world.change(130.0, changes.Finished("1", Event.EXITED_OK))
    assert world.value(ALLOCATED, "ada", "normal") == 40.0
    world = started()
    world.change(130.0, changes.Finished("1", Event.EXITED_OK))
    assert world.value(ALLOCATED, "ada", "normal") == 240.0


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("cause", list(FreezeCause))
def test_a_thaw_has_the_reason_of_its_freeze(cause: FreezeCause, again: bool) -> None:
    world = started()
    world.change(20.0, changes.Freezing("1", cause), changes.FreezeEnded("1", True))
    if again:
        world.restart(25.0)
    place = None if cause is FreezeCause.PAUSE else PLACE
    world.change(30.0, changes.Thawing("1", place))
    world.counting.failed("thaw", world.schedule["1"])
    world.change(31.0, changes.ThawFailed("1", "busy"), changes.Thawing("1"), changes.Thawed("1"))
    assert world.value("batchns_thaws_total", "normal", cause.value) == 1
    assert world.value("batchns_freeze_failures_total", "normal", "thaw", cause.value) == 1


def test_a_freeze_that_was_undone_is_counted() -> None:
    world = started()
    world.change(20.0, changes.Freezing("1", FreezeCause.PREEMPTED))
    world.counting.failed("freeze", world.schedule["1"])
    world.change(25.0, changes.FreezeEnded("1", False))
    assert world.value("batchns_freeze_failures_total", "normal", "freeze", "preempted") == 1
    assert world.value("batchns_freezes_total", "normal", "preempted") == 0


@pytest.mark.parametrize("again", [False, True])
def test_time_in_the_queue_is_that_of_the_attempt(again: bool) -> None:
    world = started()
    world.change(20.0, changes.Finished("1", Event.EXITED_BAD), changes.Requeued("1"))
    if again:
        world.restart(21.0)
    world.change(24.0, changes.Launched("1", PLACE))
    waits = world.meters.counted().distributions["batchns_job_wait_seconds"]["normal",]
    assert waits.sum == (4.0 if again else 14.0)
