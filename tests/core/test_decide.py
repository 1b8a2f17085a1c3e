"""What is started, stopped, retried and cancelled, decided from a schedule and a moment."""

from __future__ import annotations

import time

import pytest
from core_helpers import GIB, launched, node, perform, schedule_of, settle, spec

from batchns.core.actions import Cancel, Kill, Launch, Requeue, Stop, Thaw
from batchns.core.decide import decide
from batchns.core.explain import explain
from batchns.core.job import Cause
from batchns.core.placement import Placement
from batchns.core.reasons import Why, render
from batchns.core.schedule import Schedule
from batchns.model.config import Config, Queue
from batchns.model.lifecycle import Event, IllegalEvent, State


def end(schedule: Schedule, job_id: str, event: Event = Event.EXITED_OK, now: float = 1.0) -> None:
    schedule.finish(job_id, event, now)


def test_queue_then_job_priority_then_submission_decide_who_is_first() -> None:
    config = Config(queues={"normal": Queue(), "urgent": Queue(priority=90)})
    jobs = [spec("a"), spec("b", priority=60), spec("c", queue="urgent", priority=1), spec("d", priority=60)]
    assert launched(decide(schedule_of(jobs, node(4), config), 0.0)) == ["3", "2", "4", "1"]


def test_a_small_job_fills_the_gap_that_a_large_one_cannot_use() -> None:
    schedule = schedule_of([spec(cpus=3), spec(cpus=2, priority=49), spec(cpus=1, priority=48)], node(4))
    assert launched(settle(schedule, 0.0)) == ["1", "3"]
    assert render(explain(schedule, "2")) == "waits for cpus: 2 needed, 0 of 4 free"


def test_memory_holds_a_job_back_although_cpus_are_free() -> None:
    schedule = schedule_of([spec(memory=6 * GIB), spec(memory=4 * GIB)], node(4, memory=8 * GIB))
    assert launched(settle(schedule, 0.0)) == ["1"]
    assert render(explain(schedule, "2")) == "waits for memory: 4GiB needed, 2GiB of 8GiB free"
    end(schedule, "1")
    assert launched(settle(schedule, 1.0)) == ["2"]


def test_no_more_jobs_run_than_there_are_places_for() -> None:
    """Addresses and id ranges may run out before CPUs do."""
    schedule = schedule_of([spec(tasks=3, cpus=0.1)], node(4, jobs=2))
    assert launched(settle(schedule, 0.0)) == ["1_0", "1_1"]
    assert render(explain(schedule, "1_2")) == "waits for jobs: 1 needed, 0 of 2 free"
    end(schedule, "1_0")
    assert launched(settle(schedule, 1.0)) == ["1_2"]


def test_an_array_starts_no_more_tasks_than_its_throttle() -> None:
    """And holds nobody else of the same demand back."""
    schedule = schedule_of([spec("array", tasks=5, throttle=2), spec("other", priority=1)], node(8))
    assert launched(settle(schedule, 0.0)) == ["1_0", "1_1", "2"]
    assert render(explain(schedule, "1_2")) == "waits for its array: 2 tasks at a time"
    end(schedule, "1_1")
    assert launched(settle(schedule, 1.0)) == ["1_2"]


@pytest.mark.parametrize(
    ("condition", "ends", "expected"),
    [
        ("afterok", [Event.EXITED_OK, Event.EXITED_OK], State.RUNNING),
        ("afterok", [Event.EXITED_OK], State.PENDING),
        ("afterok", [Event.EXITED_BAD], State.CANCELLED),
        ("afternotok", [Event.EXITED_OK, Event.EXITED_OK], State.CANCELLED),
        ("afternotok", [Event.EXITED_BAD], State.PENDING),
        ("afternotok", [Event.EXITED_BAD, Event.EXITED_OK], State.RUNNING),
        ("afterany", [Event.OOM], State.PENDING),
        ("afterany", [Event.OOM, Event.EXITED_OK], State.RUNNING),
    ],
)
def test_a_dependency_is_on_all_tasks_of_an_array(condition: str, ends: list[Event], expected: State) -> None:
    schedule = schedule_of([spec("prep", tasks=2), spec("next", after=[f"{condition}:prep"])])
    settle(schedule, 0.0)
    for task, event in enumerate(ends):
        end(schedule, f"1_{task}", event)
    settle(schedule, 1.0)
    assert schedule["2"].state is expected


def test_after_waits_for_the_start_of_every_task() -> None:
    schedule = schedule_of([spec("prep", tasks=2), spec("next", after=["after:prep"])], node(4))
    for action in decide(schedule, 0.0):
        assert isinstance(action, Launch)
        schedule.launch(action.job, action.placement, 0.0)
    assert schedule.started("1_0", 0.0) == []
    assert render(explain(schedule, "2")) == "waits for after:prep"
    assert schedule.started("1_1", 0.0) == ["2"]
    assert launched(decide(schedule, 0.0)) == ["2"]


def test_after_counts_a_job_that_ended_without_having_started() -> None:
    jobs = [
        spec("first"),
        spec("never", after=["afternotok:first"]),
        spec("last", after=["after:never"]),
    ]
    schedule = schedule_of(jobs)
    settle(schedule, 0.0)
    end(schedule, "1")
    settle(schedule, 1.0)
    assert [schedule[job].state for job in "123"] == [State.COMPLETED, State.CANCELLED, State.RUNNING]


def test_a_failure_cancels_the_whole_chain_behind_it() -> None:
    chain = [spec("j0"), *(spec(f"j{n}", after=[f"afterok:j{n - 1}"]) for n in range(1, 50))]
    schedule = schedule_of([*chain, spec("report", after=["afterany:j49"])])
    settle(schedule, 0.0)
    end(schedule, "1", Event.EXITED_BAD)
    performed = settle(schedule, 1.0)
    cancelled = [action for action in performed if isinstance(action, Cancel)]
    assert [action.job for action in cancelled] == [str(n) for n in range(2, 51)]
    assert render(cancelled[0].reason) == "dependency afterok:j0 can never be satisfied"
    assert launched(performed) == ["51"]


def test_a_job_waits_for_all_of_its_dependencies() -> None:
    schedule = schedule_of([spec("a"), spec("b"), spec("c", after=["afterok:a", "afterany:b", "afterok:a"])])
    settle(schedule, 0.0)
    end(schedule, "1")
    assert decide(schedule, 1.0) == []
    end(schedule, "2", Event.EXITED_BAD)
    assert launched(decide(schedule, 1.0)) == ["3"]


def test_retries_come_after_failures_and_keep_dependants_waiting() -> None:
    """Three attempts with max_retries = 2; only the last failure is the job's end."""
    schedule = schedule_of([spec("a", max_retries=2), spec("b", after=["afternotok:a"])])
    settle(schedule, 0.0)
    for attempt, event in enumerate((Event.EXITED_BAD, Event.OOM, Event.LOST), 1):
        assert (schedule["1"].state, schedule["1"].attempt) == (State.RUNNING, attempt)
        assert schedule["2"].state is State.PENDING
        end(schedule, "1", event)
        settle(schedule, 1.0)
    assert schedule["1"].state is State.NODE_FAIL
    assert schedule["2"].state is State.RUNNING


@pytest.mark.parametrize(("cause", "event"), [(Cause.TIME_LIMIT, Event.TIMED_OUT), (Cause.CANCELLED, Event.CANCEL)])
def test_neither_a_timeout_nor_a_cancellation_is_retried(cause: Cause, event: Event) -> None:
    schedule = schedule_of([spec(max_retries=5)])
    settle(schedule, 0.0)
    schedule.stop("1", cause, 1.0)
    end(schedule, "1", event)
    assert decide(schedule, 1.0) == []
    assert schedule.finished


def test_an_end_that_would_come_again_is_not_retried() -> None:
    schedule = schedule_of([spec(max_retries=5)])
    settle(schedule, 0.0)
    schedule.finish("1", Event.EXITED_BAD, 1.0, retry=False)
    assert schedule.finished


def test_the_time_limit_asks_then_kills_after_the_grace() -> None:
    schedule = schedule_of([spec(time_limit=60.0)])
    settle(schedule, 0.0)
    assert schedule.next_deadline() == 60.0
    assert decide(schedule, 59.9) == []
    assert settle(schedule, 60.0) == [Stop("1", Cause.TIME_LIMIT)]
    assert schedule.next_deadline() == 70.0
    assert decide(schedule, 69.9) == []
    assert settle(schedule, 70.0) == [Kill("1")]
    assert schedule.next_deadline() is None


def test_the_time_limit_stands_still_while_frozen() -> None:
    schedule = schedule_of([spec(time_limit=60.0)])
    settle(schedule, 0.0)
    schedule.pause()
    settle(schedule, 50.0)
    assert schedule["1"].state is State.SUSPENDED
    assert schedule.next_deadline() is None
    schedule.resume()
    assert settle(schedule, 1000.0) == [Thaw("1")]
    assert schedule.next_deadline() == 1010.0


def test_each_attempt_has_the_whole_time_limit() -> None:
    schedule = schedule_of([spec(time_limit=60.0, max_retries=1)])
    settle(schedule, 0.0)
    end(schedule, "1", Event.EXITED_BAD, now=50.0)
    settle(schedule, 50.0)
    assert schedule.next_deadline() == 110.0


def test_the_ledger_adds_up_over_freezes_and_attempts() -> None:
    schedule = schedule_of([spec(max_retries=1, cpus=4), spec(cpus=4)], node(4))
    settle(schedule, 0.0)
    schedule.pause()
    settle(schedule, 10.0)
    schedule.resume()
    settle(schedule, 25.0)
    end(schedule, "1", Event.EXITED_BAD, now=30.0)
    settle(schedule, 30.0)
    end(schedule, "1", now=37.0)
    settle(schedule, 37.0)
    end(schedule, "2", now=40.0)
    first, second = schedule["1"].ledger, schedule["2"].ledger
    assert (first.queued, first.running, first.frozen) == (0.0, 22.0, 15.0)
    assert (second.queued, second.running, second.frozen) == (37.0, 3.0, 0.0)


def test_a_pause_freezes_what_runs_and_starts_nothing() -> None:
    schedule = schedule_of([spec(cpus=4), spec(cpus=4)], node(4))
    settle(schedule, 0.0)
    schedule.pause()
    end(schedule, "1")
    assert settle(schedule, 1.0) == []
    assert explain(schedule, "2").why is Why.PAUSED
    schedule.resume()
    assert launched(settle(schedule, 2.0)) == ["2"]


def test_a_freeze_that_failed_is_not_tried_again_before_the_next_pause() -> None:
    schedule = schedule_of([spec()])
    settle(schedule, 0.0)
    schedule.pause()
    schedule.freezing("1", 1.0)
    schedule.frozen("1", 2.0, confirmed=False)
    assert schedule["1"].state is State.RUNNING
    assert decide(schedule, 2.0) == []


def test_a_job_that_starts_during_a_pause_is_frozen_and_one_frozen_too_late_thawed() -> None:
    schedule = schedule_of([spec()])
    schedule.launch("1", Placement((0,), (0,)), 0.0)
    schedule.pause()
    schedule.started("1", 1.0)
    assert list(schedule.to_freeze) == ["1"]
    schedule.freezing("1", 1.0)
    schedule.resume()
    schedule.frozen("1", 2.0, confirmed=True)
    assert decide(schedule, 2.0) == [Thaw("1")]


def test_draining_cancels_what_waits_and_asks_what_runs() -> None:
    schedule = schedule_of([spec(cpus=4, max_retries=3), spec(cpus=4)], node(4))
    settle(schedule, 0.0)
    schedule.drain("interrupted")
    performed = settle(schedule, 1.0)
    assert performed[0] == Stop("1", Cause.CANCELLED)
    assert isinstance(performed[1], Cancel)
    assert render(performed[1].reason) == "interrupted"
    schedule.drain("interrupted", kill=True)
    assert settle(schedule, 1.5) == [Kill("1")]
    end(schedule, "1", Event.EXITED_BAD, now=2.0)
    assert schedule.finished


def test_draining_gives_up_a_retry_that_was_due() -> None:
    schedule = schedule_of([spec("a", max_retries=1), spec("b", after=["afterany:a"])])
    settle(schedule, 0.0)
    end(schedule, "1", Event.EXITED_BAD)
    assert decide(schedule, 1.0) == [Requeue("1")]
    assert [job.id for job in schedule.drain("interrupted")] == ["1"]
    assert [type(action) for action in settle(schedule, 1.0)] == [Cancel]
    assert schedule.finished


def test_an_illegal_event_changes_nothing() -> None:
    schedule = schedule_of([spec()])
    before = schedule["1"]
    with pytest.raises(IllegalEvent):
        schedule.finish("1", Event.EXITED_OK, 1.0)
    assert schedule["1"] is before
    assert launched(settle(schedule, 1.0)) == ["1"]


@pytest.mark.parametrize("kinds", [1, 10_000])
def test_ten_thousand_waiting_jobs_are_decided_upon_in_a_few_milliseconds(kinds: int) -> None:
    """Whether all alike or all different; the best of five, in CPU time: other work may run beside the tests."""
    jobs = [spec(memory=GIB + 4096 * (number % kinds)) for number in range(10_000)]
    schedule = schedule_of(jobs, node(64, memory=512 * GIB))
    seconds = []
    for _ in range(5):
        start = time.process_time()
        actions = decide(schedule, 0.0)
        seconds.append(time.process_time() - start)
        assert launched(actions) == [str(number) for number in range(1, 65)]
    for action in actions:
        perform(schedule, action, 0.0)
    start = time.process_time()
    assert decide(schedule, 0.0) == []
    assert time.process_time() - start < 0.005
    assert min(seconds) < 0.05
