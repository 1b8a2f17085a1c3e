"""The queue and the node as the policy knows them: all jobs, what waits for what, what is taken.

1. Jobs change here only, through `lifecycle.apply` first: an illegal event raises and changes nothing.
2. What can be derived (who is ready, what is free, whose time runs out) is kept up to date at every change, so that a
   decision costs as much as it decides, not as much as there are jobs.
3. A frozen job keeps its place: everything that is frozen today is thawed together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from attrs import evolve, frozen

from batchns.core.dependencies import Dependencies
from batchns.core.job import ACTIVE, Cause, Job, Stopping
from batchns.core.node import NodeCapacity
from batchns.core.placement import Placement, Room
from batchns.core.ready import Ready
from batchns.core.reasons import Reason, Shortage, Why
from batchns.model.job import Dependency
from batchns.model.lifecycle import Event, State, apply


@frozen
class Drain:
    """Everything is to end. `kill`: at once, without waiting for anyone's grace."""

    detail: str  # the reason that cancelled jobs are given
    kill: bool = False


class Schedule:
    """All jobs of one node. Read by `decide`; changed by whoever performs what it decides."""

    def __init__(self, capacity: NodeCapacity) -> None:
        self.capacity = capacity
        self.ready = Ready()
        self.draining: Drain | None = None
        self.paused = False
        self._jobs: dict[str, Job] = {}
        self._room = Room(capacity)
        self._dependencies = Dependencies()
        self._active: dict[str, None] = {}
        self._array_active: Counter[str] = Counter()
        self._pending: dict[str, None] = {}
        self._deadlines: dict[str, float] = {}
        self._doomed: dict[str, Reason] = {}
        self._to_retry: dict[str, None] = {}
        self._to_freeze: dict[str, None] = {}
        self._to_thaw: dict[str, None] = {}
        self._settled = 0

    # What there is to read.

    def __getitem__(self, job_id: str) -> Job:
        return self._jobs[job_id]

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
    def doomed(self) -> Mapping[str, Reason]:
        return MappingProxyType(self._doomed)

    @property
    def to_retry(self) -> tuple[str, ...]:
        return tuple(self._to_retry)

    @property
    def to_freeze(self) -> tuple[str, ...]:
        return tuple(self._to_freeze)

    @property
    def to_thaw(self) -> tuple[str, ...]:
        return tuple(self._to_thaw)

    def room(self) -> Room:
        """A copy of what is free now."""
        return self._room.copy()

    def shortage(self, job: Job) -> Shortage | None:
        """What the job lacks to start now; None when it fits."""
        return self._room.shortage(job.demand)

    def active_tasks(self, array_id: str) -> int:
        return self._array_active[array_id]

    def due(self, now: float) -> list[str]:
        """Jobs whose time limit or grace is over."""
        return [job_id for job_id, moment in self._deadlines.items() if moment <= now]

    def next_deadline(self) -> float | None:
        """The next moment at which `due` has something new."""
        return min(self._deadlines.values(), default=None)

    def open_dependency(self, job: Job) -> Dependency | None:
        """The first dependency that the pending job still waits for."""
        return self._dependencies.first_open(job.spec.dependency) if self._dependencies.waits(job.id) else None

    # What may change it. `now` never goes back.

    def submit(self, jobs: Iterable[Job]) -> None:
        """New PENDING jobs; every name that they depend on is among them or already here."""
        jobs = list(jobs)
        self._dependencies.add(job.spec.name for job in jobs)
        for job in jobs:
            self._jobs[job.id] = job
            self._pending[job.id] = None
            doom = self._dependencies.wait(job.id, job.spec.dependency)
            if doom is not None:
                self._doom(job.id, doom)
            elif not self._dependencies.waits(job.id):
                self.ready.add(job)

    def launch(self, job_id: str, placement: Placement, now: float) -> Job:
        """LAUNCH: the place is taken from here on."""
        job = self._change(job_id, Event.LAUNCH, now, placement=placement, stopping=None)
        self._leave_queue(job)
        self._room.take(job.demand, placement)
        self._active[job.id] = None
        self._array_active[job.array_id] += 1
        return job

    def started(self, job_id: str, now: float) -> list[str]:
        """STARTED: the command runs. Returns the jobs that wait for nothing any more because of it."""
        first = self._jobs[job_id].run_base is None
        job = self._change(job_id, Event.STARTED, now)
        job = self._replace(evolve(job, run_base=job.ledger.running))
        if self.paused and job.state is State.RUNNING:
            self._to_freeze[job.id] = None
        return self._settle_edges(*self._dependencies.started(job.spec.name)) if first else []

    def freezing(self, job_id: str, now: float) -> Job:
        """FREEZE: the kernel is being asked."""
        self._change(job_id, Event.FREEZE, now)
        self._to_freeze.pop(job_id, None)
        return self._jobs[job_id]

    def frozen(self, job_id: str, now: float, *, confirmed: bool) -> Job:
        """FROZEN, or FREEZE_FAILED: it was rolled back, and is not tried again before the next pause."""
        job = self._change(job_id, Event.FROZEN if confirmed else Event.FREEZE_FAILED, now)
        if confirmed and not self.paused:
            self._to_thaw[job_id] = None
        return job

    def thawing(self, job_id: str) -> None:
        """The kernel is being asked: no second `Thaw` until `thaw_failed` says so."""
        self._to_thaw.pop(job_id, None)

    def thaw_failed(self, job_id: str) -> None:
        if self._jobs[job_id].state is State.SUSPENDED and not self.paused:
            self._to_thaw[job_id] = None

    def thawed(self, job_id: str, now: float) -> Job:
        """THAWED. A pause that came meanwhile freezes it again."""
        job = self._change(job_id, Event.THAWED, now)
        if self.paused:
            self._to_freeze[job_id] = None
        return job

    def stop(self, job_id: str, cause: Cause, now: float) -> Job:
        """STOP: asked to end; to be killed when its grace is over."""
        grace = self._jobs[job_id].bounds.grace_time
        job = self._change(job_id, Event.STOP, now, stopping=Stopping(cause, now + grace))
        self._to_freeze.pop(job_id, None)
        self._to_thaw.pop(job_id, None)
        return job

    def killed(self, job_id: str) -> Job:
        """A COMPLETING job has been killed: what is left is to hear of its end."""
        job = self._jobs[job_id]
        if job.stopping is not None:
            job = self._replace(evolve(job, stopping=evolve(job.stopping, kill_at=None)))
        return job

    def finish(self, job_id: str, event: Event, now: float, *, retry: bool = True) -> list[str]:
        """An attempt's end (any event that leads to a final state): its place is free.

        `retry` False: it would end the same way again. Returns the jobs that wait for nothing any more because of it.
        """
        before = self._jobs[job_id]
        job = self._change(job_id, event, now, placement=None, stopping=None)
        self._leave_queue(job)
        self._to_freeze.pop(job_id, None)
        self._to_thaw.pop(job_id, None)
        if before.placement is not None:
            self._room.give(job.demand, before.placement)
            del self._active[job_id]
            self._array_active[job.array_id] -= 1
        if retry and job.retries and self.draining is None:
            self._to_retry[job_id] = None
            return []
        return self._settle(job)

    def requeue(self, job_id: str, now: float) -> Job:
        """REQUEUE: the next attempt is PENDING."""
        job = self._change(job_id, Event.REQUEUE, now, attempt=self._jobs[job_id].attempt + 1)
        del self._to_retry[job_id]
        self._pending[job_id] = None
        self.ready.add(job)
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
            self._to_freeze |= {job_id: None for job_id in self._active if self._jobs[job_id].state is State.RUNNING}

    def resume(self) -> None:
        """Thaw what is frozen, start again."""
        self.paused = False
        self._to_freeze.clear()
        self._to_thaw |= {job_id: None for job_id in self._active if self._jobs[job_id].state is State.SUSPENDED}

    def _change(self, job_id: str, event: Event, now: float, **changes: Any) -> Job:
        job = self._jobs[job_id]
        state = apply(job_id, job.state, event)
        return self._replace(evolve(job, state=state, ledger=job.ledger.at(job.state, now), **changes))

    def _replace(self, job: Job) -> Job:
        self._jobs[job.id] = job
        deadline = job.deadline() if job.state in ACTIVE else None
        if deadline is None:
            self._deadlines.pop(job.id, None)
        else:
            self._deadlines[job.id] = deadline
        return job

    def _leave_queue(self, job: Job) -> None:
        if job.id in self._pending:
            del self._pending[job.id]
            self.ready.remove(job)
            self._dependencies.forget(job.id)
            self._doomed.pop(job.id, None)

    def _settle(self, job: Job) -> list[str]:
        self._settled += 1
        succeeded, had_started = job.state is State.COMPLETED, job.run_base is not None
        return self._settle_edges(
            *self._dependencies.ended(job.spec.name, succeeded=succeeded, had_started=had_started)
        )

    def _settle_edges(self, free: list[str], doomed: list[tuple[str, Dependency]]) -> list[str]:
        for job_id in free:
            self.ready.add(self._jobs[job_id])
        for job_id, edge in doomed:
            self._doom(job_id, edge)
        return free

    def _doom(self, job_id: str, edge: Dependency) -> None:
        self._doomed[job_id] = Reason(why=Why.DEPENDENCY_NEVER, dependency=edge)
