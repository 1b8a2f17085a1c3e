"""What becomes of jobs that are over: history, what is learnt for later ones, and their leaving memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from attrs import define, field

from batchns.core.estimates import Estimates, tells
from batchns.core.job import Job
from batchns.daemon.hub import Hub
from batchns.daemon.owners import Owners
from batchns.daemon.recorder import Recorder
from batchns.store.interface import Ending
from batchns.supervise.account import Account
from batchns.supervise.books import Books
from batchns.supervise.outputs import Outputs

KNOWN = 600.0  # seconds for which new jobs can depend on one that is over, as long as there are not too many
MOST_KNOWN = 1000  # jobs, or arrays
_AGAIN = 30.0  # seconds after which one that could not leave is looked at again
_AT_ONCE = 64
REMEMBERED = 2000  # endings that estimates are made of, after a restart


@define(kw_only=True, eq=False)
class Register:
    """See `supervise.ports.Chronicling`."""

    recorder: Recorder
    owners: Owners
    hub: Hub
    outputs: Outputs
    estimates: Estimates = field(factory=Estimates)
    books: Books = field(init=False)
    # By user: submissions under way, which may depend on what is known now of the user's own jobs.
    pins: Counter[str] = field(init=False, factory=Counter)
    _over: list[str] = field(init=False, factory=list)  # jobs, since the last turn
    # By array that is, or soon will be, over and has not left the schedule: one of its jobs, and when it may.
    _leaving: dict[str, tuple[str, float]] = field(init=False, factory=dict)
    _rows: dict[str, tuple[Job, bytes]] = field(init=False, factory=dict)  # of all jobs that are over and have not left

    def ended(self, job: Job, account: Account) -> None:
        if job.run_base is not None and tells(job.state):
            self.estimates.learn(job.user, job.spec.name, job.ledger.running - job.run_base, job.bounds.time_limit)

    def concluded(self, job: Job, account: Account) -> None:
        assert account.result is not None
        self._over.append(job.id)
        self.recorder.ending(
            Ending(
                job_id=job.id,
                result=account.result,
                uid=self.owners[job.array_id].uid,
                user=job.user,
                queue=job.spec.queue,
                submitted=account.submitted,
                started=account.started,
                ended=job.ledger.since,
                cpus=job.demand.cpus,
                memory=job.bounds.memory,
                time_limit=job.bounds.time_limit,
            )
        )

    def recall(self, ending: Ending) -> None:
        """From history: what an earlier job took."""
        result = ending.result
        if ending.started is not None and tells(result.state):
            self.estimates.learn(ending.user, result.name, ending.ended - ending.started, ending.time_limit)

    def over(self, job_ids: Iterable[str]) -> None:
        """Jobs that were over already when the daemon started."""
        self._over += job_ids

    def unpin(self, user: str) -> None:
        """A submission of the user's, for which one was added to `pins`, has come to its end."""
        self.pins[user] -= 1
        if not self.pins[user]:
            del self.pins[user]

    def turn_over(self) -> None:
        """Jobs that have been over for a while leave memory, an array as a whole, but those that others depend on."""
        over, self._over = self._over, []
        schedule = self.books.schedule
        for job_id in over:
            if job_id in schedule and job_id not in self._rows:
                job = schedule[job_id]
                self._rows[job_id] = (job, self.hub.row(job))
                self._leave_later(job.array_id, job_id, KNOWN)
        now = self.books.clock()
        for _ in range(_AT_ONCE):
            array_id, (job_id, due) = next(iter(self._leaving.items()), ("", ("", 0.0)))
            if not array_id or (due > now and len(self._leaving) <= MOST_KNOWN):
                break
            if self.pins[self._rows[job_id][0].user] or not (gone := schedule.forget(job_id)):
                self._leave_later(array_id, job_id, _AGAIN)
            else:
                del self._leaving[array_id]
                self._leave(gone)

    def _leave_later(self, array_id: str, job_id: str, seconds: float) -> None:
        self._leaving.pop(array_id, None)
        self._leaving[array_id] = (job_id, self.books.clock() + seconds)

    def _leave(self, gone: Sequence[str]) -> None:
        array_id = self._rows[gone[0]][0].array_id
        key = self.owners[array_id].key
        for job_id in gone:
            self.hub.leave(*self._rows.pop(job_id))
            del self.books.accounts[job_id]
        if self.owners.forget(array_id, len(gone)):
            self.outputs.forget(key)
