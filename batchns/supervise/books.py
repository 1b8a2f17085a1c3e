"""What the loop knows of its jobs: the schedule, and beside it what each job has been given and has used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import define, field

from batchns.core.explain import explain
from batchns.core.job import FreezeCause, Job
from batchns.core.reasons import render
from batchns.core.schedule import Schedule
from batchns.model.lifecycle import State
from batchns.supervise.account import Account
from batchns.supervise.attempt import Attempt
from batchns.supervise.view import Observer


@define(eq=False)
class Books:
    """`clock`: seconds. Changed by the loop's own task only."""

    schedule: Schedule
    observer: Observer
    clock: Callable[[], float]
    accounts: dict[str, Account] = field(factory=dict)
    attempts: dict[str, Attempt] = field(factory=dict)  # of active jobs, by job id
    freed: deque[str] = field(factory=deque)  # jobs whose reason to wait has changed

    def tell(self, job_id: str) -> None:
        """Show the job, as it is now, to the onlooker."""
        job = self.schedule[job_id]
        waits = _why(self.schedule, job)
        self.observer.job_changed(self.accounts[job_id].view(job, self.clock(), waits))

    def drain(self, detail: str, *, kill: bool) -> None:
        """Everything is to end; see `Schedule.drain`."""
        for job in self.schedule.drain(detail, kill=kill):
            self.accounts[job.id].conclude(job)
            self.tell(job.id)


def _why(schedule: Schedule, job: Job) -> str:
    """Why the job does not run, for an onlooker; "" where it does, or is over."""
    if job.state is State.PENDING:
        return render(explain(schedule, job.id))
    if job.state in (State.SUSPENDING, State.SUSPENDED) and job.frozen is not None:
        match job.frozen.cause:
            case FreezeCause.PREEMPTED:
                return f"makes room for {job.frozen.by}"
            case FreezeCause.NEIGHBOUR:
                return "the machine is busy with other things"
            case _:
                return ""
    return ""
