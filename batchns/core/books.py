"""The books of one node: all jobs, what waits for what, what is taken, and what can be read of it.

What can be derived (who is ready, what is free, whose time runs out) is kept up to date at every change, so that a
decision costs as much as it decides, not as much as there are jobs. `Schedule` (schedule.py) says what may change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from math import inf
from types import MappingProxyType
from typing import Any, Self

from attrs import evolve, frozen

from batchns.core.agenda import Agenda
from batchns.core.claims import Claims
from batchns.core.demand import Demand
from batchns.core.dependencies import Dependencies
from batchns.core.fairshare import Shares
from batchns.core.job import ACTIVE, FreezeCause, Job, changed
from batchns.core.node import NodeCapacity
from batchns.core.placement import Room
from batchns.core.profile import Measure
from batchns.core.quota import Quotas
from batchns.core.ready import Ready
from batchns.core.reasons import Reason, Shortage, Why
from batchns.model.config import Config, Order, Preemption
from batchns.model.job import Dependency
from batchns.model.lifecycle import Event, State, apply


@frozen
class Drain:
    """Everything is to end. `kill`: at once, without waiting for anyone's grace."""

    detail: str  # the reason that cancelled jobs are given
    kill: bool = False


class Books:
    """What there is to read of a schedule, and the upkeep of what is derived."""

    def __init__(self, capacity: NodeCapacity, config: Config | None = None) -> None:
        self.capacity = capacity
        self.config = config or Config()
        self.settings = self.config.schedule
        self.ready = Ready(by_length=self.settings.order is Order.SHORTEST)
        self.shares = Shares(capacity, self.config.fair_share.half_life, self.config.fair_share.shares)
        self.quotas = Quotas(self.config.queues)
        self.measure = Measure(capacity)
        self.draining: Drain | None = None
        self.paused = False
        self.yielding = False  # to what is not batchns's
        self.claims = Claims()
        self.squeezed: dict[str, None] = {}  # frozen jobs whose memory is being taken: the answer is still to come
        self._jobs: dict[str, Job] = {}
        self._room = Room(capacity)
        self._dependencies = Dependencies()
        self._active: dict[str, None] = {}
        self._lending: dict[str, None] = {}
        self._array_active: Counter[str] = Counter()
        self._pending: dict[str, None] = {}
        self._due = Agenda()
        self._ends = Agenda()  # of those that use their CPUs: the end that is expected
        self._outlived = Agenda()  # of the same: the moment when the job has run for longer than it was expected to
        self._delayed = Agenda()  # jobs that compete from a moment on
        self._too_late = Agenda()  # pending jobs: the last moment that is early enough for their deadline
        self._doomed: dict[str, Reason] = {}
        self._to_retry: dict[str, None] = {}
        self._to_freeze: dict[str, FreezeCause] = {}
        self._to_thaw: dict[str, None] = {}
        self._settled = 0
        self._sharing = 0  # active jobs with a share of a CPU
        least = [queue.min_run for queue in self.config.queues.values()]
        self._patient = self.settings.min_run > 0 or any(least)  # somebody has a time in which nobody preempts it

    # What there is to read.

    def __getitem__(self, job_id: str) -> Job:
        return self._jobs[job_id]

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def finished(self) -> bool:
        """Every job is over for good."""
        return self._settled == len(self._jobs)

    @property
    def pending(self) -> tuple[str, ...]:
        return tuple(self._pending)

    @property
    def active(self) -> tuple[str, ...]:
        """Jobs that hold a place, in the order of their launch."""
        return tuple(self._active)

    @property
    def lending(self) -> Iterator[Job]:
        """Frozen jobs whose CPUs and bandwidth others may use."""
        return (self._jobs[job_id] for job_id in self._lending)

    @property
    def running(self) -> Iterator[Job]:
        """Jobs that use their CPUs, by the end that is expected, the earliest first."""
        return (self._jobs[job_id] for _, job_id in self._ends)

    @property
    def doomed(self) -> Mapping[str, Reason]:
        return MappingProxyType(self._doomed)

    @property
    def to_retry(self) -> tuple[str, ...]:
        return tuple(self._to_retry)

    @property
    def to_freeze(self) -> Mapping[str, FreezeCause]:
        return MappingProxyType(self._to_freeze)

    @property
    def to_thaw(self) -> tuple[str, ...]:
        return tuple(self._to_thaw)

    @property
    def shared(self) -> bool:
        """Some active job has a share of a CPU."""
        return self._sharing > 0

    def room(self) -> Room:
        """A copy of what is free now."""
        return self._room.copy()

    @property
    def exhausted(self) -> bool:
        """Nothing at all can be placed now."""
        return self._room.exhausted

    def shortage(self, job: Job) -> Shortage | None:
        """What the job lacks to start, or to go on, now; None when it fits."""
        return self._room.shortage(self.wanted(job))

    def wanted(self, job: Job) -> Demand:
        """What the job needs to start, or to go on where it is frozen."""
        if not job.lends:
            return job.demand
        kept = job.demand.memory if job.held_memory is None else job.held_memory
        return job.demand.to_thaw(job.demand.memory - kept)

    def active_tasks(self, array_id: str) -> int:
        return self._array_active[array_id]

    def expected_ends(self, now: float) -> Iterator[tuple[float, Job]]:
        """Who uses CPUs, and until when at the latest, the earliest first; ends that have passed are expected anew."""
        first = self._ends.first
        if first is None or first > now:
            return ((end, self._jobs[job_id]) for end, job_id in self._ends)
        late = [(self._jobs[job_id].expected_end(now), job_id) for job_id in self._ends.until(now)]
        return ((end, self._jobs[job_id]) for end, job_id in sorted([*late, *self._ends.after(now)]))

    def due(self, now: float) -> list[str]:
        """Active jobs that the passing of time calls for an action on: a time limit, a warning, the end of a grace."""
        return self._due.until(now)

    def joining(self, now: float) -> list[str]:
        """Pending jobs whose begin, or next try, has come."""
        return self._delayed.until(now)

    def too_late(self, now: float) -> list[str]:
        """Pending jobs that cannot be over by their deadline any more."""
        return self._too_late.until(now)

    def next_deadline(self, after: float = -inf) -> float | None:
        """The next moment at which there is something to decide though nothing has happened.

        `after`: the moment of the last decision. What could not be done then, as when a frozen job's time to go on has
        come and everything is paused, waits for an event, not for a moment. (Where ranks change all the time, by age
        or by use that fades, no moment is the one: those wait for an event, too.)
        """
        agendas = (self._due, self._delayed, self._too_late)
        moments = [moment for agenda in agendas if (moment := agenda.following(after)) is not None]
        for job in self.lending:
            if job.state is State.SUSPENDED and job.frozen is not None and job.frozen.thaw_by is not None:
                moments.append(job.frozen.thaw_by)
        if self.ready:
            moments += self._patience(after)
        return min((moment for moment in moments if moment > after), default=None)

    def min_run(self, job: Job) -> float:
        """Seconds that the job runs before it may be preempted."""
        own = self.config.queues[job.spec.queue].min_run
        return self.settings.min_run if own is None else own

    def max_frozen(self, job: Job) -> float:
        """Seconds that the job may be frozen for others, in all."""
        own = self.config.queues[job.spec.queue].max_frozen
        return self.settings.max_frozen if own is None else own

    def open_dependency(self, job: Job) -> Dependency | None:
        """The first dependency that the pending job still waits for."""
        if not self._dependencies.waits(job.id):
            return None
        spec = job.spec
        return self._dependencies.first_open(job.id, spec.dependency, user=job.user, name=spec.name, index=job.index)

    def copy(self) -> Self:
        """An independent twin: to look ahead without changing anything. Jobs are frozen, and so shared."""
        other = type(self).__new__(type(self))
        for name, value in vars(self).items():
            setattr(other, name, value.copy() if hasattr(value, "copy") else value)
        return other

    # The upkeep.

    def _change(self, job_id: str, event: Event, now: float, **changes: Any) -> Job:
        job = self._jobs[job_id]
        changes["state"] = apply(job_id, job.state, event)
        changes["ledger"] = job.ledger.at(job.state, now)
        return self._replace(changed(job, changes))

    def _replace(self, job: Job) -> Job:
        self._jobs[job.id] = job
        self._due.set(job.id, job.due() if job.state in ACTIVE else None)
        return job

    def _hold(self, job: Job, demand: Demand, now: float, sign: int) -> None:
        self.shares.hold(job.user, demand, now, sign)
        self.quotas.change(job.spec.queue, job.user, demand, sign)

    def _lend(self, job: Job, now: float, sign: int) -> None:
        """The frozen job holds no more than it keeps (`sign` 1), or all of its demand again (-1)."""
        self.shares.hold(job.user, job.demand, now, -sign)
        self.shares.hold(job.user, job.demand.kept(job.demand.memory), now, sign)
        self.quotas.change(job.spec.queue, job.user, job.demand.to_thaw(), -sign)

    def _expect(self, job: Job, now: float) -> None:
        self._ends.set(job.id, job.expected_end(now))
        if self.settings.preempt is Preemption.SHORTER:
            self._outlived.set(job.id, job.outlives(now))

    def _expect_none(self, job_id: str) -> None:
        self._ends.set(job_id, None)
        self._outlived.set(job_id, None)

    def _compete(self, job: Job) -> None:
        """The pending job goes where it belongs: among the ready ones, or those that a moment is set for."""
        if job.held or self._dependencies.waits(job.id) or job.id in self._doomed:
            return
        if job.not_before is not None:
            self._delayed.set(job.id, job.not_before)
        else:
            self.ready.add(job, job.demand)

    def _patience(self, after: float) -> Iterator[float]:
        """Moments at which one that runs may be preempted that may not be yet, or is longer than one took it to be."""
        settings = self.settings
        if settings.preempt is Preemption.SHORTER:
            if (moment := self._outlived.following(after)) is not None:
                yield moment
            for job_id in self._outlived.until(after):
                if (moment := self._jobs[job_id].outlives(after)) is not None:
                    yield moment
        if settings.time_slice is None and not self._patient:
            return
        for _, job_id in self._ends:
            job = self._jobs[job_id]
            if job.state is State.RUNNING:
                ran = job.ledger.running - job.stretch
                for least in (self.min_run(job), settings.time_slice or 0.0):
                    if ran < least:
                        yield job.ledger.since + least - ran

    def _leave_queue(self, job: Job) -> None:
        if job.id in self._pending:
            del self._pending[job.id]
            self.ready.remove(job)
            self._dependencies.forget(job.id)
            self._doomed.pop(job.id, None)
            self._delayed.set(job.id, None)
            self._too_late.set(job.id, None)
            self.claims.drop(job.id)

    def _leave_place(self, before: Job, now: float) -> None:
        """The attempt is over: what it had is free."""
        assert before.placement is not None
        job_id = before.id
        self.claims.made(job_id)
        self.claims.drop(job_id)
        self.squeezed.pop(job_id, None)
        if before.lends:
            kept = before.demand.kept(before.demand.memory if before.held_memory is None else before.held_memory)
            self._room.give(kept, evolve(before.placement, cpus=(), mems=()))
            self._lend(before, now, -1)
            self._hold(before, before.demand, now, -1)
            del self._lending[job_id]
            self.ready.remove(before)
        else:
            self._room.give(before.demand, before.placement)
            self._hold(before, before.demand, now, -1)
        self._expect_none(job_id)
        del self._active[job_id]
        self._sharing -= not before.demand.whole
        self._array_active[before.array_id] -= 1
        if not self._array_active[before.array_id]:
            del self._array_active[before.array_id]

    def _settle(self, job: Job) -> list[str]:
        self._settled += 1
        succeeded, had_started = job.state is State.COMPLETED, job.run_base is not None
        return self._settle_edges(
            *self._dependencies.ended(
                job.id,
                user=job.user,
                name=job.spec.name,
                index=job.index,
                succeeded=succeeded,
                had_started=had_started,
            )
        )

    def _settle_edges(self, free: list[str], doomed: list[tuple[str, Dependency]]) -> list[str]:
        for job_id in free:
            self._compete(self._jobs[job_id])
        for job_id, edge in doomed:
            self._doom(job_id, edge)
        return free

    def _doom(self, job_id: str, edge: Dependency) -> None:
        self._doomed[job_id] = Reason(why=Why.DEPENDENCY_NEVER, dependency=edge)
