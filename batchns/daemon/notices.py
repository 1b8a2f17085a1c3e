"""What has become of a job that is worth telling, from one turn of the loop to the next."""

from __future__ import annotations

from attrs import define, field

from batchns.core.job import Job
from batchns.model.job import Notice
from batchns.model.lifecycle import State


@define(eq=False)
class Notices:
    _last: dict[str, tuple[State, int]] = field(init=False, factory=dict)  # state and attempt, by job

    def known(self, job: Job) -> None:
        """How the job is needs no telling: it was so before."""
        self._last[job.id] = (job.state, job.attempt)

    def of(self, job: Job, *, over: bool) -> Notice | None:
        """What has become of the job since it was looked at last. `over`: for good."""
        before, attempt = self._last.get(job.id, (State.PENDING, 1))
        if over:
            self._last.pop(job.id, None)
            failed = job.state not in (State.COMPLETED, State.CANCELLED)
            return Notice.FAILED if failed else Notice.ENDED
        self.known(job)
        if (job.state, job.attempt) == (before, attempt):
            return None
        if job.state is State.RUNNING and before in (State.PENDING, State.STARTING):
            return Notice.STARTED
        if job.state is State.SUSPENDED and before is not State.SUSPENDED:
            return Notice.FROZEN
        if job.state is State.PENDING and job.attempt > attempt:
            return Notice.REQUEUED
        return None
