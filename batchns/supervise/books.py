"""What the loop knows of its jobs: the schedule, and beside it what each job has been given and has used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from attrs import define, field

from batchns.core.changes import Change, apply_change
from batchns.core.explain import explain
from batchns.core.job import FreezeCause, Job
from batchns.core.reasons import render
from batchns.core.schedule import Schedule
from batchns.model.lifecycle import State
from batchns.store.interface import Entry, Json
from batchns.supervise.account import Account
from batchns.supervise.attempt import Attempt
from batchns.supervise.ports import Chronicling, Metering, Recorder, Unmetered
from batchns.supervise.view import Observer


@define(eq=False)
class Books:
    """`clock`: seconds. Changed by the loop's own task only.

    `observer`: None for one that is told no more than which job it is (`told`): a view of it takes a while to make.
    """

    schedule: Schedule
    observer: Observer | None
    clock: Callable[[], float]
    chronicle: Chronicling
    recorder: Recorder | None = None
    told: Callable[[str], None] = lambda job_id: None
    accounts: dict[str, Account] = field(factory=dict)
    attempts: dict[str, Attempt] = field(factory=dict)  # of active jobs, by job id
    freed: deque[str] = field(factory=deque)  # jobs whose reason to wait has changed
    metering: Metering = field(factory=Unmetered)

    def change(self, change: Change, data: Callable[[], Mapping[str, Json]] = dict) -> None:
        """Apply the change, and have it recorded where anything is. `data` makes what a restart needs besides.

        Raises:
            IllegalEvent: the lifecycle has no such transition; nothing has changed.
        """
        now = self.clock()
        job_id: str | None = getattr(change, "job", None)
        before = None if job_id is None else self.schedule[job_id]
        self.freed += apply_change(self.schedule, change, now)
        if job_id is not None and before is not None:
            self.metering.changed(change, before, self.schedule[job_id])
        if self.recorder is not None:
            self.recorder.note(Entry(at=now, change=change, data=data()))

    def conclude(self, job_id: str) -> None:
        """The job is over for good: its result is part of its account from here on."""
        job, account = self.schedule[job_id], self.accounts[job_id]
        account.conclude(job)
        self.metering.concluded(job)
        self.chronicle.concluded(job, account)

    def tell(self, job_id: str) -> None:
        """Show the job, as it is now, to the onlooker."""
        self.told(job_id)
        if self.observer is None:
            return
        job = self.schedule[job_id]
        self.observer.job_changed(self.accounts[job_id].view(job, self.clock(), why(self.schedule, job)))

    def drain(self, detail: str, *, kill: bool) -> None:
        """Everything is to end; see `Schedule.drain`."""
        for job in self.schedule.drain(detail, kill=kill):
            self.conclude(job.id)
            self.tell(job.id)


def why(schedule: Schedule, job: Job) -> str:
    """Why the job does not run, for an onlooker; "" where it does, or is over."""
    if job.state is State.PENDING:
        return render(explain(schedule, job.id))
    if job.state in (State.SUSPENDING, State.SUSPENDED) and job.frozen is not None:
        match job.frozen.cause:
            case FreezeCause.PREEMPTED:
                return f"makes room for {job.frozen.by}"
            case FreezeCause.NEIGHBOUR:
                return "the machine is busy with other things"
            case FreezeCause.OWNER:
                return "thawed, waits for its CPUs" if job.id in schedule.ready else "frozen by its owner"
            case _:
                return ""
    return ""
