"""What the policy promises: reservations, bounds on freezing, shares, no starvation, forecasts that come true."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from math import inf

import pytest
from core_helpers import GIB, node, settle, spec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from batchns.core.actions import Freeze
from batchns.core.admit import admit, expand
from batchns.core.decide import decide
from batchns.core.explain import forecast
from batchns.core.node import NodeCapacity
from batchns.core.perform import perform
from batchns.core.schedule import Schedule
from batchns.model.config import Backfill, Config, FairShare, Order, Preemption, Queue, ScheduleSettings
from batchns.model.job import JobSpec, Preempt, PreemptMode
from batchns.model.lifecycle import Event, State

NODE = node(8, memory=64 * GIB)
UNFAIR = FairShare(enabled=False)
FAST = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)


class World:
    """A clock on which jobs end when they have run for their time; everything is done at once."""

    def __init__(self, config: Config, capacity: NodeCapacity = NODE) -> None:
        self.config, self.schedule, self.now, self.submitted = config, Schedule(capacity, config), 0.0, 0
        self.takes: dict[str, float] = {}

    def submit(self, one: JobSpec, takes: float, user: str = "u") -> str:
        self.submitted += 1
        made = expand(
            admit([one], self.schedule.capacity, self.config), self.submitted, self.config, self.now, user=user
        )
        self.schedule.submit(made)
        self.takes[made[0].id] = takes
        return made[0].id

    def ends(self) -> Iterator[tuple[float, str]]:
        for job_id in self.schedule.active:
            job = self.schedule[job_id]
            if job.state is State.RUNNING:
                yield self.now + self.takes[job_id] - job.done(self.now), job_id

    def next_moment(self) -> float:
        moment = self.schedule.next_deadline(self.now)
        return min([end for end, _ in self.ends()] + [inf if moment is None else moment])

    def go_to(self, moment: float) -> None:
        over = [job_id for end, job_id in self.ends() if end <= moment + 1e-6]
        self.now = moment
        for job_id in over:
            self.schedule.finish(job_id, Event.EXITED_OK, moment)

    def decide(self) -> list[object]:
        return list(settle(self.schedule, self.now))

    def run(self, until: float = inf) -> None:
        for _ in range(20_000):
            self.decide()
            moment = self.next_moment()
            if moment > until or moment == inf:
                return
            self.go_to(moment)
        raise AssertionError("it never comes to rest")


Drawn = tuple[int, int, float, str]  # CPUs, time limit in minutes, part of it that it runs, user
drawn = st.lists(
    st.tuples(st.integers(1, 8), st.sampled_from([1, 2, 5, 10, 60]), st.floats(0.05, 1.0), st.sampled_from("uv")),
    min_size=2,
    max_size=14,
)


def submit_all(world: World, jobs: Sequence[Drawn], **more: object) -> list[str]:
    return [
        world.submit(
            spec(cpus=cpus, time_limit=60.0 * minutes, memory=GIB, preempt=Preempt(grace_time=0.0), **more),
            60 * minutes * part,
            user,
        )
        for cpus, minutes, part, user in jobs
    ]


def planned(schedule: Schedule, now: float, waiting: Sequence[str], without: Collection[str] = ()) -> dict[str, float]:
    """From the jobs alone: when each of `waiting` starts if everything takes its limit and they go in this order."""
    running = [job for job in schedule.running if job.id not in without]
    taken = [(now, job.expected_end(now), job.demand.whole) for job in running]
    starts = {}
    for job_id in waiting:
        job = schedule[job_id]
        for begin in sorted({now, *(end for _, end, _ in taken)}):
            moments = [begin, *(first for first, _, _ in taken if begin < first < begin + job.span)]
            if all(
                job.demand.whole + sum(cpus for first, end, cpus in taken if first <= moment < end) <= len(NODE.cpus)
                for moment in moments
            ):
                break
        taken.append((begin, begin + job.span, job.demand.whole))
        starts[job_id] = begin
    return starts


@FAST
@given(jobs=drawn, reservations=st.sampled_from([1, 3, None]), backfill=st.sampled_from(Backfill))
def test_who_goes_ahead_delays_nobody_that_has_a_reservation(jobs, reservations, backfill):
    """1. A decision starts nobody out of order by whom one of the first `reservations` that wait would start later than
    without. 2. The first that waits starts no later than it was told when it came to be the first, whatever ends early.

    Nothing arrives meanwhile. (With early ends the plan of those behind the first may change for the worse: one in
    front of them may find an earlier place that is in their way.)
    """
    chosen = ScheduleSettings(backfill=backfill, reservations=reservations, preempt=Preemption.OFF)
    world = World(Config(schedule=chosen, fair_share=UNFAIR))
    submit_all(world, jobs)
    told: dict[str, float] = {}
    while not world.schedule.finished:
        before = set(world.schedule.active)
        world.decide()
        schedule, now = world.schedule, world.now
        waiting = sorted(schedule.pending, key=lambda job_id: schedule[job_id].order)
        reserved = waiting[: 1 if backfill is Backfill.OFF else reservations]
        for job_id in reserved:
            ahead = [
                one for one in schedule.active if one not in before and schedule[one].order > schedule[job_id].order
            ]
            found, without = (planned(schedule, now, reserved, skipped)[job_id] for skipped in ((), ahead))
            assert found <= without + 1e-6
        for job_id in waiting[:1]:
            assert planned(schedule, now, [job_id])[job_id] <= told.setdefault(job_id, inf) + 1e-6
            told[job_id] = min(told[job_id], planned(schedule, now, [job_id])[job_id])
        world.go_to(world.next_moment())


@FAST
@given(
    jobs=drawn,
    preempt=st.sampled_from([Preemption.QUEUES, Preemption.SHORTER]),
    order=st.sampled_from(Order),
    reservations=st.sampled_from([0, 1, 3]),
    max_frozen=st.sampled_from([60.0, 600.0, 3600.0]),
    time_slice=st.sampled_from([None, 30.0]),
    urgent=drawn,
)
def test_nobody_is_frozen_for_longer_or_more_often_than_promised(
    jobs, preempt, order, reservations, max_frozen, time_slice, urgent
):
    """All have time limits; urgent ones arrive all the time."""
    chosen = ScheduleSettings(
        order=order,
        preempt=preempt,
        reservations=reservations,
        max_frozen=max_frozen,
        max_freezes=3,
        time_slice=time_slice,
    )
    queues = {"normal": Queue(), "urgent": Queue(priority=90, preempts=("normal",))}
    world = World(Config(schedule=chosen, queues=queues, fair_share=UNFAIR))
    submit_all(world, jobs)
    for one in urgent:
        target = world.now + 20.0
        world.run(until=target)
        world.now = target
        submit_all(world, [one], queue="urgent")
        world.decide()
        for job in world.schedule:
            assert job.lent_at(world.now) <= max_frozen + 1e-6
    world.run()
    assert world.schedule.finished
    for job in world.schedule:
        assert job.lent <= max_frozen + 1e-6
        assert job.freezes <= 3


@FAST
@given(
    jobs=drawn, backfill=st.sampled_from(Backfill), reservations=st.sampled_from([0, 1, 3, None]), part=st.floats(0, 1)
)
def test_between_now_and_the_next_deadline_there_is_nothing_to_decide(jobs, backfill, reservations, part):
    """Where ranks do not change by themselves: in order of submission, without fair share; and no freeze is refused
    for a promise, which may be possible a moment later."""
    queues = {"normal": Queue(min_run=50.0), "urgent": Queue(priority=90, preempts=("normal",))}
    chosen = ScheduleSettings(backfill=backfill, reservations=reservations, time_slice=70.0)
    world = World(Config(schedule=chosen, queues=queues, fair_share=UNFAIR))
    half = len(jobs) // 2
    submit_all(world, jobs[:half])
    world.decide()
    submit_all(world, jobs[half:], queue="urgent")
    for _ in range(300):
        world.decide()
        moment = world.next_moment()
        if moment == inf:
            break
        assert decide(world.schedule, world.now + part * (moment - world.now) * 0.999) == []
        world.go_to(moment)
    assert world.schedule.finished


@FAST
@given(
    jobs=drawn,
    order=st.sampled_from(Order),
    backfill=st.sampled_from(Backfill),
    reservations=st.sampled_from([0, 1, None]),
)
def test_a_forecast_comes_true_where_estimates_do(jobs, order, backfill, reservations):
    chosen = ScheduleSettings(order=order, backfill=backfill, reservations=reservations, preempt=Preemption.OFF)
    world = World(Config(schedule=chosen, fair_share=UNFAIR))
    ids = submit_all(world, [(cpus, minutes, 1.0, user) for cpus, minutes, _, user in jobs])
    world.decide()
    expected = {job_id: forecast(world.schedule, job_id, 0.0).expected for job_id in ids}
    while not world.schedule.finished:
        for job_id in ids:
            if world.schedule[job_id].state is State.RUNNING and expected[job_id] is not None:
                assert world.now - world.schedule[job_id].done(world.now) == pytest.approx(
                    expected.pop(job_id), abs=1e-3
                )
                ids = [other for other in ids if other != job_id]
        world.go_to(world.next_moment())
        world.decide()


@pytest.mark.parametrize("preempt", [Preemption.OFF, Preemption.SHORTER])
def test_use_comes_to_what_the_shares_say(preempt):
    """Two users with always enough to do, one with twice the share of the other."""
    fair = FairShare(half_life=20_000.0, shares={"alice": 2.0})
    order = Order.SHORTEST if preempt is Preemption.SHORTER else Order.SUBMITTED
    world = World(Config(schedule=ScheduleSettings(order=order, preempt=preempt), fair_share=fair))
    rng = random.Random(1)
    held = {"alice": 0.0, "bob": 0.0}
    for _ in range(1500):
        waiting = [world.schedule[job_id].user for job_id in world.schedule.pending]
        for user in held:
            for _ in range(8 - waiting.count(user)):
                minutes = rng.choice([5, 10, 20])
                world.submit(spec(cpus=rng.choice([1, 2]), time_limit=minutes * 60.0, memory=GIB), minutes * 50, user)
        world.decide()
        before, moment = world.now, world.next_moment()
        for job in world.schedule.running:
            held[job.user] += (moment - before) * job.demand.whole
        world.go_to(moment)
    assert held["alice"] / held["bob"] == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("preempt", [Preemption.OFF, Preemption.SHORTER])
@pytest.mark.parametrize("reservations", [0, 1])
def test_a_stream_of_short_jobs_does_not_keep_a_long_one_waiting_for_ever(preempt, reservations):
    """Order = shortest: by its age a job comes before those that are shorter."""
    chosen = ScheduleSettings(order=Order.SHORTEST, preempt=preempt, aging=1.0, reservations=reservations)
    world = World(Config(schedule=chosen, fair_share=UNFAIR), node(1))
    world.submit(spec(time_limit=60.0, preempt=Preempt(mode=PreemptMode.OFF)), 60.0)
    world.decide()
    long = world.submit(spec(time_limit=600.0), 600.0)
    for _ in range(2000):
        world.submit(spec(time_limit=60.0, preempt=Preempt(mode=PreemptMode.OFF)), 60.0)
        world.decide()
        if world.schedule[long].state is State.RUNNING:
            break
        world.go_to(world.next_moment())
    assert world.schedule[long].state is State.RUNNING


def test_a_freeze_that_would_break_a_promise_does_not_happen():
    """The urgent job may take longer than the other may be frozen, and would still have all CPUs then."""
    queues = {"normal": Queue(max_frozen=100.0), "urgent": Queue(priority=90, preempts=("normal",))}
    for limit, freezes in ((99.0, 1), (101.0, 0)):
        world = World(Config(queues=queues, fair_share=UNFAIR))
        world.submit(spec(cpus=8, memory=GIB, time_limit=1000.0, preempt=Preempt(grace_time=0.0)), 1000.0)
        world.decide()
        world.submit(spec(cpus=8, memory=GIB, queue="urgent", time_limit=limit, preempt=Preempt(grace_time=0.0)), limit)
        actions = decide(world.schedule, world.now)
        assert sum(isinstance(action, Freeze) for action in actions) == freezes
        for action in actions:
            perform(world.schedule, action, world.now)
        world.run()
        assert world.schedule.finished
