"""Moments: begin, deadline, hold, retries; and the agenda that names the next one."""

from __future__ import annotations

import pytest
from core_helpers import GIB, launched, node, schedule_of, settle, spec

from batchns.core.actions import Cancel, Requeue, Stop, Warn
from batchns.core.agenda import Agenda
from batchns.core.job import Cause
from batchns.core.reasons import Why
from batchns.model.config import Bound, Config, Queue
from batchns.model.job import WarnSignal
from batchns.model.lifecycle import Event, State


def test_a_job_begins_no_earlier_than_it_says() -> None:
    schedule = schedule_of([spec(begin_after=60.0)])
    assert settle(schedule, 0.0) == []
    assert schedule.next_deadline() == 60.0
    assert launched(settle(schedule, 60.0)) == ["1"]


def test_a_held_job_starts_when_it_is_released_and_not_twice() -> None:
    schedule = schedule_of([spec(hold=True)])
    assert settle(schedule, 0.0) == []
    schedule.release("1")
    schedule.release("1")
    assert launched(settle(schedule, 1.0)) == ["1"]


def test_a_job_that_cannot_be_over_in_time_is_cancelled() -> None:
    schedule = schedule_of([spec(cpus=4), spec(cpus=4, time_limit=30.0, deadline_after=100.0)], node(4))
    settle(schedule, 0.0)
    assert schedule.next_deadline() == 70.0
    (cancel,) = settle(schedule, 70.0)
    assert isinstance(cancel, Cancel)
    assert cancel.reason.why is Why.DEADLINE


def test_a_job_that_runs_at_its_deadline_is_stopped() -> None:
    schedule = schedule_of([spec(deadline_after=100.0)])
    settle(schedule, 0.0)
    assert settle(schedule, 100.0) == [Stop("1", Cause.DEADLINE)]


def test_a_second_attempt_has_the_deadline_too() -> None:
    schedule = schedule_of([spec(max_retries=1, retry_delay=500.0, deadline_after=100.0)])
    settle(schedule, 0.0)
    schedule.finish("1", Event.EXITED_BAD, 10.0)
    settle(schedule, 10.0)
    assert schedule.next_deadline(10.0) == 100.0
    settle(schedule, 100.0)
    assert schedule["1"].state is State.CANCELLED


def test_a_job_whose_deadline_and_begin_come_together_is_cancelled_only() -> None:
    schedule = schedule_of([spec(begin_after=70.0, time_limit=30.0, deadline_after=100.0)])
    settle(schedule, 0.0)
    assert [type(action) for action in settle(schedule, 70.0)] == [Cancel]


def test_a_warning_comes_before_the_limit_once() -> None:
    schedule = schedule_of([spec(time_limit=60.0, warn=WarnSignal(10, 20.0))])
    settle(schedule, 0.0)
    assert settle(schedule, 40.0) == [Warn("1")]
    assert settle(schedule, 60.0) == [Stop("1", Cause.TIME_LIMIT)]


def test_retries_come_later_each_time() -> None:
    schedule = schedule_of([spec(max_retries=3, retry_delay=10.0)])
    now = 0.0
    for delay in (10.0, 20.0, 40.0):
        settle(schedule, now)
        schedule.finish("1", Event.EXITED_BAD, now)
        assert settle(schedule, now) == [Requeue("1")]
        assert schedule.next_deadline(now) == now + delay
        now += delay


@pytest.mark.parametrize(("bound", "second"), [(None, 6 * GIB), (4 * GIB, 4 * GIB)])
def test_an_attempt_after_out_of_memory_has_more_but_no_more_than_its_queue_allows(
    bound: int | None, second: int
) -> None:
    config = Config(queues={"normal": Queue(per_user=Bound(memory=bound))})
    schedule = schedule_of([spec(memory=3 * GIB, max_retries=1, retry_memory=2.0)], node(4), config)
    settle(schedule, 0.0)
    schedule.finish("1", Event.OOM, 1.0)
    settle(schedule, 1.0)
    assert schedule["1"].state is State.RUNNING
    assert schedule["1"].demand.memory == schedule["1"].bounds.memory == second


def test_what_could_not_be_done_at_its_moment_waits_for_an_event() -> None:
    """Else whoever waits for the next moment would be woken for ever."""
    schedule = schedule_of([spec(time_limit=60.0)])
    settle(schedule, 0.0)
    assert schedule.next_deadline(60.0) is None


def test_an_agenda_has_one_moment_for_each_job() -> None:
    agenda = Agenda()
    agenda.set("a", 3.0)
    agenda.set("b", 2.0)
    agenda.set("a", 1.0)
    assert list(agenda) == [(1.0, "a"), (2.0, "b")]
    assert (agenda.first, agenda.following(1.0), agenda.following(2.0)) == (1.0, 2.0, None)
    agenda.set("a", None)
    assert agenda.until(5.0) == ["b"]
