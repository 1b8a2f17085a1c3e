"""Making room for a job that goes first: who is frozen, squeezed or ended for it.

1. Only what a freeze really frees counts: CPUs and bandwidth. Memory, named resources and places stay with the frozen.
2. Nothing is done to anybody that would not let the waiting job start.
3. Least loss first: freeze; then take from frozen jobs memory that they can do without; then end those whose jobs say
   `requeue` or `cancel`. A job's mode is the furthest that one goes with it.
4. Nobody is frozen more often, or for longer, than the bounds say. Where time limits are known that is a promise with a
   plan behind it (promises.py).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Container, Iterator
from itertools import accumulate
from math import inf

from attrs import evolve, frozen

from batchns.core.actions import Action, Freeze, Reclaim, Stop
from batchns.core.demand import Demand
from batchns.core.job import Cause, FreezeCause, Job, Order
from batchns.core.placement import Room
from batchns.core.promises import Promise, Promises, used
from batchns.core.rank import Ranking
from batchns.core.schedule import Schedule
from batchns.model.config import Order as Length
from batchns.model.config import Preemption
from batchns.model.job import PreemptMode
from batchns.model.lifecycle import State

_TRIES = 12  # victims that a promise protects, before it is given up for this time: a bound on what a decision costs
_MOMENT = 1e-6


@frozen
class Claim:
    """The job that room is to be made for: what it wants, until when it may need it, and why it may."""

    job: Job
    demand: Demand
    end: float
    overdue: bool  # it is frozen, and its time to go on has come


class Preemptor:
    """Of one decision. `room`: what is free, and is not changed."""

    def __init__(self, schedule: Schedule, now: float, ranking: Ranking, started: Container[str]) -> None:
        """`started`: jobs that this decision has started, or let go on, so far."""
        self._schedule = schedule
        self._now = now
        self._ranking = ranking
        self._started = started
        settings = schedule.settings
        self._shorter = settings.preempt is Preemption.SHORTER and settings.order is Length.SHORTEST
        self._queues = settings.preempt is not Preemption.OFF
        self._slice = settings.time_slice
        self.any = (
            self._shorter
            or self._slice is not None
            or (self._queues and any(queue.preempts for queue in schedule.config.queues.values()))
        )
        self._promises: Promises | None = None
        self._longest: dict[str, _Longest] = {}
        self._hopeful: dict[tuple[str, int], float] = {}

    def may(self, queue: str) -> bool:
        """Whether a job of that queue could take anybody's place."""
        return self._shorter or self._slice is not None or self._preempts(queue)

    def hopeful(self, queue: str, cpus: int) -> float:
        """Seconds: only a job of the queue of which less remains could get so many CPUs of others, in any way."""
        found = self._hopeful.get((queue, cpus))
        if found is None:
            if self._slice is not None or self._preempts(queue):
                found = inf
            else:
                found = self._longest_of(queue).shortest_of(cpus) if self._shorter else -inf
            self._hopeful[queue, cpus] = found
        return found

    def make_room(self, claim: Claim, room: Room) -> list[Action]:
        """What is to be done, all of it, so that the job can start; nothing where that cannot be had."""
        demand = claim.demand
        kept = demand.jobs <= room.jobs and all(count <= room.named.get(name, 0) for name, count in demand.named)
        if kept and demand.memory <= room.memory:
            return self._freeze(claim, room) or self._end(claim, room)
        if kept and room.fits(demand.with_memory(0)):
            if self._schedule.squeezed:
                return []  # how much they give is to be heard first
            if reclaims := self._reclaim(claim, room):
                return reclaims
        return self._end(claim, room)

    # Freezing.

    def _freeze(self, claim: Claim, room: Room) -> list[Action]:
        below = sorted(self._victims(claim), key=_least_loss)
        actions = self._freeze_some(claim, room, below, spare_last=True)
        if actions or not self._shorter or claim.overdue:
            return actions
        longer = self._longest_of(claim.job.spec.queue).longer_than(self._ranking.remaining(claim.job))
        candidates = [job for job in longer if self._not_before(job, claim.job)]
        return self._freeze_some(claim, room, candidates, spare_last=False)

    def _freeze_some(self, claim: Claim, room: Room, candidates: list[Job], *, spare_last: bool) -> list[Action]:
        """As many of them, in their order, as are needed, within what was promised to the frozen.

        `spare_last`: where one turns out not to be needed, of several the last is spared, else the first.
        """
        if not candidates or not _enough(claim.demand, room, candidates):
            return []
        promises = self.promises()
        before = promises.snapshot()
        chosen = self._choose(claim, room, candidates, promises, spare_last=spare_last)
        if chosen and self._memory_allows([job for job, _ in chosen]) and (promises.kept() or claim.overdue):
            return [Freeze(job.id, FreezeCause.PREEMPTED, claim.job.id, thaw_by) for job, thaw_by in chosen]
        promises.restore(before)
        return []

    def _choose(
        self, claim: Claim, room: Room, candidates: list[Job], promises: Promises, *, spare_last: bool
    ) -> list[tuple[Job, float]]:
        """Victims that together are enough, none of them for nothing, each with its promise."""
        trial, chosen, refused = room.copy(), dict[str, tuple[Job, float]](), 0
        promises.force(claim.job.id, claim.end, used(claim.job.demand))
        for victim in candidates:
            left = max(victim.span - victim.done(self._now), 1.0) + victim.bounds.grace_time
            thaw_by = promises.freeze(victim.id, left, self._latest(victim))
            if thaw_by is None:
                refused += 1
                if refused > _TRIES:
                    return []
                continue
            chosen[victim.id] = (victim, thaw_by)
            _give_lent(trial, victim)
            if trial.fits(claim.demand):
                break
        else:
            return []
        for victim, _ in reversed(list(chosen.values())) if spare_last else list(chosen.values()):
            assert victim.placement is not None
            trial.take(victim.demand.to_thaw(), victim.placement)
            if trial.fits(claim.demand) and promises.start(victim.id, victim.over(self._now), used(victim.demand)):
                del chosen[victim.id]
            else:
                trial.give(victim.demand.to_thaw(), victim.placement)
        return list(chosen.values())

    def promises(self) -> Promises:
        """What runs and what was promised now."""
        if self._promises is None:
            now = self._now
            running = [(job.id, job.over(now), used(job.demand)) for job in self._schedule.running]
            frozen_ = []
            for job in self._schedule.lending:
                kept = job.demand.memory if job.held_memory is None else job.held_memory
                if (thaw_by := self._schedule.promised(job)) is not None:
                    left = max(job.span - job.done(now), 1.0) + job.bounds.grace_time
                    frozen_.append((job.id, Promise.of(job.demand, thaw_by, left, kept)))
                else:
                    running.append((job.id, inf, (0, 0, 0, kept)))
            self._promises = Promises(now, self._schedule.capacity, running, frozen_)
        return self._promises

    def _latest(self, victim: Job) -> float:
        return self._now + max(self._schedule.max_frozen(victim) - victim.lent, 0.0)

    def _longest_of(self, queue: str) -> _Longest:
        found = self._longest.get(queue)
        if found is None:
            running = [job for job in self._schedule.running if job.spec.queue == queue and self._may_be_frozen(job)]
            ranked = [(-self._ranking.remaining(job), job.order, job) for job in running]
            found = self._longest[queue] = _Longest(sorted(ranked, key=lambda entry: entry[:2]))
        return found

    # Who.

    def _preempts(self, queue: str) -> bool:
        return self._queues and bool(self._schedule.queue(queue).preempts)

    def _victims(self, claim: Claim) -> Iterator[Job]:
        """Running jobs that may be frozen for it, whatever their length."""
        if claim.overdue or self._slice is not None or self._preempts(claim.job.spec.queue):
            for job in self._schedule.running:
                if self._may_be_frozen(job) and self._freezable(job, claim) and self._below(job, claim):
                    yield job

    def _below(self, job: Job, claim: Claim) -> bool:
        mine = claim.job
        if claim.overdue or self._below_queue(job, claim):
            return True
        if self._slice is None or job.spec.queue != mine.spec.queue or job.order[1] != mine.order[1]:
            return False
        return self._ran(job) >= self._slice

    def _may_be_frozen(self, job: Job) -> bool:
        """By anybody."""
        if job.state is not State.RUNNING or job.mode is PreemptMode.OFF or job.unfreezable:
            return False
        if job.freezes >= self._schedule.settings.max_freezes or job.lent >= self._schedule.max_frozen(job):
            return False
        return self._ran(job) >= self._schedule.min_run(job)

    def _freezable(self, job: Job, claim: Claim) -> bool:
        """Whether it is not more important than the one that room is made for."""
        return job.order[:2] >= claim.job.order[:2] or claim.overdue or self._below_queue(job, claim)

    def _not_before(self, job: Job, mine: Job) -> bool:
        """Of the same queue: whether neither job priority nor fair share puts it first."""
        return job.order[1] >= mine.order[1] and self._ranking.used_by(job.user) >= self._ranking.used_by(mine.user)

    def _below_queue(self, job: Job, claim: Claim) -> bool:
        return self._queues and job.spec.queue in self._schedule.queue(claim.job.spec.queue).preempts

    def _ran(self, job: Job) -> float:
        """Seconds since it was last started or thawed; a moment more: sums of fractions are not to the last digit."""
        since = 0.0 if job.state is State.SUSPENDED else self._now - job.ledger.since
        return job.ledger.running - job.stretch + since + _MOMENT

    def _memory_allows(self, victims: list[Job]) -> bool:
        """Whether frozen jobs would hold no more memory together than they may."""
        held = frozen_memory(self._schedule) + sum(victim.demand.memory for victim in victims)
        return held <= most_frozen_memory(self._schedule)

    # More than freezing.

    def _reclaim(self, claim: Claim, room: Room) -> list[Action]:
        """From as many frozen jobs as could make it up, if all that they hold could be had, and given back in time."""
        lack, actions = claim.demand.memory - room.memory, list[Action]()
        promises = self.promises()
        before = promises.snapshot()
        promises.force(claim.job.id, claim.end, used(claim.job.demand))
        for job in self._schedule.lending:
            if job.held_memory is not None or job.state is not State.SUSPENDED or job.id in self._started:
                continue
            if job.id == claim.job.id:
                continue
            promises.squeeze(job.id, min(lack, job.demand.memory))
            if not promises.kept():
                break
            actions.append(Reclaim(job.id))
            lack -= job.demand.memory
            if lack <= 0:
                promises.restore(before)
                return actions
        promises.restore(before)
        return []

    def _end(self, claim: Claim, room: Room) -> list[Action]:
        """End those that said so: `requeue` before `cancel`, the least work lost first."""
        if not self._preempts(claim.job.spec.queue):
            return []
        names = set(self._schedule.queue(claim.job.spec.queue).preempts)
        active = (self._schedule[job_id] for job_id in self._schedule.active)
        victims = [
            job
            for job in active
            if job.spec.queue in names
            and job.mode in (PreemptMode.REQUEUE, PreemptMode.CANCEL)
            and job.state in (State.RUNNING, State.SUSPENDED)
            and job.id not in self._started
            and self._ran(job) >= self._schedule.min_run(job)
        ]
        victims.sort(key=lambda job: (job.mode is PreemptMode.CANCEL, *_least_loss(job)))
        trial, chosen = room.copy(), list[Job]()
        for victim in victims:
            _give_all(trial, victim)
            chosen.append(victim)
            if trial.fits(claim.demand):
                return [
                    Stop(job.id, Cause.PREEMPTED, claim.job.id)
                    for job in _needed(claim.demand, room, chosen, _give_all)
                ]
        return []


def frozen_memory(schedule: Schedule) -> int:
    """Bytes that jobs which lend their CPUs keep from others: their limits, or what they were squeezed to."""
    return sum(job.demand.memory if job.held_memory is None else job.held_memory for job in schedule.lending)


def most_frozen_memory(schedule: Schedule) -> int:
    """Bytes of that beyond which nobody else is frozen for another job."""
    most = schedule.settings.frozen_memory
    return schedule.capacity.memory // 2 if most is None else most


class _Longest:
    """Running jobs of one queue that may be frozen, the longest first: (-seconds that remain, order, job)."""

    def __init__(self, ranked: list[tuple[float, Order, Job]]) -> None:
        self._jobs = [job for _, _, job in ranked]
        self._ranks = [rank for rank, _, _ in ranked]
        self._cpus = [0, *accumulate(job.demand.whole or 1 for job in self._jobs)]

    def longer_than(self, rank: float) -> list[Job]:
        return self._jobs[: bisect_left(self._ranks, -rank)]

    def shortest_of(self, cpus: int) -> float:
        """Seconds that remain of the shortest one of those, the longest first, that have so many CPUs; -inf: none."""
        count = bisect_left(self._cpus, cpus)
        return -self._ranks[count - 1] if count <= len(self._ranks) else -inf


def _enough(demand: Demand, room: Room, candidates: list[Job]) -> bool:
    """Whether it would fit if all of them were frozen."""
    if demand.whole and not (demand.cpuset or demand.egress or demand.ingress):
        lack = demand.whole - room.idle  # the common case: CPUs are counted, and the first few are enough
        for victim in candidates:
            lack -= victim.demand.whole
            if lack <= 0:
                return True
    total = room.copy()
    for victim in candidates:
        _give_lent(total, victim)
    return total.fits(demand)


def _give_lent(room: Room, victim: Job) -> None:
    assert victim.placement is not None
    room.give(victim.demand.to_thaw(), victim.placement)


def _give_all(room: Room, victim: Job) -> None:
    assert victim.placement is not None
    if victim.lends:
        held = victim.demand.memory if victim.held_memory is None else victim.held_memory
        room.give(victim.demand.kept(held), evolve(victim.placement, cpus=(), mems=()))
    else:
        room.give(victim.demand, victim.placement)


def _needed(demand: Demand, room: Room, chosen: list[Job], give: Callable[[Room, Job], None] = _give_lent) -> list[Job]:
    """`chosen` without those whose part turned out not to be needed, the first chosen spared last."""
    kept = chosen
    for victim in reversed(chosen[:-1]):
        trial = room.copy()
        rest = [other for other in kept if other is not victim]
        for other in rest:
            give(trial, other)
        if trial.fits(demand):
            kept = rest
    return kept


def _least_loss(job: Job) -> tuple[float, ...]:
    """The least important first, and of those the one that was started last."""
    priority, importance, submitted, index = job.order
    return (-priority, -importance, -job.ledger.since, -submitted, -index)
