"""What people do with single jobs, and with the node: hold, release, freeze, requeue, priorities, close and open."""

from __future__ import annotations

import pytest
from attrs import evolve
from core_helpers import GIB, launched, node, schedule_of, settle, spec, submit

from batchns.core.actions import Freeze, Stop, Thaw
from batchns.core.decide import decide
from batchns.core.explain import explain, forecast
from batchns.core.job import Cause, FreezeCause
from batchns.core.perform import perform
from batchns.core.reasons import Why, render
from batchns.core.schedule import Schedule
from batchns.model.config import Backfill, Config, Preemption, Queue, ScheduleSettings
from batchns.model.lifecycle import Event, IllegalEvent, State

URGENT = Config(queues={"normal": Queue(), "urgent": Queue(priority=90, preempts=("normal",))})


def busy(*more: object, config: Config = URGENT) -> Schedule:
    """Two CPUs, both taken by job 1; `more` waits."""
    schedule = schedule_of([spec(cpus=2, memory=GIB, time_limit=100.0), *more], node(2), config)  # type: ignore[list-item]
    settle(schedule, 0.0)
    return schedule


# Priorities.


def test_a_waiting_job_changes_place() -> None:
    schedule = busy(spec("a", cpus=2, memory=GIB), spec("b", cpus=2, memory=GIB))
    schedule.prioritise("3", 60)
    schedule.finish("1", Event.EXITED_OK, 1.0)
    assert launched(settle(schedule, 1.0)) == ["3"]
    assert (schedule["3"].priority, schedule["2"].priority) == (60, 50)


def test_a_running_job_keeps_its_new_priority_for_a_next_attempt() -> None:
    schedule = busy(spec("a", cpus=2, memory=GIB))
    schedule.prioritise("1", 40)
    schedule.stop("1", Cause.REQUEUED, 1.0)
    schedule.finish("1", Event.CANCEL, 1.0)
    assert launched(settle(schedule, 1.0)) == ["2"]
    assert schedule["1"].state is State.PENDING


def test_a_held_job_stays_held_when_its_priority_changes() -> None:
    schedule = schedule_of([spec(hold=True)], node(2))
    schedule.prioritise("1", 90)
    assert not settle(schedule, 0.0)


# The node is closed.


def test_a_closed_node_starts_nothing_and_what_runs_goes_on() -> None:
    schedule = busy(spec("a", memory=GIB, max_retries=1), spec("b", memory=GIB))
    schedule.finish("1", Event.EXITED_OK, 1.0)
    schedule.close("new disks")
    assert not settle(schedule, 1.0)
    reason = explain(schedule, "2", 1.0)
    assert (reason.why, render(reason)) == (Why.CLOSED, "waits: the node is drained: new disks")
    assert forecast(schedule, "2", 1.0).expected is None
    schedule.open()
    assert launched(settle(schedule, 2.0)) == ["2", "3"]


def test_retries_and_requeues_wait_for_a_closed_node_to_open() -> None:
    schedule = schedule_of([spec("a", memory=GIB, max_retries=1), spec("b", memory=GIB)], node(2))
    settle(schedule, 0.0)
    schedule.close("")
    schedule.finish("1", Event.EXITED_BAD, 1.0)
    schedule.stop("2", Cause.REQUEUED, 1.0)
    schedule.finish("2", Event.CANCEL, 1.0)
    settle(schedule, 1.0)
    assert [schedule[job_id].state for job_id in "12"] == [State.PENDING, State.PENDING]
    assert schedule.next_deadline(1.0) is None
    schedule.open()
    assert launched(settle(schedule, 2.0)) == ["1", "2"]


@pytest.mark.parametrize("backfill", Backfill)
def test_a_closed_node_preempts_nobody_and_thaws_the_frozen(backfill: Backfill) -> None:
    config = evolve(URGENT, schedule=ScheduleSettings(backfill=backfill))
    schedule = busy(config=config)
    submit(schedule, spec("u", cpus=2, memory=GIB, time_limit=10.0, queue="urgent"))
    settle(schedule, 1.0)
    assert schedule["1"].state is State.SUSPENDED
    submit(schedule, spec("v", cpus=2, memory=GIB, time_limit=10.0, queue="urgent"))
    schedule.close("")
    schedule.finish("2", Event.EXITED_OK, 5.0)
    actions = settle(schedule, 5.0)
    assert [type(action) for action in actions] == [Thaw]
    assert not settle(schedule, 6.0)  # job 3 would go first, and take its place
    schedule.open()
    assert [action.job for action in settle(schedule, 7.0) if isinstance(action, Freeze)] == ["1"]


def test_closing_gives_up_a_place_that_is_being_made() -> None:
    schedule = busy()
    submit(schedule, spec("u", cpus=2, memory=GIB, queue="urgent"))
    (freeze,) = decide(schedule, 1.0)
    assert isinstance(freeze, Freeze)
    schedule.freezing("1", 1.0, freeze.cause, by="2", thaw_by=freeze.thaw_by)
    schedule.close("")
    schedule.frozen("1", 1.0, confirmed=True)
    assert [type(action) for action in settle(schedule, 1.0)] == [Thaw]
    assert schedule["1"].state is State.RUNNING


# Hold and release.


def test_a_hold_on_a_running_job_holds_its_next_attempt() -> None:
    schedule = busy()
    schedule.hold("1")
    schedule.stop("1", Cause.REQUEUED, 1.0)
    schedule.finish("1", Event.CANCEL, 2.0)
    settle(schedule, 2.0)
    assert (schedule["1"].state, explain(schedule, "1").why) == (State.PENDING, Why.HELD)
    schedule.release("1")
    assert launched(settle(schedule, 3.0)) == ["1"]


def test_neither_does_anything_to_a_job_that_is_over() -> None:
    schedule = busy()
    schedule.finish("1", Event.EXITED_OK, 1.0)
    assert schedule.hold("1") == schedule.release("1") == schedule["1"]
    assert not schedule["1"].held


# Freeze by the owner.


def test_an_owner_freezes_and_thaws_a_job_whose_cpus_others_use_meanwhile() -> None:
    schedule = busy(spec("a", cpus=2, memory=GIB, time_limit=50.0))
    schedule.freeze("1", 1.0)
    actions = settle(schedule, 1.0)
    assert actions[0] == Freeze("1", FreezeCause.OWNER)
    assert launched(actions) == ["2"]
    assert explain(schedule, "1").why is Why.FROZEN
    schedule.release("1")
    assert explain(schedule, "1").why is Why.RESOURCES
    assert not settle(schedule, 2.0)
    schedule.finish("2", Event.EXITED_OK, 3.0)
    assert [type(action) for action in settle(schedule, 3.0)] == [Thaw]
    assert (schedule["1"].state, schedule["1"].freezes, schedule["1"].lent) == (State.RUNNING, 0, 0.0)


def test_a_thaw_waits_for_its_turn_behind_a_job_of_more_priority() -> None:
    schedule = busy(spec("a", cpus=2, memory=GIB, time_limit=50.0))
    schedule.freeze("1", 1.0)
    settle(schedule, 1.0)
    submit(schedule, spec("b", cpus=2, memory=GIB, priority=60))
    schedule.release("1")
    schedule.finish("2", Event.EXITED_OK, 3.0)
    assert launched(settle(schedule, 3.0)) == ["3"]


def test_a_freeze_is_asked_for_as_soon_as_the_job_runs() -> None:
    schedule = schedule_of([spec(cpus=2)], node(2))
    (launch,) = decide(schedule, 0.0)
    schedule.launch("1", launch.placement, 0.0)  # type: ignore[union-attr]
    schedule.freeze("1", 0.0)
    assert not decide(schedule, 0.0)
    schedule.started("1", 1.0)
    assert decide(schedule, 1.0) == [Freeze("1", FreezeCause.OWNER)]
    schedule.pause()
    assert decide(schedule, 1.0) == [Freeze("1")]
    schedule.resume()
    assert decide(schedule, 1.0) == [Freeze("1", FreezeCause.OWNER)]
    schedule.release("1")
    assert not decide(schedule, 1.0)


def test_a_release_while_the_kernel_is_being_asked_lets_the_job_go_on_where_it_is() -> None:
    schedule = busy()
    schedule.freeze("1", 1.0)
    schedule.freezing("1", 1.0, FreezeCause.OWNER)
    schedule.release("1")
    schedule.frozen("1", 2.0, confirmed=True)
    assert decide(schedule, 2.0) == [Thaw("1")]


def test_an_owner_keeps_a_job_frozen_that_was_frozen_for_another_and_the_promise_is_void() -> None:
    schedule = busy()
    submit(schedule, spec("u", cpus=2, memory=GIB, time_limit=10.0, queue="urgent"))
    settle(schedule, 0.0)
    assert schedule["1"].frozen is not None
    assert schedule["1"].frozen.thaw_by is not None
    schedule.freeze("1", 4.0)
    schedule.finish("2", Event.EXITED_OK, 5.0)
    assert not settle(schedule, 1e6)
    assert schedule["1"].lent == 4.0
    schedule.release("1")
    assert [type(action) for action in settle(schedule, 1e6)] == [Thaw]


def test_a_promise_to_another_frozen_job_holds_when_an_owner_thaws_one() -> None:
    """Job 2 is promised its CPUs; job 1, thawed by its owner, could not be over by then."""
    config = Config(
        queues={"normal": Queue(max_frozen=50.0), "urgent": Queue(priority=90, preempts=("normal",), max_frozen=1e6)},
        schedule=ScheduleSettings(preempt=Preemption.QUEUES),
    )
    schedule = schedule_of([spec("long", cpus=2, memory=GIB, time_limit=1000.0)], node(2), config)
    settle(schedule, 0.0)
    schedule.freeze("1", 0.0)
    settle(schedule, 0.0)
    submit(schedule, spec("n", cpus=2, memory=GIB, time_limit=100.0))
    settle(schedule, 0.0)
    submit(schedule, spec("u", cpus=2, memory=GIB, time_limit=20.0, queue="urgent"))
    settle(schedule, 1.0)
    promised = schedule["2"].frozen
    assert promised is not None
    assert promised.thaw_by is not None
    schedule.release("1")
    schedule.prioritise("1", 100)  # goes before job 2, were it not for the promise
    schedule.finish("3", Event.EXITED_OK, 10.0)
    settle(schedule, 10.0)
    assert schedule["2"].state is State.RUNNING
    assert schedule["1"].state is State.SUSPENDED


@pytest.mark.parametrize("state", ["pending", "over", "stopping"])
def test_what_does_not_run_cannot_be_frozen(state: str) -> None:
    schedule = busy()
    if state == "pending":
        schedule = schedule_of([spec(hold=True)], node(2))
    elif state == "over":
        schedule.finish("1", Event.EXITED_OK, 1.0)
    else:
        schedule.stop("1", Cause.CANCELLED, 1.0)
    before = list(schedule)
    with pytest.raises(IllegalEvent):
        schedule.freeze("1", 1.0)
    assert list(schedule) == before


# Requeue by the owner.


def test_a_requeue_uses_up_no_retry_and_waits_for_no_delay() -> None:
    schedule = schedule_of([spec(cpus=2, memory=GIB, max_retries=1, retry_delay=60.0)], node(2))
    settle(schedule, 0.0)
    for now in (1.0, 2.0, 3.0):
        perform(schedule, Stop("1", Cause.REQUEUED), now)
        schedule.finish("1", Event.CANCEL, now)
        assert launched(settle(schedule, now)) == ["1"]
    job = schedule["1"]
    assert (job.attempt, job.requeues, job.state) == (4, 3, State.RUNNING)
    schedule.finish("1", Event.EXITED_BAD, 4.0)
    assert schedule.to_retry == ("1",)


def test_a_frozen_job_can_be_requeued() -> None:
    schedule = busy()
    schedule.freeze("1", 1.0)
    settle(schedule, 1.0)
    schedule.stop("1", Cause.REQUEUED, 2.0)
    schedule.finish("1", Event.CANCEL, 2.0)
    assert launched(settle(schedule, 2.0)) == ["1"]


def test_a_job_that_was_done_before_it_heard_of_its_requeue_is_done() -> None:
    schedule = busy()
    schedule.stop("1", Cause.REQUEUED, 1.0)
    schedule.finish("1", Event.EXITED_OK, 1.0)
    assert schedule.finished


def test_a_requeue_does_not_bring_back_what_is_being_cancelled_and_a_cancel_ends_what_is_being_requeued() -> None:
    for first, second in ((Cause.CANCELLED, Cause.REQUEUED), (Cause.REQUEUED, Cause.CANCELLED)):
        schedule = busy()
        schedule.stop("1", first, 1.0)
        kill_at = schedule["1"].due()
        schedule.stop("1", second, 3.0)
        assert schedule["1"].due() == kill_at  # nobody has more time for being asked twice
        schedule.finish("1", Event.CANCEL, 4.0)
        assert schedule.finished
