"""What happens to the jobs of one node: every event has a method here, and there is no other way to change them.

1. Jobs change here only, through `lifecycle.apply` first: an illegal event raises and changes nothing.
2. A job that is frozen for another one lends its CPUs and its bandwidth, and competes to get some back. One that is
   frozen by a pause keeps its place: everything that is paused goes on together.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import evolve

from batchns.core.books import Drain
from batchns.core.job import LENDING, Cause, FreezeCause, Frozen, Job, Stopping, changed
from batchns.core.node import NodeCapacity
from batchns.core.placement import Placement
from batchns.core.retry import next_attempt
from batchns.core.wishes import Wishes
from batchns.model.config import Config, Preemption
from batchns.model.job import PreemptMode
from batchns.model.lifecycle import Event, IllegalEvent, State, apply

__all__ = ["Drain", "Schedule"]


class Schedule(Wishes):
    """All jobs of one node. Read by `decide`; changed by whoever performs what it decides. `now` never goes back."""

    def submit(self, jobs: Iterable[Job]) -> None:
        """New PENDING jobs, all of one submission; what they depend on is among them, here, or over and forgotten."""
        jobs = list(map(self._current, jobs))
        self._dependencies.add(jobs)
        for job in jobs:
            self._jobs[job.id] = job
            if job.index is not None:
                self._arrays.setdefault(job.array_id, []).append(job.id)
                self._array_left[job.array_id] += 1
        for job in jobs:
            self._pending[job.id] = None
            self._waiting[job.spec.queue] += 1
            self._too_late.set(job.id, job.last_start)
            if job.edges:
                doom = self._dependencies.wait(job, self._tally)
                if doom is not None:
                    self._doom(job.id, doom)
                    continue
            self._compete(job)

    def forget(self, job_id: str) -> tuple[str, ...]:
        """The job leaves memory and all books. Returns the ids of those that have left; empty: not yet.

        An array leaves as a whole, so that who comes to depend on it sees all of its tasks. Not yet: a task of it is
        not over for good, or a waiting job depends on it. One that is gone already has left.
        """
        job = self._jobs.get(job_id)
        if job is None:
            return (job_id,)
        array_id = job.array_id
        over = self.over(job_id) if job.index is None else not self._array_left[array_id]
        if not over or self._dependencies.depended_on(array_id):
            return ()
        gone = tuple(self.tasks(array_id))
        for task in gone:
            del self._jobs[task]
        self._settled -= len(gone)
        self._arrays.pop(array_id, None)
        self._array_left.pop(array_id, None)
        self._dependencies.forget_array(array_id, job.user, job.spec.name)
        return gone

    def reconfigure(self, capacity: NodeCapacity, config: Config, now: float) -> None:
        """Another node, or another batchns.toml: what waits is ranked anew, what runs goes on, nothing is lost.

        What a job was given when it was submitted stays, as the defaults of its queue; its queue's priority is that of
        now. Who cannot run any more is kept, and told so.
        """
        competing = {*self.unfit, *(job.id for job in self if job.id in self.ready)}
        if self.settings.preempt is not Preemption.SHORTER and config.schedule.preempt is Preemption.SHORTER:
            for job in self.running:
                self._outlived.set(job.id, job.outlives(job.ledger.since))
        self._set_up(capacity, config)
        fair = config.fair_share
        self.shares = self.shares.rebuilt(capacity, fair.half_life, fair.shares, now)
        for job in list(self):
            if not self.over(job.id):
                self._jobs[job.id] = self._current(job)
        for job_id in self._active:
            self._take_again(self._jobs[job_id], now)
        for job_id in (*self._pending, *self._lending):
            job = self._jobs[job_id]
            if not job.lends or job_id in competing:
                self._compete(job)
        if self.yielding:
            self.yield_to_others(on=False)
            self.yield_to_others(on=True)

    def _take_again(self, job: Job, now: float) -> None:
        """The active job has its place on a node where nothing is taken yet."""
        assert job.placement is not None
        self._hold(job, job.demand, now, 1)
        if job.lends:
            kept = job.demand.kept(job.demand.memory if job.held_memory is None else job.held_memory)
            self._room.take(kept, evolve(job.placement, cpus=(), mems=()))
            self._lend(job, now, 1)
        else:
            self._room.take(job.demand, job.placement)

    def join(self, job_id: str) -> None:
        """The pending job's begin, or next try, has come."""
        self._delayed.set(job_id, None)
        self._compete(self._replace(changed(self._jobs[job_id], {"not_before": None})))

    def launch(self, job_id: str, placement: Placement, now: float) -> Job:
        """LAUNCH: the place is taken from here on."""
        job = self._change(job_id, Event.LAUNCH, now, placement=placement, stopping=None, warned=False)
        self._leave_queue(job)
        self._room.take(job.demand, placement)
        self._active[job.id] = None
        self._array_active[job.array_id] += 1
        self._sharing += not job.demand.whole
        self._hold(job, job.demand, now, 1)
        self._expect(job, now)
        return job

    def started(self, job_id: str, now: float) -> list[str]:
        """STARTED: the command runs. Returns the jobs that wait for nothing any more because of it."""
        before = self._jobs[job_id]
        first, ran = before.run_base is None, before.ledger.at(before.state, now).running
        job = self._change(job_id, Event.STARTED, now, run_base=ran, stretch=ran)
        self._expect(job, now)
        if job.state is State.RUNNING:
            self._freeze_again(job)
        return self._settle_edges(*self._dependencies.started(job)) if first else []

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
        if cause is FreezeCause.OWNER:
            self._asked_to_freeze.pop(job_id, None)
        if by in self._jobs:
            self.claims.ask(by, job_id)
        return job

    def frozen(self, job_id: str, now: float, *, confirmed: bool) -> Job:
        """FROZEN: it lends what others need, or keeps it in a pause. FREEZE_FAILED: rolled back, not tried again."""
        before = self._jobs[job_id]
        apply(job_id, before.state, Event.FROZEN if confirmed else Event.FREEZE_FAILED)
        asked = before.frozen
        assert asked is not None
        if not confirmed:
            self.claims.failed(job_id)
            failed = before.unfreezable or asked.cause is FreezeCause.PREEMPTED
            return self._change(job_id, Event.FREEZE_FAILED, now, frozen=None, unfreezable=failed)
        self.claims.made(job_id)
        preempted = asked.cause is FreezeCause.PREEMPTED
        job = self._change(
            job_id, Event.FROZEN, now, frozen=evolve(asked, since=now), freezes=before.freezes + preempted
        )
        if asked.cause in LENDING:
            assert job.placement is not None
            self._room.give(job.demand.to_thaw(), job.placement)
            self._lend(job, now, 1)
            self._expect_none(job_id)
            self._lending[job_id] = None
            if asked.cause is not FreezeCause.OWNER:
                self._compete(job)
        elif not self.paused:
            self._to_thaw[job_id] = None
        return job

    def reclaiming(self, job_id: str) -> Job:
        """The kernel is being asked what the frozen job can do without; once in a freeze."""
        job = self._jobs[job_id]
        self.squeezed[job_id] = None
        return self._replace(changed(job, {"held_memory": job.demand.memory}))

    def reclaimed(self, job_id: str, held: int | None, now: float) -> None:
        """The frozen job is bounded to `held` bytes from now on; None: nothing could be had of it."""
        job = self._jobs[job_id]
        self.squeezed.pop(job_id, None)
        if held is None or not job.lends or job.held_memory is None or held >= job.held_memory:
            return
        self._room.memory += job.held_memory - held
        job = self._replace(changed(job, {"held_memory": held}))
        if job_id in self.ready or job_id in self.unfit:
            self._withdraw(job)
            self._compete(job)

    def thawing(self, job_id: str, placement: Placement | None, now: float) -> Job:
        """The kernel is being asked: no second `Thaw` until `thaw_failed` says so. `placement`: where it goes on."""
        job = self._jobs[job_id]
        self._to_thaw.pop(job_id, None)
        if placement is not None and job.lends:
            self._withdraw(job)
            self.claims.drop(job_id)
            self.squeezed.pop(job_id, None)
            assert job.placement is not None
            placement = evolve(placement, units=job.placement.units)
            self._room.take(self.wanted(job), placement)
            self._lend(job, now, -1)
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

    def thaw_failed(self, job_id: str, why: str = "") -> None:
        """It stays frozen, and is tried again. `why` is kept until it is thawed, for whoever asks."""
        job = self._jobs[job_id]
        if job.state is State.SUSPENDED and not job.lends:
            self._replace(changed(job, {"trouble": why}))
            if not self.paused:
                self._to_thaw[job_id] = None

    def thawed(self, job_id: str, now: float) -> Job:
        """THAWED. What came meanwhile, a pause or a busy machine, freezes it again."""
        job = self._change(job_id, Event.THAWED, now, frozen=None, trouble="")
        job = self._replace(changed(job, {"stretch": job.ledger.running}))
        self._expect(job, now)
        self._freeze_again(job)
        return job

    def warn(self, job_id: str) -> Job:
        """The command has been warned of its time limit."""
        return self._replace(changed(self._jobs[job_id], {"warned": True}))

    def stop(self, job_id: str, cause: Cause, now: float, *, by: str = "") -> Job:
        """STOP: asked to end; to be killed when its grace is over. `by`: the job that waits for its place.

        Asked once more it has no more time, and what is to become of it stands, unless that was another attempt.
        """
        before = self._jobs[job_id]
        # It runs again to end: on CPUs that others may have by now, for no longer than its grace.
        frozen = before.frozen if before.lends else None
        stopping = Stopping(cause, now + before.bounds.grace_time)
        if (asked := before.stopping) is not None:
            kill_at = asked.kill_at if asked.kill_at is None else min(asked.kill_at, now + before.bounds.grace_time)
            stopping = Stopping(asked.cause if cause is Cause.REQUEUED else cause, kill_at)
        job = self._change(job_id, Event.STOP, now, stopping=stopping, frozen=frozen)
        self._withdraw(job)
        self.claims.drop(job_id)
        self._to_freeze.pop(job_id, None)
        self._to_thaw.pop(job_id, None)
        self._asked_to_freeze.pop(job_id, None)
        if by in self._jobs:
            self.claims.ask(by, job_id)
        if not job.lends:
            self._expect(job, now)
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
        job = self._change(job_id, event, now, placement=None, stopping=None, frozen=None, held_memory=None, trouble="")
        self._leave_queue(job)
        self._to_freeze.pop(job_id, None)
        self._to_thaw.pop(job_id, None)
        self._asked_to_freeze.pop(job_id, None)
        if before.placement is not None:
            self._leave_place(before, now)
        again = before.stopping is not None and (
            before.stopping.cause is Cause.REQUEUED
            or (before.stopping.cause is Cause.PREEMPTED and job.mode is PreemptMode.REQUEUE)
        )
        again &= job.state is not State.COMPLETED  # it was done before it heard of it
        if self.draining is None and (again or (retry and job.retries)):
            if again:
                self._replace(changed(job, {"requeues": job.requeues + 1}))
            self._to_retry[job_id] = None
            return []
        return self._settle(job)

    def requeue(self, job_id: str, now: float) -> Job:
        """REQUEUE: the next attempt is PENDING, with what it needs more where that is asked for."""
        before = self._jobs[job_id]
        apply(job_id, before.state, Event.REQUEUE)
        if job_id not in self._to_retry:
            raise IllegalEvent(job_id, before.state, Event.REQUEUE)
        most = self.queue(before.spec.queue).most("memory")
        memory = self.capacity.memory if most is None else min(self.capacity.memory, int(most))
        job = self._change(job_id, Event.REQUEUE, now, **next_attempt(before, memory, now))
        del self._to_retry[job_id]
        self._pending[job_id] = None
        self._waiting[job.spec.queue] += 1
        self._too_late.set(job_id, job.last_start)
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
        self._to_freeze = {job_id: cause for job_id, cause in self._to_freeze.items() if cause is not FreezeCause.PAUSE}
        self._to_thaw |= {
            job_id: None
            for job_id in self._active
            if self._jobs[job_id].state is State.SUSPENDED and not self._jobs[job_id].lends
        }
        for job_id in self._asked_to_freeze:  # the pause had taken its place
            if self._jobs[job_id].state is State.RUNNING:
                self._to_freeze[job_id] = FreezeCause.OWNER
        if self.yielding:  # and of this
            self.yield_to_others(on=True)

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
