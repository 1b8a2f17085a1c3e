"""What people ask for, with single jobs and with the node. `Schedule` (schedule.py) has the rest."""

from __future__ import annotations

from attrs import evolve

from batchns.core.books import Books
from batchns.core.job import ACTIVE, LENDING, FreezeCause, Job, changed
from batchns.model.lifecycle import Event, IllegalEvent, State


class Wishes(Books):
    """Nothing here asks the machine for anything: what is to be done about it is for `decide` to say."""

    def hold(self, job_id: str) -> Job:
        """The job does not compete until `release`: a pending one from now on, an active one with its next attempt.

        Nothing changes for one that is over for good.
        """
        job = self._jobs[job_id]
        if self.over(job_id):
            return job
        job = self._replace(changed(job, {"held": True}))
        if job.state is State.PENDING:
            self._withdraw(job)
            self.claims.drop(job_id)
            self._delayed.set(job_id, None)
        return job

    def release(self, job_id: str) -> Job:
        """Undo `hold` and `freeze`: the job may compete, for a start or for its thaw.

        One that is just being frozen because somebody asked for it goes on at once, where it is.
        """
        before = self._jobs[job_id]
        if self.over(job_id):
            return before
        self._asked_to_freeze.pop(job_id, None)
        if self._to_freeze.get(job_id) is FreezeCause.OWNER:
            del self._to_freeze[job_id]
            self._freeze_again(before)
        job = self._replace(changed(before, {"held": False}))
        if job.state is State.PENDING and before.held:
            self._compete(job)
        elif job.state is State.SUSPENDING and job.frozen is not None and job.frozen.cause is FreezeCause.OWNER:
            job = self._replace(changed(job, {"frozen": evolve(job.frozen, cause=FreezeCause.PAUSE)}))
        elif job.state is State.SUSPENDED and job.lends and job_id not in self.ready and job_id not in self.unfit:
            self._compete(job)
        return job

    def freeze(self, job_id: str, now: float) -> Job:
        """Somebody asks for the active job to be frozen until `release`: `decide` says when, as soon as it runs.

        One that is frozen for another one already, or is being, stays so: what it was promised is void.

        Raises:
            IllegalEvent: it does not run, nor is about to; nothing has changed.
        """
        job = self._jobs[job_id]
        if job.state not in ACTIVE or job.state is State.COMPLETING:
            raise IllegalEvent(job_id, job.state, Event.FREEZE)
        asked = job.frozen
        if asked is None or asked.cause not in LENDING:
            self._asked_to_freeze[job_id] = None
            if job.state is State.RUNNING:
                self._freeze_again(job)
            return job
        owned = evolve(asked, cause=FreezeCause.OWNER, thaw_by=None)
        job = self._replace(changed(job, {"frozen": owned, "lent": job.lent_at(now)}))
        if job.state is State.SUSPENDED:
            self._withdraw(job)
            self.claims.drop(job_id)
        return job

    def prioritise(self, job_id: str, priority: int) -> Job:
        """The job has this priority, 0 to 100, from now on: a waiting one changes place, an active one keeps it."""
        job = self._jobs[job_id]
        order = job.order
        competed = job_id in self.ready or job_id in self.unfit
        self._withdraw(job)
        job = self._replace(changed(job, {"order": (order[0], -priority, *order[2:])}))
        if competed:
            self._compete(job)
        return job

    def close(self, detail: str) -> None:
        """Nothing is started any more, nor frozen or ended to make room; what runs goes on, and frozen jobs may.

        Other than `drain`, which ends everything.
        """
        self.closed = detail
        for waiting in list(self.claims):
            if self._jobs[waiting].state is State.PENDING:
                self.claims.drop(waiting)

    def open(self) -> None:
        """Jobs are started again."""
        self.closed = None

    def _yields(self, job: Job) -> bool:
        return self.queue(job.spec.queue).yields

    def _freeze_again(self, job: Job) -> None:
        """The job has come to run while others are, or are to be, frozen."""
        if self.paused:
            self._to_freeze[job.id] = FreezeCause.PAUSE
        elif job.id in self._asked_to_freeze:
            self._to_freeze[job.id] = FreezeCause.OWNER
        elif self.yielding and self._yields(job):
            self._to_freeze[job.id] = FreezeCause.NEIGHBOUR
