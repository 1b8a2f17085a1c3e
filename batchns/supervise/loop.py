"""The loop that runs jobs: events in, changes applied and recorded, decisions made, effects performed.

1. One task changes the schedule: this loop. Everything else happens in tasks that post an event when they are done.
2. Apply, record, act: what a turn changes is recorded as one batch, and only then are its effects performed and those
   answered who asked for it. Where nothing records, effects follow at once.
3. Nothing waits for a job without a bound once it is to die: it is killed through its cgroup, and given up if need be.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress

import trio
from attrs import define, field

from batchns.core import changes
from batchns.core.actions import Action, Cancel, Freeze, Join, Kill, Launch, Reclaim, Requeue, Stop, Thaw, Warn
from batchns.core.decide import decide
from batchns.core.job import Cause
from batchns.core.placement import Placement
from batchns.core.reasons import render
from batchns.errors import BatchnsError, HostError
from batchns.model import lifecycle
from batchns.model.lifecycle import State
from batchns.store.interface import Submission
from batchns.supervise import events
from batchns.supervise.account import Account
from batchns.supervise.answers import Answers
from batchns.supervise.attempt import Attempt
from batchns.supervise.books import Books
from batchns.supervise.effects import Effects
from batchns.supervise.events import Mailbox
from batchns.supervise.launches import Launches
from batchns.supervise.limits import on_cpus
from batchns.supervise.ports import Recorder, Runs

AHEAD = 4  # attempts for which sandboxes are prepared: each launch asks for the one so many behind it
RETRY = 1.0  # seconds after which what could not be recorded is tried again


@define(kw_only=True, eq=False)
class Loop:
    """`serial`: the number of the next attempt. `last_serial`: none comes after it (None: there is always a next one).

    `clock`: seconds, as fast as the clock that trio sleeps by.
    """

    books: Books
    answers: Answers
    effects: Effects
    launches: Launches
    runs: Runs
    inbox: Mailbox[events.Event]
    clock: Callable[[], float]
    recorder: Recorder | None = None
    serial: int = 0
    last_serial: int | None = None
    settled: Callable[[], None] = lambda: None  # called after every turn that is recorded, its effects on their way
    _arrivals: list[events.Arrive] = field(init=False, factory=list)
    _asked: list[tuple[events.Ask, object]] = field(init=False, factory=list)

    async def run(self, over: Callable[[], bool]) -> None:
        """Turn after turn until `over` says so, after a turn that has been recorded."""
        while True:
            await self._admit()
            decided = self._decide()
            recorded = await self._record()
            if recorded:
                self.settled()
            if over():
                break
            with trio.move_on_after(self._patience(decided, recorded=recorded)):
                self._handle(await self.inbox.get())
                while self.inbox:
                    self._handle(self.inbox.get_nowait())

    def _decide(self) -> float:
        """Perform what is decided until nothing more is. Returns the moment of the last decision."""
        schedule, books, begun = self.books.schedule, self.books, time.perf_counter()
        decided = self.clock()
        while actions := decide(schedule, decided):
            for action in actions:
                self._perform(action)
            decided = self.clock()
        while books.freed:
            job_id = books.freed.popleft()
            if job_id in schedule and schedule[job_id].state is State.PENDING:
                books.tell(job_id)
        books.metering.decided(time.perf_counter() - begun)
        return decided

    def _patience(self, decided: float, *, recorded: bool) -> float:
        """Seconds until there is something to decide though nothing happens. `decided`: when that was done last."""
        deadline = self.books.schedule.next_deadline(decided)
        patience = math.inf if deadline is None else max(0.0, deadline - self.clock())
        return patience if recorded else min(patience, RETRY)

    # What happened since.

    def _handle(self, event: events.Event) -> None:
        match event:
            case events.Interrupt(detail, kill):
                self.books.drain(detail, kill=kill)
            case events.Pause(on):
                self.books.schedule.pause() if on else self.books.schedule.resume()
            case events.Neighbours(busy):
                self.books.schedule.yield_to_others(on=busy)
            case events.Arrive():
                self._arrivals.append(event)
            case events.Ask(act, _):
                try:
                    self._asked.append((event, act()))
                except BatchnsError as error:
                    event.reply.fail(error)
            case events.Wake():
                pass
            case _:
                self.answers.heed(event)

    async def _admit(self) -> None:
        """New jobs are recorded before anything knows of them: those that cannot be are refused, and nothing is left.

        Without a recorder they simply come.
        """
        arrivals, self._arrivals = self._arrivals, []
        if not arrivals:
            return
        error: HostError | None = None
        if self.recorder is not None:
            error = await self.recorder.commit(
                [arrival.submission for arrival in arrivals],
                {name: value for arrival in arrivals for name, value in arrival.notes.items()},
            )
        for arrival in arrivals:
            if error is not None:
                arrival.reply.fail(error)
                continue
            self.submit(arrival.submission)
            arrival.reply.give(None)

    def submit(self, submission: Submission) -> None:
        """The jobs are there. They have been recorded, or nothing is."""
        self.books.schedule.submit(submission.jobs)
        self.books.metering.submitted(submission.jobs)
        for job in submission.jobs:
            self.books.accounts[job.id] = Account(submitted=submission.at)
            self.books.tell(job.id)

    async def _record(self) -> bool:
        """Make the turn durable, then let its effects go. False: it could not be recorded yet."""
        asked, self._asked = self._asked, []
        error = None
        if self.recorder is not None and self.recorder.pending:
            error = await self.recorder.commit()
        self.effects.release(recorded=error is None)
        for question, answer in asked:
            question.reply.give(answer) if error is None else question.reply.fail(error)
        return error is None

    # What is decided.

    def _perform(self, action: Action) -> None:
        books = self.books
        match action:
            case Launch(job_id, placement):
                self._launch(job_id, placement)
            case Stop(job_id, cause, by):
                self.stop(job_id, cause, by)
                return
            case Kill(job_id):
                books.change(changes.Killed(job_id))
                self.effects.kill(books.attempts[job_id])
            case Requeue(job_id):
                books.change(changes.Requeued(job_id))
            case Cancel(job_id, reason):
                self.cancel(job_id, render(reason))
                return
            case Freeze(job_id, cause, by, thaw_by):
                books.change(changes.Freezing(job_id, cause, by, thaw_by))
                self.effects.freeze(books.attempts[job_id])
            case Thaw(job_id, placement):
                self._thaw(job_id, placement)
                return  # nothing that an onlooker sees has changed yet
            case Reclaim(job_id):
                books.change(changes.Reclaiming(job_id))
                self.effects.squeeze(books.attempts[job_id])
                return
            case Join(job_id):
                books.change(changes.Joined(job_id))
            case Warn(job_id):
                books.change(changes.Warned(job_id))
                warn = books.schedule[job_id].spec.warn
                if warn is not None:
                    self.effects.signal(books.attempts[job_id], warn.signal)
                return
        books.tell(action.job)

    def _launch(self, job_id: str, placement: Placement) -> None:
        attempt = Attempt(job_id, self.runs.attempt_name(self.serial), placement)
        ahead = self.serial + AHEAD
        if self.last_serial is None or ahead <= self.last_serial:
            attempt.ahead = self.runs.attempt_name(ahead)
        self.serial += 1
        with suppress(HostError):  # it is tried again, and told, when the launch is planned
            attempt.slot = self.runs.acquire_slot()
        slot = None if attempt.slot is None else attempt.slot.number
        self.books.change(
            changes.Launched(job_id, placement),
            lambda: {"attempt": attempt.name, "slot": slot, "serial": self.serial},
        )
        self.books.attempts[job_id] = attempt
        self.books.accounts[job_id] = Account(submitted=self.books.accounts[job_id].submitted)
        self.launches.ask(attempt)

    def cancel(self, job_id: str, reason: str) -> None:
        """The pending job will never run."""
        self.books.accounts[job_id].reason = reason
        self.books.change(changes.Finished(job_id, lifecycle.Event.CANCEL), lambda: {"reason": reason})
        self.books.conclude(job_id)
        self.books.tell(job_id)

    def stop(self, job_id: str, cause: Cause, by: str = "", why: str = "") -> None:
        """Ask the active job to end. `why`: for its owner, where the cause does not say it."""
        schedule, account = self.books.schedule, self.books.accounts[job_id]
        before = schedule[job_id]
        if cause is Cause.CANCELLED and schedule.draining is not None:
            why = schedule.draining.detail
        elif by:
            why = f"made room for job {by}"
        account.asked_to_end = why or account.asked_to_end
        self.books.change(changes.Stopped(job_id, cause, by, why))
        self.books.tell(job_id)
        attempt = self.books.attempts[job_id]
        if attempt.started is not None:
            self.effects.ask(attempt, thaw=before.state is State.SUSPENDED, memory=before.bounds.memory)

    def _thaw(self, job_id: str, placement: Placement | None) -> None:
        """Where it is; or, where it has lent its CPUs, on those that it gets now."""
        self.books.change(changes.Thawing(job_id, placement))
        job = self.books.schedule[job_id]
        attempt = self.books.attempts[job_id]
        if placement is not None and job.placement is not None and job.placement.cpus != attempt.placement.cpus:
            attempt.placement = job.placement
            attempt.limits = on_cpus(attempt.limits, job.placement)
            attempt.moving = True
        self.effects.thaw(attempt, memory=job.bounds.memory)
