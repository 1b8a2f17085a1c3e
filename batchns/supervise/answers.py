"""What becomes of a job when it has started, ended, been frozen or thawed: each answer, applied to the books.

An answer may come late: that of an attempt which has been given up, or has ended, changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from attrs import asdict, define, evolve

from batchns.core import changes
from batchns.core.job import Cause
from batchns.errors import BatchnsError
from batchns.kernel.cgroups.interface import Driver
from batchns.launch.client import Ended, Started
from batchns.launch.keeper import Interrupted
from batchns.model import lifecycle
from batchns.model.lifecycle import State
from batchns.model.result import Usage
from batchns.supervise import events, launches
from batchns.supervise.attempt import Attempt, Preparer, started_data
from batchns.supervise.books import Books
from batchns.supervise.effects import Effects
from batchns.supervise.limits import missing
from batchns.supervise.outcome import Outcome, of_end, of_failed_launch
from batchns.units import format_duration


@define(kw_only=True, eq=False)
class Answers:
    """`root`: batchns has root's rights. `drain_when_lost`: without a launcher everything ends; else this
    process does, and what runs goes on.
    """

    books: Books
    preparer: Preparer
    effects: Effects
    driver: Driver
    root: bool
    drain_when_lost: bool = True

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
                self.finish(attempt, of_failed_launch(self.books.schedule[attempt.job_id], error, why))
            case events.LaunchHangs(attempt):
                self._on_launch_hangs(attempt)
            case events.Lost(attempt, error):
                self._on_lost(attempt, error)
            case events.Unkillable(attempt, empty):
                self._on_unkillable(attempt, empty)
            case events.FreezeAnswer():
                self._on_freeze_answer(event)
            case events.ThawAnswer():
                self._on_thaw_answer(event)
            case events.SqueezeAnswer(attempt, held):
                self.books.change(changes.Reclaimed(attempt.job_id, held))

    def _on_started(self, attempt: Attempt, started: Started) -> None:
        job_id = attempt.job_id
        attempt.started = started
        job = self.books.schedule[job_id]
        account = self.books.accounts[job_id]
        account.started = self.books.clock()
        account.limits = self.preparer.readings(attempt, job, started)
        self.books.change(changes.Started(job_id), lambda: started_data(attempt, account.limits))
        job = self.books.schedule[job_id]
        self.books.metering.started(job, started.phases)
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
        self.books.change(changes.Stopped(attempt.job_id, Cause.REFUSED, why=why))
        self.books.change(changes.Killed(attempt.job_id))
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
        self.finish(attempt, outcome, usage, ended.cgroup_texts)

    def _on_lost(self, attempt: Attempt, error: BatchnsError) -> None:
        if isinstance(error, Interrupted):
            self._on_interrupted(attempt, error)
            return
        if not self.drain_when_lost:
            raise error
        self.effects.clear(attempt)
        reason = f"{error}; how the job ended is not known"
        self.finish(attempt, Outcome(event=lifecycle.Event.LOST, reason=reason, retry=False))
        self.books.drain(str(error), kill=True)

    def _on_interrupted(self, attempt: Attempt, error: Interrupted) -> None:
        """The launcher died while it launched it. A command that never ran costs the job nothing."""
        self.preparer.give_back(attempt)
        job = self.books.schedule[attempt.job_id]
        if error.may_have_run:
            outcome = Outcome(event=lifecycle.Event.LOST, reason=str(error))
        elif job.stopping is not None and job.stopping.cause is not Cause.REQUEUED:
            outcome = of_failed_launch(job, error, self.books.accounts[job.id].asked_to_end)
        else:
            if job.stopping is None:
                self.books.change(changes.Stopped(job.id, Cause.REQUEUED, why=str(error)))
            outcome = Outcome(event=lifecycle.Event.LAUNCH_FAILED, reason=str(error))
        self.finish(attempt, outcome)

    def _on_unkillable(self, attempt: Attempt, empty: bool) -> None:
        """Given up. The address and ids of one that may still have processes, or get them, stay taken."""
        attempt.scope.cancel()
        if not empty:
            reason = f"processes in its cgroup {attempt.name} do not die: they wait in the kernel, see ps and dmesg"
        elif attempt.started is None:
            reason = "it was to end while it was being launched, and the launcher does not answer"
            if not (attempt.sent or attempt.asked):  # nobody but this process has ever heard of it
                self.preparer.give_back(attempt)
        else:
            reason = "it was killed, but the launcher does not say how it ended"
            self.effects.clear(attempt)
        self.finish(attempt, Outcome(event=lifecycle.Event.LOST, reason=reason, retry=False))

    def _on_freeze_answer(self, answer: events.FreezeAnswer) -> None:
        attempt, confirmed = answer.attempt, answer.confirmed
        if confirmed:
            self.books.metering.confirmed("freeze", answer.seconds)
        job = self.books.schedule[attempt.job_id]
        if job.state is State.SUSPENDING:
            if not (confirmed or answer.gone):
                self.books.metering.failed("freeze", job)
            self.books.change(changes.FreezeEnded(attempt.job_id, confirmed))
            self.books.tell(attempt.job_id)
        elif confirmed:  # it was asked to end meanwhile, and must run to do so
            self.effects.thaw(attempt)

    def _on_thaw_answer(self, answer: events.ThawAnswer) -> None:
        attempt, moved = answer.attempt, answer.moved
        account = self.books.accounts[attempt.job_id]
        if moved is not None:
            account.limits = {**account.limits, "cpuset_cpus": moved}
        job = self.books.schedule[attempt.job_id]
        if job.state is not State.SUSPENDED:
            return
        if answer.confirmed:
            self.books.metering.confirmed("thaw", answer.seconds)
            self.books.change(
                changes.Thawed(attempt.job_id), lambda: {} if moved is None else {"cpus": asdict(moved, recurse=False)}
            )
            self.books.tell(attempt.job_id)
        else:
            self.books.metering.failed("thaw", job)
            self.books.change(changes.ThawFailed(attempt.job_id, answer.why))
            self.books.tell(attempt.job_id)

    def finish(
        self,
        attempt: Attempt,
        outcome: Outcome,
        usage: Usage | None = None,
        texts: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """The attempt is over. `texts`: of its cgroups' files, read once more."""
        job_id = attempt.job_id
        del self.books.attempts[job_id]
        attempt.over.set()
        account = self.books.accounts[job_id]
        account.end(outcome, usage or Usage(), attempt.files)
        self.books.change(changes.Finished(job_id, outcome.event, outcome.retry), account.data)
        self.books.metering.ended(attempt.name, self.books.schedule[job_id], account.usage, texts)
        if job_id not in self.books.schedule.to_retry:
            self.books.conclude(job_id)
        self.books.chronicle.ended(self.books.schedule[job_id], account)
        self.effects.forget(attempt)
        self.books.tell(job_id)
