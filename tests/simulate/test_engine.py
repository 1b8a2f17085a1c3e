"""The virtual clock by itself: policies that are written here decide, the real schedule keeps the books."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from attrs import evolve

from batchns.core.actions import Action, Cancel, Freeze, Launch, Requeue, Stop, Thaw
from batchns.core.decide import decide as core_decide
from batchns.core.demand import Demand
from batchns.core.job import Cause, Job
from batchns.core.placement import Placement
from batchns.core.reasons import Reason, Why
from batchns.core.schedule import Schedule
from batchns.errors import UserError
from batchns.model.config import Config, Preemption, ScheduleSettings
from batchns.simulate import engine
from batchns.simulate.engine import Outcome, simulate
from batchns.simulate.swf import read_swf
from batchns.simulate.workload import Workload

from . import generate, reference

Decide = Callable[[Schedule, float], Sequence[Action]]


def workload(*jobs: tuple[float, float, int], limits: Sequence[float | None] = (), cpus: int = 4) -> Workload:
    """(submitted, running, CPUs) of each."""
    return Workload(
        cpus=cpus,
        ids=[f"J{number}" for number in range(len(jobs))],
        submitted=[submitted for submitted, _, _ in jobs],
        running=[running for _, running, _ in jobs],
        limit=limits or [None] * len(jobs),
        demand=[Demand(whole=count) for _, _, count in jobs],
        user=["u"] * len(jobs),
    )


PLAIN = Config(schedule=ScheduleSettings(preempt=Preemption.OFF))


def run(work: Workload, decide: Decide = core_decide, **more: object) -> Outcome:
    return simulate(work, PLAIN, decide=decide, **more)


def test_a_job_starts_when_it_comes_and_ends_when_it_has_run():
    found = run(workload((5, 10, 1)))
    assert (found.started, found.ended, found.ran) == ([5], [15], [10])


def test_a_job_that_has_to_wait_starts_when_the_other_ends():
    found = run(workload((0, 10, 4), (1, 10, 4)))
    assert (found.started, found.ended) == ([0, 10], [10, 20])


def test_a_job_is_stopped_at_its_limit():
    found = run(workload((0, 100, 4), (0, 10, 4), limits=(30, 10)))
    assert (found.started, found.ended, found.ran) == ([0, 30], [30, 40], [30, 10])


def test_a_job_ends_by_itself_where_limit_and_run_time_are_equal():
    """The end comes before the decision at the same moment, so the limit has nobody to stop."""
    stopped = []

    def decide(schedule: Schedule, now: float) -> list[Action]:
        actions = core_decide(schedule, now)
        stopped.extend(action for action in actions if isinstance(action, Stop))
        return actions

    run(workload((0, 10, 4), limits=(10,)), decide)
    assert stopped == []


def test_everything_of_one_moment_happens_before_the_decision():
    """An end and two arrivals at 10 s are one decision, and the end's CPUs are free in it."""
    seen = []

    def decide(schedule: Schedule, now: float) -> list[Action]:
        seen.append((now, len(schedule.pending), len(schedule.active)))
        return core_decide(schedule, now)

    run(workload((0, 10, 4), (10, 5, 2), (10, 5, 2)), decide)
    assert seen == [(0, 1, 0), (10, 2, 0), (15, 0, 0)]


def scripted(*steps: tuple[float, Action]) -> Decide:
    """Launches as the core does, and at these moments (which an arrival or end brings) these actions, once each."""
    left = list(steps)

    def decide(schedule: Schedule, now: float) -> list[Action]:
        due = [step for step in left if step[0] <= now]
        for step in due:
            left.remove(step)
        launches = [action for action in core_decide(schedule, now) if isinstance(action, Launch)]
        return [action for _, action in due] or launches

    return decide


def test_the_policy_is_asked_again_after_anything_but_launches():
    asked = []
    script = scripted((5, Freeze("0")), (6, Thaw("0")))

    def decide(schedule: Schedule, now: float) -> Sequence[Action]:
        asked.append(now)
        return script(schedule, now)

    run(workload((0, 10, 1), (5, 1, 1)), decide)
    assert asked == [0, 5, 5, 6, 6, 11]


def test_a_frozen_job_ends_later_by_the_time_it_was_frozen():
    work = workload((0, 100, 1), (30, 1, 1), (50, 1, 1))
    found = run(work, scripted((30, Freeze("0")), (50, Thaw("0"))), with_segments=True)
    assert found.ended[0] == 120
    assert found.frozen == [20, 0, 0]
    assert found.ran[0] == 100
    assert found.preemptions == 1
    assert [(part.begin, part.end) for part in found.segments if part.number == 0] == [(0, 30), (50, 120)]


def test_a_job_may_be_frozen_again_and_again():
    arrivals = [(moment, 1.0, 1) for moment in (10.0, 20.0, 30.0, 40.0)]
    steps = [(10, Freeze("0")), (20, Thaw("0")), (30, Freeze("0")), (40, Thaw("0"))]
    found = run(workload((0, 100, 1), *arrivals), scripted(*steps))
    assert (found.ended[0], found.frozen[0], found.preemptions) == (120, 20, 2)


def test_a_limit_stands_still_while_a_job_is_frozen():
    work = workload((0, 100, 1), (30, 1, 1), (50, 1, 1), limits=(40, None, None))
    found = run(work, scripted((30, Freeze("0")), (50, Thaw("0"))))
    assert (found.ended[0], found.ran[0]) == (60, 40)


def test_a_job_that_is_stopped_while_frozen_has_run_until_it_was_frozen():
    work = workload((0, 100, 1), (30, 1, 1), (50, 1, 1))
    found = run(work, scripted((30, Freeze("0")), (50, Stop("0", Cause.CANCELLED))), with_segments=True)
    assert (found.ended[0], found.ran[0], found.frozen[0]) == (50, 30, 20)


def test_a_job_that_is_stopped_has_run_until_then():
    found = run(workload((0, 100, 1), (30, 1, 1)), scripted((30, Stop("0", Cause.CANCELLED))))
    assert (found.ended[0], found.ran[0]) == (30, 30)


class Books:
    """A schedule that takes down what it is told: whatever rules it has for another attempt, the clock is the same."""

    finished = True

    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **more: self.told.append(name)

    def next_deadline(self) -> None:
        return None


def test_another_attempt_begins_anew_and_what_was_done_is_lost(monkeypatch):
    books = Books()
    monkeypatch.setattr(engine, "make_schedule", lambda work, config: books)
    place = Placement((0, 1), (0,))
    answers = iter(
        [[Launch("0", place)], [Stop("0", Cause.CANCELLED)], [Requeue("0")], [Launch("0", place)], [], [], []]
    )
    found = run(workload((0, 100, 2), (30, 1, 0)), lambda schedule, now: next(answers))
    assert books.told == [
        *("submit", "launch", "started", "submit", "stop", "finish", "requeue", "launch", "started", "finish")
    ]
    assert (found.started[0], found.ended[0], found.ran[0]) == (0, 130, 100)
    assert (found.lost, found.preemptions) == (60, 1)


def test_a_cancelled_job_never_starts():
    cancel = Cancel("0", Reason(why=Why.DRAINED))
    found = run(workload((0, 100, 1)), lambda schedule, now: [cancel] if schedule.pending else [])
    assert found.started[0] != found.started[0]
    assert (found.ended, found.ran) == ([0], [0])


def test_jobs_that_can_never_start_are_an_error_with_the_reason():
    why = r"1 jobs never end under this policy: job J1 cannot run: cpus 5, this machine has 4"
    with pytest.raises(UserError, match=why):
        run(workload((0, 10, 1), (0, 10, 5)))


def test_a_job_that_stays_frozen_is_an_error():
    with pytest.raises(UserError, match="job J0 stays SUSPENDED"):
        run(workload((0, 10, 1), (5, 10, 1)), scripted((5, Freeze("0"))))


def test_a_policy_that_changes_its_mind_for_ever_is_a_defect_that_is_seen():
    def decide(schedule: Schedule, now: float) -> Sequence[Action]:
        if schedule.active:
            return [Freeze("0"), Thaw("0")]
        return core_decide(schedule, now)

    with pytest.raises(RuntimeError, match="comes to no end at 5 s"):
        run(workload((5, 10, 1)), decide, thorough=True)


def test_the_policy_is_woken_at_its_own_moments(monkeypatch):
    """A moment that no event brings; a moment that has passed wakes nobody for ever."""
    moments = []

    def decide(schedule: Schedule, now: float) -> list[Action]:
        moments.append(now)
        return core_decide(schedule, now)

    monkeypatch.setattr(engine, "next_wake", lambda schedule: 7.0)
    run(workload((0, 10, 1)), decide)
    assert moments == [0, 7, 10]


def test_progress_is_told_now_and_then():
    told: list[int] = []
    simulate(workload(*((0.0, 1.0, 1) for _ in range(5000)), cpus=8), Config(), progress=told.append)
    assert 3 <= len(told) <= 5
    assert all(0 < one < other <= 5000 for one, other in pairwise(told))


def test_jobs_without_limit_or_with_shares_of_a_cpu_run_too():
    work = evolve(workload((0, 10, 1), (0, 10, 1)), demand=[Demand(share=500_000)] * 2, cpus=1)
    assert run(work).started == [0, 0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("policy", ["fcfs", "easy", "easy-sjbf"])
def test_a_textbook_policy_on_this_clock_starts_every_job_when_the_textbook_does(policy, seed):
    """The clock alone: the policy is written here once more, on what the schedule says."""
    jobs = generate.jobs(seed, 500, load=(0.7, 1.2)[seed % 2])
    work = read_swf(generate.swf(jobs).splitlines(keepends=True), "generated")
    assert list(run(work, textbook(policy)).started) == reference.simulate(jobs, generate.CPUS, policy)


def textbook(policy: str) -> Decide:
    """FCFS and EASY as a `decide`; running jobs are known by their launch and their time limit."""

    def decide(schedule: Schedule, now: float) -> list[Action]:
        room, answer = schedule.room(), []
        running = [(schedule[job_id].due(), schedule[job_id].demand.whole) for job_id in schedule.active]
        free = len(schedule.capacity.cpus) - sum(count for _, count in running)
        waiting = sorted((schedule[job_id] for job_id in schedule.pending), key=lambda job: job.order)

        def start(job: Job) -> None:
            nonlocal free
            free -= job.demand.whole
            running.append((now + job.bounds.time_limit, job.demand.whole))
            placement = room.place(job.demand)
            room.take(job.demand, placement)
            answer.append(Launch(job.id, placement))

        while waiting and waiting[0].demand.whole <= free:
            start(waiting.pop(0))
        if not waiting or policy == "fcfs":
            return answer
        shadow, later = now, free
        while later < waiting[0].demand.whole:
            shadow = min(end for end, _ in running if end > shadow)
            later = free + sum(count for end, count in running if end <= shadow)
        spare = later - waiting.pop(0).demand.whole
        if policy == "easy-sjbf":
            waiting.sort(key=lambda job: job.bounds.time_limit)
        for job in waiting:
            count, in_time = job.demand.whole, now + job.bounds.time_limit <= shadow
            if count <= free and (in_time or count <= spare):
                start(job)
                spare -= 0 if in_time else count
        return answer

    return decide


def test_queues_and_names_of_the_workload_are_those_of_the_jobs():
    config = Config()
    work = evolve(workload((0, 10, 1), (0, 10, 1)), queue=["normal", "gone"], name=["a", "b"])
    seen = {}

    def decide(schedule: Schedule, now: float) -> list[Action]:
        seen.update({job.spec.name: job.spec.queue for job in schedule})
        return core_decide(schedule, now)

    simulate(work, config, decide=decide)
    assert seen == {"a": "normal", "b": "normal"}
