"""Making room for a job that goes first: who is frozen, squeezed or ended for it.

1. Only what a freeze really frees counts: CPUs and bandwidth. Memory, named resources and places stay with the frozen.
2. Nothing is done to anybody that would not let the waiting job start.
3. Least loss first: freeze; then take from frozen jobs memory that they can do without; then end those whose jobs say
   `requeue` or `cancel`. A job's mode is the furthest that one goes with it.
4. Nobody is frozen more often, or for longer, than the bounds say. Where time limits are known that is a promise with a
   plan behind it (promises.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import evolve, frozen

from batchns.core.actions import Action, Freeze, Reclaim, Stop
from batchns.core.demand import Demand
from batchns.core.job import Cause, FreezeCause, Job
from batchns.core.placement import Room
from batchns.core.promises import Lent, Promise, Promises, lent
from batchns.core.rank import Ranking
from batchns.core.schedule import Schedule
from batchns.model.config import Preemption
from batchns.model.job import PreemptMode
from batchns.model.lifecycle import State

_TRIES = 12  # victims that a promise protects, before it is given up for this time: a bound on what a decision costs


@frozen
class Claim:
    """The job that room is to be made for: what it wants, until when it may need it, and why it may."""

    job: Job
    demand: Demand
    end: float
    overdue: bool  # it is frozen, and its time to go on has come


class Preemptor:
    """Of one decision. `room`: what is free, and is not changed."""

    def __init__(self, schedule: Schedule, now: float, ranking: Ranking) -> None:
        self._schedule = schedule
        self._now = now
        self._ranking = ranking
        settings = schedule.settings
        self.shorter = settings.preempt is Preemption.SHORTER
        self._queues = settings.preempt is not Preemption.OFF
        self._slice = settings.time_slice
        self.any = self.shorter or self._slice is not None or (
            self._queues and any(queue.preempts for queue in schedule.config.queues.values())
        )
        self._promises: Promises | None = None
        self._by_rank: list[tuple[float, Job]] | None = None

    def may(self, queue: str) -> bool:
        """Whether a job of that queue could take anybody's place."""
        return self.shorter or self._slice is not None or (
            self._queues and bool(self._schedule.config.queues[queue].preempts)
        )

    def make_room(self, claim: Claim, room: Room) -> list[Action]:
        """What is to be done, all of it, so that the job can start; nothing where that cannot be had."""
        demand = claim.demand
        kept = demand.jobs <= room.jobs and all(count <= room.named.get(name, 0) for name, count in demand.named)
        if kept and demand.memory <= room.memory:
            return self._freeze(claim, room) or self._end(claim, room)
        if kept and room.fits(demand.with_memory(0)) and (reclaims := self._reclaim(claim, room)):
            return reclaims
        return self._end(claim, room)

    # Freezing.

    def _freeze(self, claim: Claim, room: Room) -> list[Action]:
        if self.shorter and not claim.overdue and not self._preempts(claim.job):
            return self._freeze_longer(claim, room)
        victims = sorted(self._victims(claim), key=_least_loss)
        trial, chosen = room.copy(), list[Job]()
        for victim in victims:
            assert victim.placement is not None
            trial.give(victim.demand.to_thaw(), victim.placement)
            chosen.append(victim)
            if trial.fits(claim.demand):
                break
        else:
            return []
        chosen = _needed(claim.demand, room, chosen)
        if not self._memory_allows(chosen):
            return []
        return [self._freeze_of(victim, claim, self._latest(victim)) for victim in chosen]

    def _freeze_longer(self, claim: Claim, room: Room) -> list[Action]:
        """For a job of the same queue that is sooner over, and within what was promised to the frozen."""
        rank = self._ranking.remaining(claim.job)
        longer = (victim for other, victim in self._longest_first() if other > rank)
        candidates = [victim for victim in longer if self._freezable(victim, claim)]
        total = room.copy()
        for victim in candidates:
            assert victim.placement is not None
            total.give(victim.demand.to_thaw(), victim.placement)
        if not total.fits(claim.demand):
            return []
        promises = self.promises()
        before = promises.snapshot()
        chosen = self._choose(claim, room, candidates, promises)
        actions: list[Action] = []
        if chosen and promises.start(claim.job.id, claim.end, lent(claim.demand)):
            victims = [victim for victim, _ in chosen]
            if self._memory_allows(victims):
                actions = [self._freeze_of(victim, claim, thaw_by) for victim, thaw_by in chosen]
        if not actions:
            promises.restore(before)
        return actions

    def _choose(
        self, claim: Claim, room: Room, candidates: list[Job], promises: Promises
    ) -> list[tuple[Job, float]]:
        """Victims that together are enough, none of them for nothing, each with its promise."""
        trial, chosen, refused = room.copy(), dict[str, tuple[Job, float]](), 0
        promises.force(claim.job.id, claim.end, lent(claim.demand))
        for victim in candidates:
            left = max(victim.span - victim.done(self._now), 1.0)
            thaw_by = promises.freeze(victim.id, left, self._latest(victim))
            if thaw_by is None:
                refused += 1
                if refused > _TRIES:
                    return []
                continue
            assert victim.placement is not None
            chosen[victim.id] = (victim, thaw_by)
            trial.give(victim.demand.to_thaw(), victim.placement)
            if trial.fits(claim.demand):
                break
        else:
            return []
        for victim, _ in list(chosen.values()):
            assert victim.placement is not None
            trial.take(victim.demand.to_thaw(), victim.placement)
            if trial.fits(claim.demand) and promises.start(victim.id, self._end_of(victim), lent(victim.demand)):
                del chosen[victim.id]
            else:
                trial.give(victim.demand.to_thaw(), victim.placement)
        return list(chosen.values())

    def promises(self) -> Promises:
        """What runs and what was promised now."""
        if self._promises is None:
            running: list[tuple[str, float, Lent]] = [
                (job.id, end, lent(job.demand)) for end, job in self._schedule.expected_ends(self._now)
            ]
            frozen_ = [
                (job.id, Promise(job.frozen.thaw_by, max(job.span - job.done(self._now), 1.0), lent(job.demand)))
                for job in self._schedule.lending
                if job.frozen is not None and job.frozen.thaw_by is not None
            ]
            self._promises = Promises(self._now, self._schedule.capacity, running, frozen_)
        return self._promises

    def _end_of(self, job: Job) -> float:
        return job.expected_end(self._now)

    def _latest(self, victim: Job) -> float:
        return self._now + max(self._schedule.max_frozen(victim) - victim.lent, 0.0)

    def _freeze_of(self, victim: Job, claim: Claim, thaw_by: float) -> Freeze:
        return Freeze(victim.id, FreezeCause.PREEMPTED, claim.job.id, thaw_by)

    def _longest_first(self) -> list[tuple[float, Job]]:
        if self._by_rank is None:
            ranked = [(self._ranking.remaining(job), job) for job in self._schedule.running]
            self._by_rank = sorted(ranked, key=lambda pair: (-pair[0], pair[1].order, pair[1].id))
        return self._by_rank

    # Who.

    def _preempts(self, job: Job) -> bool:
        return self._queues and bool(self._schedule.config.queues[job.spec.queue].preempts)

    def _victims(self, claim: Claim) -> Iterator[Job]:
        """Running jobs that may be frozen for it."""
        for job in self._schedule.running:
            if self._freezable(job, claim) and self._below(job, claim):
                yield job

    def _below(self, job: Job, claim: Claim) -> bool:
        mine = claim.job
        if claim.overdue:
            return True
        if self._queues and job.spec.queue in self._schedule.config.queues[mine.spec.queue].preempts:
            return True
        if self._slice is None or job.spec.queue != mine.spec.queue or job.order[1] != mine.order[1]:
            return False
        return self._ran(job) >= self._slice

    def _freezable(self, job: Job, claim: Claim) -> bool:
        settings = self._schedule.settings
        if job.state is not State.RUNNING or job.mode is PreemptMode.OFF or job.freezes >= settings.max_freezes:
            return False
        if job.order[:2] < claim.job.order[:2] and not claim.overdue and not self._below_queue(job, claim):
            return False
        return job.lent < self._schedule.max_frozen(job) and self._ran(job) >= self._schedule.min_run(job)

    def _below_queue(self, job: Job, claim: Claim) -> bool:
        return job.spec.queue in self._schedule.config.queues[claim.job.spec.queue].preempts

    def _ran(self, job: Job) -> float:
        """Seconds since it was last started or thawed."""
        return job.ledger.running - job.stretch + self._now - job.ledger.since

    def _memory_allows(self, victims: list[Job]) -> bool:
        """Whether frozen jobs would hold no more memory together than they may."""
        most = self._schedule.settings.frozen_memory
        if most is None:
            most = self._schedule.capacity.memory // 2
        held = sum(
            job.demand.memory if job.held_memory is None else job.held_memory for job in self._schedule.lending
        )
        return held + sum(victim.demand.memory for victim in victims) <= most

    # More than freezing.

    def _reclaim(self, claim: Claim, room: Room) -> list[Action]:
        """From as many frozen jobs as could make it up, if all that they hold could be had."""
        lack, actions = claim.demand.memory - room.memory, list[Action]()
        for job in self._schedule.lending:
            if job.held_memory is None and job.state is State.SUSPENDED:
                actions.append(Reclaim(job.id))
                lack -= job.demand.memory
                if lack <= 0:
                    return actions
        return []

    def _end(self, claim: Claim, room: Room) -> list[Action]:
        """End those that said so: `requeue` before `cancel`, the least work lost first."""
        if not self._preempts(claim.job):
            return []
        names = set(self._schedule.config.queues[claim.job.spec.queue].preempts)
        active = (self._schedule[job_id] for job_id in self._schedule.active)
        victims = [
            job
            for job in active
            if job.spec.queue in names
            and job.mode in (PreemptMode.REQUEUE, PreemptMode.CANCEL)
            and job.state in (State.RUNNING, State.SUSPENDED)
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


def _needed(
    demand: Demand, room: Room, chosen: list[Job], give: Callable[[Room, Job], None] = _give_lent
) -> list[Job]:
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


def _least_loss(job: Job) -> tuple[int, int, float, str]:
    """The least important first, and of those the one that was started last."""
    return (-job.order[0], -job.order[1], -job.ledger.since, job.id)
