"""What becomes of a job when it has started, ended, been frozen or thawed: each answer, applied to the books.

An answer may come late: that of an attempt which has been given up, or has ended, changes nothing.
"""

from __future__ import annotations

from attrs import define, evolve

from batchns.core.job import Cause
from batchns.errors import BatchnsError
from batchns.kernel.cgroups.interface import Driver
from batchns.launch.client import Ended, Started
from batchns.model import lifecycle
from batchns.model.lifecycle import State
from batchns.model.result import LimitReading, Usage
from batchns.supervise import events, launches
from batchns.supervise.attempt import Attempt, Preparer
from batchns.supervise.books import Books
from batchns.supervise.chronicle import Chronicle
from batchns.supervise.effects import Effects
from batchns.supervise.limits import missing
from batchns.supervise.outcome import Outcome, of_end, of_failed_launch
from batchns.units import format_duration


@define(kw_only=True, eq=False)
class Answers:
    """`root`: batchns has root's rights."""

    books: Books
    preparer: Preparer
    effects: Effects
    chronicle: Chronicle
    driver: Driver
    root: bool

    def heed(self, event: events.Answer) -> None:
        """Apply the answer."""
        match event:
            case _ if self.books.attempts.get(event.attempt.job_id) is not event.attempt:
                pass  # an answer that came after the attempt had been given up, or had ended
            case events.HasStarted(attempt, started):
                self._on_started(attempt, started)
            case events.HasEnded(attempt, ended):
                self._on_ended(attempt, ended)
            case events.LaunchFailed(attempt, error):
                self.preparer.give_back(attempt)
                why = self.books.accounts[attempt.job_id].asked_to_end
                self._finish(attempt, of_failed_launch(self.books.schedule[attempt.job_id], error, why))
            case events.LaunchHangs(attempt):
                self._on_launch_hangs(attempt)
            case events.Lost(attempt, error):
                self._on_lost(attempt, error)
            case events.Unkillable(attempt, empty):
                self._on_unkillable(attempt, empty)
            case events.FreezeAnswer(attempt, confirmed):
                self._on_freeze_answer(attempt, confirmed)
            case events.ThawAnswer(attempt, confirmed, moved):
                self._on_thaw_answer(attempt, confirmed, moved)
            case events.SqueezeAnswer(attempt, held):
                self.books.schedule.reclaimed(attempt.job_id, held, self.books.clock())

    def _on_started(self, attempt: Attempt, started: Started) -> None:
        job_id = attempt.job_id
        attempt.started = started
        self.books.freed += self.books.schedule.started(job_id, self.books.clock())
        job = self.books.schedule[job_id]
        account = self.books.accounts[job_id]
        account.limits = self.preparer.readings(attempt, job, started)
        lost = ((name, found.why) for name, found in account.limits.items() if found.value is None)
        refusal = missing(lost, root=self.root)
        if job.stopping is not None:  # it was asked to end before it could be told
            if job.stopping.kill_at is None:
                self.effects.kill(attempt)
            else:
                self.effects.ask(attempt, thaw=False)
        elif job.bounds.strict and refusal:
            self._refuse(attempt, refusal)
        self.books.tell(job_id)

    def _on_launch_hangs(self, attempt: Attempt) -> None:
        """Killed; what the launcher says to that is the end of it. One that was asked to end meanwhile will be, too."""
        if self.books.schedule[attempt.job_id].state is not State.STARTING:
            return
        limit = format_duration(launches.TIMEOUT)
        self._refuse(
            attempt,
            f"the launch did not finish within {limit} - see that the file systems of its cwd and binds answer",
        )
        self.books.tell(attempt.job_id)

    def _refuse(self, attempt: Attempt, why: str) -> None:
        self.books.accounts[attempt.job_id].asked_to_end = why
        self.books.schedule.stop(attempt.job_id, Cause.REFUSED, self.books.clock())
        self.books.schedule.killed(attempt.job_id)
        self.effects.kill(attempt)

    def _on_ended(self, attempt: Attempt, ended: Ended) -> None:
        job = self.books.schedule[attempt.job_id]
        usage = self.driver.usage(ended.cgroup_texts)
        if ended.network is not None:
            sent, received = ended.network
            usage = evolve(usage, net_sent_bytes=sent, net_received_bytes=received)
        outcome = of_end(job, ended, usage, self.books.accounts[job.id].asked_to_end)
        told = [outcome.reason] if outcome.reason else []
        if ended.unread:
            told.append(f"usage is not complete: {ended.unread}")
        if ended.left:  # what could not be removed may still use the slot's address and ids: it stays taken
            told.append(f"left behind: {', '.join(ended.left)}")
        else:
            self.preparer.give_back(attempt)
        outcome = evolve(outcome, reason="; ".join(told))
        self._finish(attempt, outcome, usage)

    def _on_lost(self, attempt: Attempt, error: BatchnsError) -> None:
        self.effects.clear(attempt)
        reason = f"{error}; how the job ended is not known"
        self._finish(attempt, Outcome(event=lifecycle.Event.LOST, reason=reason, retry=False))
        self.books.drain(str(error), kill=True)

    def _on_unkillable(self, attempt: Attempt, empty: bool) -> None:
        """Given up. The address and ids of one that may still have processes, or get them, stay taken."""
        attempt.scope.cancel()
        if not empty:
            reason = f"processes in its cgroup {attempt.name} do not die: they wait in the kernel, see ps and dmesg"
        elif attempt.started is None:
            reason = "it was to end while it was being launched, and the launcher does not answer"
        else:
            reason = "it was killed, but the launcher does not say how it ended"
            self.effects.clear(attempt)
        self._finish(attempt, Outcome(event=lifecycle.Event.LOST, reason=reason, retry=False))

    def _on_freeze_answer(self, attempt: Attempt, confirmed: bool) -> None:
        if self.books.schedule[attempt.job_id].state is State.SUSPENDING:
            self.books.schedule.frozen(attempt.job_id, self.books.clock(), confirmed=confirmed)
            self.books.tell(attempt.job_id)
        elif confirmed:  # it was asked to end meanwhile, and must run to do so
            self.effects.thaw(attempt)

    def _on_thaw_answer(self, attempt: Attempt, confirmed: bool, moved: LimitReading | None) -> None:
        account = self.books.accounts[attempt.job_id]
        if moved is not None:
            account.limits = {**account.limits, "cpuset_cpus": moved}
        if self.books.schedule[attempt.job_id].state is not State.SUSPENDED:
            return
        if confirmed:
            self.books.schedule.thawed(attempt.job_id, self.books.clock())
            self.books.tell(attempt.job_id)
        else:
            self.books.schedule.thaw_failed(attempt.job_id)

    def _finish(self, attempt: Attempt, outcome: Outcome, usage: Usage | None = None) -> None:
        job_id = attempt.job_id
        del self.books.attempts[job_id]
        attempt.over.set()
        account = self.books.accounts[job_id]
        account.end(outcome, usage or Usage(), attempt.files)
        self.books.freed += self.books.schedule.finish(job_id, outcome.event, self.books.clock(), retry=outcome.retry)
        job = self.books.schedule[job_id]
        if job_id not in self.books.schedule.to_retry:
            account.conclude(job)
        self.chronicle.ended(job, account)
        self.books.tell(job_id)
