"""What users may do with jobs that are there: every verb for those that are not over.

1. Whose job it is decides the kernel's word about the peer, and nothing else. What is not the peer's is not there: no
   answer tells whether a job of somebody else's exists.
2. Every change is made by the loop's own task, and answered when it has been recorded.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from attrs import define, field

from batchns.core import changes
from batchns.core.job import ACTIVE, Cause, FreezeCause, Job
from batchns.daemon import selectors
from batchns.daemon.owners import Owners
from batchns.daemon.places import Places
from batchns.daemon.service import Peer, Refused
from batchns.errors import UserError
from batchns.model.config import Config
from batchns.model.lifecycle import State
from batchns.model.signals import signal_name, signal_number
from batchns.supervise import events
from batchns.supervise.books import Books
from batchns.supervise.effects import Effects
from batchns.supervise.events import Mailbox, Reply
from batchns.supervise.loop import Loop
from batchns.units import quote
from batchns.wire import types as wire

VERBS = ("cancel", "signal", "hold", "release", "freeze", "thaw", "requeue", "priority")
MOST_CHANGES = 200_000  # of one user's jobs within an hour, besides submitting and cancelling
T = TypeVar("T")
_HOUR = 3600.0
_AT_ONCE = 500  # jobs that one turn of the loop does something with


@define(kw_only=True, eq=False)
class Control:
    """`config`: as it is now."""

    config: Callable[[], Config]
    loop: Loop
    books: Books
    effects: Effects
    owners: Owners
    places: Places
    inbox: Mailbox[events.Event]
    clock: Callable[[], float]
    _changes: dict[int, tuple[float, int]] = field(init=False, factory=dict)  # by uid: since when, and how many

    def mine(self, peer: Peer, texts: Sequence[str], user: str | None = None) -> list[Job]:
        """The jobs that are meant, of those that the peer may do something with; in the order of their ids.

        Raises:
            Refused: one of `texts` means none of them.
        """
        wanted = selectors.parse(texts)
        schedule = self.books.schedule
        known = (schedule[job_id] for job_id in self.places.between(wanted.spans) if job_id in schedule)
        found = [
            job
            for job in known
            if not schedule.over(job.id)  # else it is kept for those that depend on it
            and (peer.admin or self.owners[job.array_id].uid == peer.uid)
            and (not user or job.user == user)
            and wanted.meets(job.id, job.array_id, job.spec.name)
        ]
        missing = wanted.missing((job.id, job.array_id, job.spec.name) for job in found)
        if missing:
            whose = "" if peer.admin else " of yours"
            raise Refused(
                "not_found",
                f"{_some(missing)}: there is no such job{whose}, or it is over",
                "see batchns ps, and batchns history for jobs that are over",
            )
        return found

    async def act(self, peer: Peer, request: wire.ActRequest) -> wire.ActAnswer:
        """Do it with every job that is meant; what cannot be done with one does not keep others from it.

        Raises:
            Refused: the request makes no sense, or means no job.
        """
        verb = self._verb(peer, request)
        jobs = [job.id for job in self.mine(peer, request.jobs, request.user)]
        if request.verb not in ("cancel", "signal") and not peer.admin:
            self._check_changes(peer, len(jobs))
        answers: list[wire.Acted] = []
        for start in range(0, len(jobs), _AT_ONCE):
            answers += await self.ask(partial(self._each, verb, jobs[start : start + _AT_ONCE]))
        return wire.ActAnswer(jobs=tuple(answers))

    def _check_changes(self, peer: Peer, count: int) -> None:
        """Each change is an entry of the journal: nobody fills the disk with them.

        Raises:
            Refused: there were too many of the user's within the hour.
        """
        now = self.clock()
        begun, before = self._changes.get(peer.uid, (now, 0))
        if now - begun > _HOUR:
            begun, before = now, 0
        if before and before + count > MOST_CHANGES:
            raise Refused(
                "conflict",
                f"{before} jobs were changed within the hour; {count} more would make more than {MOST_CHANGES}",
                "wait for some minutes, or ask an administrator",
            )
        self._changes[peer.uid] = (begun, before + count)

    async def ask(self, act: Callable[[], T]) -> T:
        """What `act` returns, which the loop's own task calls; once what it has changed is recorded."""
        reply: Reply[T] = Reply()
        self.inbox.post(events.Ask(act, reply))
        return await reply.get()

    def _verb(self, peer: Peer, request: wire.ActRequest) -> Callable[[Job], str]:
        match request.verb:
            case "cancel" if request.signal is None:
                return partial(self._cancel, peer.user)
            case "cancel" | "signal":
                return partial(self._signal, _signal(request.signal))
            case "hold":
                return self._hold
            case "release":
                return self._release
            case "freeze":
                return self._freeze
            case "thaw":
                return self._thaw
            case "requeue":
                return partial(self._requeue, peer.user)
            case "priority":
                return partial(self._prioritise, peer, _priority(request.priority))
            case _:
                raise Refused(
                    "invalid",
                    f"{quote(request.verb[:40])} is nothing that can be done with a job",
                    f"choose from {', '.join(VERBS)}",
                )

    def _each(self, verb: Callable[[Job], str], job_ids: Sequence[str]) -> list[wire.Acted]:
        """In the loop's task."""
        answers = []
        schedule = self.books.schedule
        for job_id in job_ids:
            try:
                if job_id not in schedule or schedule[job_id].state.final:
                    raise UserError("it is over")
                text = verb(schedule[job_id])
            except UserError as error:
                answers.append(wire.Acted(id=job_id, done=False, text=error.what, hint=error.hint))
            else:
                answers.append(wire.Acted(id=job_id, done=True, text=text))
        return answers

    def _cancel(self, by: str, job: Job) -> str:
        why = f"cancelled by {by}"
        if job.state is State.PENDING:
            self.loop.cancel(job.id, why)
            return ""
        if job.stopping is None or job.stopping.cause is not Cause.CANCELLED:  # one that was to come back must not
            self.loop.stop(job.id, Cause.CANCELLED, why=why)
        if job.state is not State.COMPLETING:
            return "asked to end"
        self.books.change(changes.Killed(job.id))
        self.effects.kill(self.books.attempts[job.id])
        return "killed"

    def _signal(self, number: int, job: Job) -> str:
        if job.state is not State.RUNNING:
            raise UserError(f"it is {job.state.value}, and hears no signal", "wait until it runs")
        self.effects.signal(self.books.attempts[job.id], number)
        return f"{signal_name(number)} sent"

    def _hold(self, job: Job) -> str:
        if job.held:
            return "held already"
        self.books.change(changes.Held(job.id))
        self.books.tell(job.id)
        return "" if job.state is State.PENDING else "should it come back to the queue"

    def _release(self, job: Job) -> str:
        if not job.held:
            raise UserError("it is not held", "batchns thaw is for one that is frozen" if job.frozen else "")
        self.books.change(changes.Released(job.id))
        self.books.tell(job.id)
        return ""

    def _freeze(self, job: Job) -> str:
        if job.state not in ACTIVE or job.state is State.COMPLETING:
            hint = "batchns hold is for one that waits" if job.state is State.PENDING else ""
            raise UserError(f"it is {job.state.value}", hint)
        others = job.state is State.SUSPENDED and job.frozen is not None and job.frozen.cause is not FreezeCause.OWNER
        self.books.change(changes.FreezeAsked(job.id))
        self.books.tell(job.id)
        return "it was frozen for another job, and stays so" if others else ""

    def _thaw(self, job: Job) -> str:
        if job.state not in (State.SUSPENDING, State.SUSPENDED) or job.frozen is None:
            raise UserError(f"it is {job.state.value}")
        if job.frozen.cause is not FreezeCause.OWNER:
            raise UserError("it is frozen for another job", f"see when it goes on: batchns why {job.id}")
        self.books.change(changes.Released(job.id))
        self.books.tell(job.id)
        return "goes on as soon as its CPUs are free"

    def _requeue(self, by: str, job: Job) -> str:
        if job.state not in ACTIVE or job.state is State.COMPLETING:
            raise UserError(f"it is {job.state.value}", "only a job that runs or is frozen can be put back")
        self.loop.stop(job.id, Cause.REQUEUED, why=f"put back by {by}")
        return "as soon as it has ended"

    def _prioritise(self, peer: Peer, priority: int, job: Job) -> str:
        most = self.config().queues[job.spec.queue].max_priority if job.spec.queue in self.config().queues else 100
        if priority > most and not peer.admin:
            raise UserError(f"queue {job.spec.queue} has priorities up to {most}", f"write at most {most}")
        self.books.change(changes.Prioritised(job.id, priority))
        self.books.tell(job.id)
        return ""


def _some(texts: Sequence[str]) -> str:
    """As many as a message has room for."""
    more = len(texts) - 10
    return ", ".join(texts[:10]) + (f" and {more} more" if more > 0 else "")


def _signal(text: str | None) -> int:
    """A number, too: whoever types it does so on this machine."""
    try:
        number = int(text) if text and text.isdecimal() and len(text) < 3 else signal_number(_full_name(text or ""))
    except ValueError:
        number = 0
    if number == signal.SIGSTOP:
        raise Refused("invalid", "SIGSTOP would stop the job's init only", "freeze the job: batchns freeze ID")
    if number not in signal.valid_signals():
        what = f"{quote((text or '')[:40])} is no signal"
        raise Refused("invalid", what, 'write a name or a number: "TERM", "USR1", "9"')
    return number


def _full_name(text: str) -> str:
    return text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"


def _priority(priority: int | None) -> int:
    if priority is None or not 0 <= priority <= 100:
        raise Refused("invalid", f"priority {priority} is none", "write a number from 0 to 100")
    return priority
