"""The queue and the node as the policy knows them: all jobs, what waits for what, what is taken.

1. Jobs change here only, through `lifecycle.apply` first: an illegal event raises and changes nothing.
2. What can be derived (who is ready, what is free, whose time runs out) is kept up to date at every change, so that a
   decision costs as much as it decides, not as much as there are jobs.
3. A job that is frozen for another one lends its CPUs and its bandwidth, and competes to get some back. One that is
   frozen by a pause keeps its place: everything that is paused goes on together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from attrs import evolve, frozen

from batchns.core.agenda import Agenda
from batchns.core.demand import Demand
from batchns.core.dependencies import Dependencies
from batchns.core.fairshare import Shares
from batchns.core.job import ACTIVE, LENDING, Cause, FreezeCause, Frozen, Job, Stopping, changed
from batchns.core.node import NodeCapacity
from batchns.core.placement import Placement, Room
from batchns.core.profile import Measure
from batchns.core.quota import Quotas
from batchns.core.ready import Ready
from batchns.core.reasons import Reason, Shortage, Why
from batchns.core.retry import next_attempt
from batchns.model.config import Config, Order
from batchns.model.job import Dependency, PreemptMode
from batchns.model.lifecycle import Event, State, apply


@frozen
class Drain:
    """Everything is to end. `kill`: at once, without waiting for anyone's grace."""

    detail: str  # the reason that cancelled jobs are given
    kill: bool = False


class Schedule:
    """All jobs of one node. Read by `decide`; changed by whoever performs what it decides."""

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
        self.claims: dict[str, dict[str, None]] = {}  # by pending job: the jobs that make room for it, until they have
        self._jobs: dict[str, Job] = {}
        self._room = Room(capacity)
        self._dependencies = Dependencies()
        self._active: dict[str, None] = {}
        self._lending: dict[str, None] = {}
        self._array_active: Counter[str] = Counter()
        self._pending: dict[str, None] = {}
        self._due = Agenda()
        self._ends = Agenda()  # of those that use their CPUs: the end that is expected
        self._delayed = Agenda()  # jobs that compete from a moment on
        self._too_late = Agenda()  # pending jobs: the last moment that is early enough for their deadline
        self._doomed: dict[str, Reason] = {}
        self._to_retry: dict[str, None] = {}
        self._to_freeze: dict[str, FreezeCause] = {}
        self._to_thaw: dict[str, None] = {}
        self._settled = 0

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

    def next_deadline(self) -> float | None:
        """The next moment at which there is something to decide though nothing has happened."""
        agendas = (self._due, self._delayed, self._too_late)
        moments = [agenda.first for agenda in agendas if agenda.first is not None]
        for job in self.lending:
            if job.frozen is not None and job.frozen.thaw_by is not None:
                moments.append(job.frozen.thaw_by)
        if self.ready:
            moments += self._patience()
        return min(moments, default=None)

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

    def copy(self) -> Schedule:
        """An independent twin: to look ahead without changing anything. Jobs are frozen, and so shared."""
        other = Schedule.__new__(Schedule)
        other.__dict__.update(self.__dict__)
        other.ready, other.shares, other.quotas = self.ready.copy(), self.shares.copy(), self.quotas.copy()
        other.claims = {job_id: claim.copy() for job_id, claim in self.claims.items()}
        other._room, other._dependencies = self._room.copy(), self._dependencies.copy()
        other._array_active = self._array_active.copy()
        for name in ("_jobs", "_active", "_lending", "_pending", "_due", "_ends", "_delayed", "_too_late"):
            setattr(other, name, getattr(self, name).copy())
        for name in ("_doomed", "_to_retry", "_to_freeze", "_to_thaw"):
            setattr(other, name, getattr(self, name).copy())
        return other

    # What may change it. `now` never goes back.

    def submit(self, jobs: Iterable[Job]) -> None:
        """New PENDING jobs; every name that they depend on is among them or already here."""
        jobs = list(jobs)
        for job in jobs:
            self._dependencies.add(job.id, job.user, job.spec.name, job.index)
        for job in jobs:
            self._jobs[job.id] = job
            self._pending[job.id] = None
            if job.deadline is not None:
                span = 0.0 if job.bounds.time_limit is None else job.bounds.time_limit
                self._too_late.set(job.id, job.deadline - span)
            spec = job.spec
            if spec.dependency:
                doom = self._dependencies.wait(
                    job.id, spec.dependency, user=job.user, name=spec.name, index=job.index
                )
                if doom is not None:
                    self._doom(job.id, doom)
                    continue
            self._compete(job)

    def join(self, job_id: str) -> None:
        """The pending job's begin, or next try, has come."""
        self._delayed.set(job_id, None)
        self._compete(self._replace(changed(self._jobs[job_id], {"not_before": None})))

    def hold(self, job_id: str) -> Job:
        """The pending job does not compete until `release`; on another one it has no effect before a next attempt."""
        job = self._replace(changed(self._jobs[job_id], {"held": True}))
        self.ready.remove(job)
        self._delayed.set(job_id, None)
        return job

    def release(self, job_id: str) -> Job:
        """The job may compete again."""
        job = self._replace(changed(self._jobs[job_id], {"held": False}))
        if job.state is State.PENDING:
            self._compete(job)
        return job

    def launch(self, job_id: str, placement: Placement, now: float) -> Job:
        """LAUNCH: the place is taken from here on."""
        job = self._change(job_id, Event.LAUNCH, now, placement=placement, stopping=None, warned=False)
        self._leave_queue(job)
        self._room.take(job.demand, placement)
        self._active[job.id] = None
        self._array_active[job.array_id] += 1
        self._hold(job, job.demand, now, 1)
        self._expect(job, now)
        return job

    def started(self, job_id: str, now: float) -> list[str]:
        """STARTED: the command runs. Returns the jobs that wait for nothing any more because of it."""
        first = self._jobs[job_id].run_base is None
        job = self._change(job_id, Event.STARTED, now)
        job = self._replace(changed(job, {"run_base": job.ledger.running, "stretch": job.ledger.running}))
        self._expect(job, now)
        if job.state is State.RUNNING:
            if self.paused:
                self._to_freeze[job.id] = FreezeCause.PAUSE
            elif self.yielding and self._yields(job):
                self._to_freeze[job.id] = FreezeCause.NEIGHBOUR
        return self._settle_edges(*self._dependencies.started(job.spec.name, job.index)) if first else []

    def freezing(
        self,
        job_id: str,
        now: float,
        cause: FreezeCause = FreezeCause.PAUSE,
        *,
        by: str = "",
        thaw_by: float | None = None,
    ) -> Job:
        """FREEZE: the kernel is being asked."""
        job = self._change(job_id, Event.FREEZE, now, frozen=Frozen(cause, now, thaw_by, by))
        self._to_freeze.pop(job_id, None)
        if by:
            self.claims.setdefault(by, {})[job_id] = None
        return job

    def frozen(self, job_id: str, now: float, *, confirmed: bool) -> Job:
        """FROZEN: it lends what others need, or keeps it in a pause. FREEZE_FAILED: rolled back, not tried again."""
        before = self._jobs[job_id]
        asked = before.frozen
        assert asked is not None
        self._made_room(before, asked.by)
        if not confirmed:
            used_up = self.settings.max_freezes if asked.cause is FreezeCause.PREEMPTED else before.freezes
            return self._change(job_id, Event.FREEZE_FAILED, now, frozen=None, freezes=used_up)
        preempted = asked.cause is FreezeCause.PREEMPTED
        job = self._change(
            job_id, Event.FROZEN, now, frozen=evolve(asked, since=now), freezes=before.freezes + preempted
        )
        if asked.cause in LENDING:
            assert job.placement is not None
            self._room.give(job.demand.to_thaw(), job.placement)
            self._hold(job, job.demand.to_thaw(), now, -1)
            self._ends.set(job_id, None)
            self._lending[job_id] = None
            if asked.cause is not FreezeCause.OWNER:
                self.ready.add(job, self.wanted(job), frozen=True)
        elif not self.paused:
            self._to_thaw[job_id] = None
        return job

    def reclaiming(self, job_id: str) -> Job:
        """The kernel is being asked what the frozen job can do without; once in a freeze."""
        job = self._jobs[job_id]
        return self._replace(changed(job, {"held_memory": job.demand.memory}))

    def reclaimed(self, job_id: str, held: int | None, now: float) -> None:
        """The frozen job is bounded to `held` bytes from now on; None: nothing could be had of it."""
        job = self._jobs[job_id]
        if held is None or not job.lends or job.held_memory is None or held >= job.held_memory:
            return
        self._room.memory += job.held_memory - held
        job = self._replace(changed(job, {"held_memory": held}))
        if job_id in self.ready:
            self.ready.remove(job)
            self.ready.add(job, self.wanted(job), frozen=True)

    def thawing(self, job_id: str, placement: Placement | None, now: float) -> Job:
        """The kernel is being asked: no second `Thaw` until `thaw_failed` says so. `placement`: where it goes on."""
        job = self._jobs[job_id]
        self._to_thaw.pop(job_id, None)
        if placement is not None and job.lends:
            self.ready.remove(job)
            self.claims.pop(job_id, None)
            assert job.placement is not None
            placement = evolve(placement, units=job.placement.units)
            self._room.take(self.wanted(job), placement)
            self._hold(job, job.demand.to_thaw(), now, 1)
            del self._lending[job_id]
            asked = job.frozen
            assert asked is not None
            job = self._replace(
                changed(
                    job,
                    {
                        "placement": placement,
                        "lent": job.lent_at(now),
                        "frozen": evolve(asked, cause=FreezeCause.PAUSE, by="", thaw_by=None),
                        "held_memory": None,
                    },
                )
            )
            self._expect(job, now)
        return job

    def thaw_failed(self, job_id: str) -> None:
        if self._jobs[job_id].state is State.SUSPENDED and not self.paused and not self._jobs[job_id].lends:
            self._to_thaw[job_id] = None

    def thawed(self, job_id: str, now: float) -> Job:
        """THAWED. A pause that came meanwhile freezes it again."""
        job = self._change(job_id, Event.THAWED, now, frozen=None)
        job = self._replace(changed(job, {"stretch": job.ledger.running}))
        self._expect(job, now)
        if self.paused:
            self._to_freeze[job_id] = FreezeCause.PAUSE
        return job

    def warn(self, job_id: str) -> Job:
        """The command has been warned of its time limit."""
        return self._replace(changed(self._jobs[job_id], {"warned": True}))

    def stop(self, job_id: str, cause: Cause, now: float, *, by: str = "") -> Job:
        """STOP: asked to end; to be killed when its grace is over. `by`: the job that waits for its place."""
        before = self._jobs[job_id]
        # It runs again to end: on CPUs that others may have by now, for no longer than its grace.
        frozen = before.frozen if before.lends else None
        stopping = Stopping(cause, now + before.bounds.grace_time)
        job = self._change(job_id, Event.STOP, now, stopping=stopping, frozen=frozen)
        self.ready.remove(job)
        self.claims.pop(job_id, None)
        self._to_freeze.pop(job_id, None)
        self._to_thaw.pop(job_id, None)
        if by:
            self.claims.setdefault(by, {})[job_id] = None
        elif before.frozen is not None:
            self._made_room(before, before.frozen.by)
        return job

    def killed(self, job_id: str) -> Job:
        """A COMPLETING job has been killed: what is left is to hear of its end."""
        job = self._jobs[job_id]
        if job.stopping is not None:
            job = self._replace(changed(job, {"stopping": evolve(job.stopping, kill_at=None)}))
        return job

    def finish(self, job_id: str, event: Event, now: float, *, retry: bool = True) -> list[str]:
        """An attempt's end (any event that leads to a final state): its place is free.

        `retry` False: it would end the same way again. Returns the jobs that wait for nothing any more because of it.
        """
        before = self._jobs[job_id]
        job = self._change(job_id, event, now, placement=None, stopping=None, frozen=None, held_memory=None)
        self._leave_queue(job)
        self._to_freeze.pop(job_id, None)
        self._to_thaw.pop(job_id, None)
        if before.placement is not None:
            self._leave_place(before, now)
        stopping = before.stopping
        preempted = stopping is not None and stopping.cause is Cause.PREEMPTED and job.mode is PreemptMode.REQUEUE
        if self.draining is None and (preempted or (retry and job.retries)):
            if preempted:
                self._replace(changed(job, {"requeues": job.requeues + 1}))
            self._to_retry[job_id] = None
            return []
        return self._settle(job)

    def requeue(self, job_id: str, now: float) -> Job:
        """REQUEUE: the next attempt is PENDING, with what it needs more where that is asked for."""
        job = self._change(job_id, Event.REQUEUE, now, **next_attempt(self._jobs[job_id], self.capacity, now))
        del self._to_retry[job_id]
        self._pending[job_id] = None
        self._compete(job)
        return job

    def drain(self, detail: str, *, kill: bool = False) -> list[Job]:
        """Nothing starts any more, everything ends. Returns the jobs whose retry is thereby given up."""
        self.draining = Drain(detail, kill or (self.draining is not None and self.draining.kill))
        self.resume()
        given_up = [self._jobs[job_id] for job_id in self._to_retry]
        self._to_retry.clear()
        for job in given_up:
            self._settle(job)
        return given_up

    def pause(self) -> None:
        """Freeze what runs, start nothing."""
        if self.draining is None:
            self.paused = True
            self._to_thaw.clear()
            self._to_freeze |= {
                job_id: FreezeCause.PAUSE for job_id in self._active if self._jobs[job_id].state is State.RUNNING
            }

    def resume(self) -> None:
        """Thaw what the pause has frozen, start again."""
        self.paused = False
        self._to_freeze = {
            job_id: cause for job_id, cause in self._to_freeze.items() if cause is not FreezeCause.PAUSE
        }
        self._to_thaw |= {
            job_id: None
            for job_id in self._active
            if self._jobs[job_id].state is State.SUSPENDED and not self._jobs[job_id].lends
        }

    def yield_to_others(self, *, on: bool) -> None:
        """The machine is busy with what is not batchns's, or no longer: jobs of queues that yield are frozen."""
        self.yielding = on
        running = [self._jobs[job_id] for job_id in self._active if self._jobs[job_id].state is State.RUNNING]
        if on:
            self._to_freeze |= {
                job.id: FreezeCause.NEIGHBOUR for job in running if self._yields(job) and job.id not in self._to_freeze
            }
        else:
            self._to_freeze = {
                job_id: cause for job_id, cause in self._to_freeze.items() if cause is not FreezeCause.NEIGHBOUR
            }

    def _yields(self, job: Job) -> bool:
        return self.config.queues[job.spec.queue].yields

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

    def _expect(self, job: Job, now: float) -> None:
        self._ends.set(job.id, job.expected_end(now))

    def _compete(self, job: Job) -> None:
        """The pending job goes where it belongs: among the ready ones, or those that a moment is set for."""
        if job.held or self._dependencies.waits(job.id) or job.id in self._doomed:
            return
        if job.not_before is not None:
            self._delayed.set(job.id, job.not_before)
        else:
            self.ready.add(job, job.demand)

    def _patience(self) -> Iterator[float]:
        """Moments at which a running job may be preempted that may not be yet."""
        slice_ = self.settings.time_slice
        for _, job_id in self._ends:
            job = self._jobs[job_id]
            if job.state is State.RUNNING:
                ran = job.ledger.running - job.stretch
                for least in (self.min_run(job), slice_ or 0.0):
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
            self.claims.pop(job.id, None)

    def _leave_place(self, before: Job, now: float) -> None:
        """The attempt is over: what it had is free."""
        assert before.placement is not None
        job_id = before.id
        for waiting in [by for by, claim in self.claims.items() if job_id in claim]:
            self._made_room(before, waiting)
        if before.lends:
            kept = before.demand.kept(before.demand.memory if before.held_memory is None else before.held_memory)
            self._room.give(kept, evolve(before.placement, cpus=(), mems=()))
            self._hold(before, before.demand.kept(before.demand.memory), now, -1)
            del self._lending[job_id]
            self.ready.remove(before)
        else:
            self._room.give(before.demand, before.placement)
            self._hold(before, before.demand, now, -1)
        self._ends.set(job_id, None)
        del self._active[job_id]
        self._array_active[before.array_id] -= 1

    def _made_room(self, job: Job, waiting: str) -> None:
        """The job does what it was asked to do for another one, or will not."""
        self.claims.get(waiting, {}).pop(job.id, None)

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
