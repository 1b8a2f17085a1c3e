"""The books of one node: all jobs, what waits for what, what is taken, and what can be read of it.

What can be derived (who is ready, what is free, whose time runs out) is kept up to date at every change, so that a
decision costs as much as it decides, not as much as there are jobs. `Schedule` (schedule.py) says what may change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from types import MappingProxyType
from typing import Any, Self

from attrs import evolve, frozen

from batchns.core.agenda import Agenda
from batchns.core.claims import Claims
from batchns.core.demand import Demand
from batchns.core.dependencies import Dependencies, Doomed, Tally
from batchns.core.fairshare import Shares
from batchns.core.job import ACTIVE, Edge, FreezeCause, Job, changed
from batchns.core.known import KnownJobs
from batchns.core.node import NodeCapacity
from batchns.core.placement import Room
from batchns.core.profile import Measure
from batchns.core.quota import Quotas
from batchns.core.ready import Ready
from batchns.core.reasons import Reason, Shortage, Why
from batchns.core.refusals import Refusals
from batchns.model.config import Config, Order, Preemption, Queue
from batchns.model.job import Dependency
from batchns.model.lifecycle import Event, State, apply

_GONE = Queue(priority=0)


@frozen
class Drain:
    """Everything is to end. `kill`: at once, without waiting for anyone's grace."""

    detail: str  # the reason that cancelled jobs are given
    kill: bool = False


class Books:
    """What there is to read of a schedule, and the upkeep of what is derived."""

    def __init__(self, capacity: NodeCapacity, config: Config | None = None) -> None:
        self._set_up(capacity, config or Config())
        self.shares = Shares(capacity, self.config.fair_share.half_life, self.config.fair_share.shares)
        self.draining: Drain | None = None
        self.closed: str | None = None  # why nothing is started, while what runs goes on; None: the node is open
        self.paused = False
        self.yielding = False  # to what is not batchns's
        self.claims = Claims()
        self.squeezed: dict[str, None] = {}  # frozen jobs whose memory is being taken: the answer is still to come
        self._jobs: dict[str, Job] = {}
        self._arrays: dict[str, list[str]] = {}  # the tasks of each array that is one
        self._array_left: Counter[str] = Counter()  # of the same: how many are not over for good
        self._dependencies = Dependencies()
        self._active: dict[str, None] = {}
        self._lending: dict[str, None] = {}
        self._array_active: Counter[str] = Counter()
        self._pending: dict[str, None] = {}
        self._waiting: Counter[str] = Counter()  # the same, by queue
        self._due = Agenda()
        self._ends = Agenda()  # of those that use their CPUs: the end that is expected
        self._outlived = Agenda()  # of the same: the moment when the job has run for longer than it was expected to
        self._delayed = Agenda()  # jobs that compete from a moment on
        self._too_late = Agenda()  # pending jobs: the last moment that is early enough for their deadline
        self._doomed: dict[str, Reason] = {}
        self._to_retry: dict[str, None] = {}
        self._to_freeze: dict[str, FreezeCause] = {}
        self._to_thaw: dict[str, None] = {}
        self._asked_to_freeze: dict[str, None] = {}  # whoever's owner asked for it, until they are frozen
        self._settled = 0
        self._sharing = 0  # active jobs with a share of a CPU

    def _set_up(self, capacity: NodeCapacity, config: Config) -> None:
        """What depends on the node and on batchns.toml, with no job in it."""
        self.capacity = capacity
        self.config = config
        self.settings = config.schedule
        self.ready = Ready(by_length=self.settings.order is Order.SHORTEST)
        self.quotas = Quotas(config.queues)
        self.measure = Measure(capacity)
        self.unfit: dict[str, Reason] = {}  # waiting and frozen jobs that this node, or their queue, cannot have
        self._room = Room(capacity)
        self._refusals = Refusals(capacity, config, self.quotas)
        least = [queue.min_run for queue in config.queues.values()]
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
    def waiting(self) -> Mapping[str, int]:
        """How many are pending, by queue."""
        return MappingProxyType(self._waiting)

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
        moments += [moment for job in self.lending if (moment := self.promised(job)) is not None]
        if self.ready and self.closed is None:
            moments += self._patience(after)
        return min((moment for moment in moments if moment > after), default=None)

    def queue(self, name: str) -> Queue:
        """The queue of that name; one that batchns.toml has no longer comes after all others, and forbids nothing."""
        return self.config.queues.get(name, _GONE)

    def promised(self, job: Job) -> float | None:
        """The moment by which the frozen job was promised to go on; None: it was not, or it cannot any more."""
        if job.state is not State.SUSPENDED or not job.lends or job.frozen is None or job.id in self.unfit:
            return None
        return job.frozen.thaw_by

    def min_run(self, job: Job) -> float:
        """Seconds that the job runs before it may be preempted."""
        own = self.queue(job.spec.queue).min_run
        return self.settings.min_run if own is None else own

    def max_frozen(self, job: Job) -> float:
        """Seconds that the job may be frozen for others, in all."""
        own = self.queue(job.spec.queue).max_frozen
        return self.settings.max_frozen if own is None else own

    def open_dependency(self, job: Job) -> Edge | None:
        """The first dependency that the pending job still waits for."""
        return self._dependencies.first_open(job) if self._dependencies.waits(job.id) else None

    def over(self, job_id: str) -> bool:
        """Over for good: no retry is to come."""
        return self._jobs[job_id].state.final and job_id not in self._to_retry

    def known(self, user: str) -> KnownJobs:
        """The user's jobs, for those that depend on them: see `resolve.Known`."""
        return KnownJobs(self, user)

    def named(self, user: str, name: str) -> tuple[str, ...]:
        """The arrays of the user's last submission that has the name, as far as they are known."""
        return self._dependencies.latest(user, name)

    def tasks(self, array_id: str) -> Sequence[str]:
        """The ids of the array's tasks, or of the one job of this id; empty: there is none."""
        found = self._arrays.get(array_id)
        if found is not None:
            return found
        return (array_id,) if array_id in self._jobs else ()

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
        """The job goes where it belongs: among the ready ones, or those that a moment is set for. Or it is frozen.

        One that cannot ever have a place as things are is in nobody's way.
        """
        if not job.lends:
            if job.held or self._dependencies.waits(job.id) or job.id in self._doomed:
                return
            if job.not_before is not None:
                self._delayed.set(job.id, job.not_before)
                return
        demand = self.wanted(job)
        refusal = self._refusals.of(job.spec.queue, demand, frozen=job.lends)
        if refusal is None:
            self.ready.add(job, demand, frozen=job.lends)
        else:
            self.unfit[job.id] = refusal

    def _withdraw(self, job: Job) -> None:
        """The job competes no longer; one that does not is no error."""
        self.ready.remove(job)
        self.unfit.pop(job.id, None)

    def _current(self, job: Job) -> Job:
        """The job in the place that its queue's priority gives it now."""
        priority = self.queue(job.spec.queue).priority
        return job if job.order[0] == -priority else changed(job, {"order": (-priority, *job.order[1:])})

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
            self._waiting[job.spec.queue] -= 1
            self._withdraw(job)
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
            self._withdraw(before)
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
        if job.index is not None:
            self._array_left[job.array_id] -= 1
        succeeded, had_started = job.state is State.COMPLETED, job.run_base is not None
        return self._settle_edges(*self._dependencies.ended(job, succeeded=succeeded, had_started=had_started))

    def _tally(self, arrays: Sequence[str], index: int | None) -> Tally:
        """Of the jobs that an edge points at, as far as they are known."""
        total, started, ended, succeeded = 0, 0, 0, 0
        for array_id in arrays:
            for job_id in self.tasks(array_id) if index is None else (f"{array_id}_{index}",):
                job = self._jobs.get(job_id)
                if job is None:
                    continue
                over = self.over(job_id)
                total += 1
                started += over or job.run_base is not None
                ended += over
                succeeded += over and job.state is State.COMPLETED
        return total, started, ended, succeeded

    def _settle_edges(self, free: list[str], doomed: list[Doomed]) -> list[str]:
        for job_id in free:
            self._compete(self._jobs[job_id])
        for job_id, edge in doomed:
            self._doom(job_id, edge)
        return free

    def _doom(self, job_id: str, edge: Edge) -> None:
        dependency = Dependency(edge.condition, edge.name)
        self._doomed[job_id] = Reason(why=Why.DEPENDENCY_NEVER, dependency=dependency)
