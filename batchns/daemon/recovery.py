"""From what the store knows and what the launcher knows to a loop that goes on as if nothing had been.

1. The log is replayed through the same `apply_change` that the living loop uses: nothing else makes a state.
2. Then every job that was active is looked up at the launcher. What runs is adopted; what has ended is heard of; what
   was asked for, or was about to be, is asked for again, under the same name: the launcher does that once.
3. After a reboot nothing runs: those jobs are NODE_FAIL, and come back to the queue where they may.
4. What the launcher runs that no job knows is ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from attrs import define, evolve, field, frozen

from batchns.core import changes
from batchns.core.changes import apply_change
from batchns.core.job import Job
from batchns.core.node import NodeCapacity
from batchns.core.schedule import Schedule
from batchns.daemon.owners import Owners
from batchns.daemon.scheduler import Scheduler
from batchns.errors import HostError, UserError
from batchns.launch.client import Started
from batchns.launch.keeper import Failed, Over, Running
from batchns.model import lifecycle
from batchns.model.config import Config
from batchns.model.lifecycle import State
from batchns.model.result import LimitReading
from batchns.store.interface import Entry, Json, Loaded, Submission
from batchns.supervise.account import Account
from batchns.supervise.attempt import Attempt
from batchns.supervise.outcome import Outcome


@frozen(kw_only=True)
class Noted:
    """What the log says of the current attempt of an active job."""

    name: str
    slot: int | None
    started: Mapping[str, Any]


@define(eq=False)
class Recovered:
    """A schedule as it was, and what belongs to its jobs. `serial`: of the next attempt."""

    schedule: Schedule
    owners: Owners
    accounts: dict[str, Account] = field(factory=dict)
    noted: dict[str, Noted] = field(factory=dict)
    thawing: set[str] = field(factory=set)  # active jobs that were being thawed
    serial: int = 0
    anchors: dict[str, Mapping[str, str]] = field(factory=dict)  # by submission
    over: list[str] = field(factory=list)  # jobs that are over, and kept for those that depend on them

    @property
    def slots(self) -> dict[str, int]:
        """The slots that active jobs have, by attempt."""
        return {
            noted.name: noted.slot
            for job_id in self.schedule.active
            if (noted := self.noted.get(job_id)) is not None and noted.slot is not None
        }


def replay(loaded: Loaded, capacity: NodeCapacity, config: Config) -> Recovered:
    """The log, applied from its beginning."""
    schedule = Schedule(capacity, config)
    if shares := loaded.notes.get("shares"):
        schedule.shares.restore({user: (used, since) for user, (used, since) in shares.items()})
    found = Recovered(schedule, Owners())
    for item in loaded.log:
        if isinstance(item, Submission):
            apply_change(schedule, changes.Submitted(item.jobs), item.at)
            found.owners.add(item)
            found.anchors[item.jobs[0].array_id] = item.anchors
            for job in item.jobs:
                found.accounts[job.id] = Account(submitted=item.at)
        else:
            apply_change(schedule, item.change, item.at)
            _remember(found, item)
    found.over = [job.id for job in schedule if job.state.final and job.id not in schedule.to_retry]
    for job_id in found.over:
        found.accounts[job_id].conclude(schedule[job_id])
    return found


def _remember(found: Recovered, entry: Entry) -> None:
    match entry.change:
        case changes.Launched(job_id, _):
            found.noted[job_id] = Noted(name=entry.data["attempt"], slot=entry.data["slot"], started={})
            found.accounts[job_id] = Account(submitted=found.accounts[job_id].submitted)
            found.serial = max(found.serial, entry.data["serial"])
        case changes.Started(job_id):
            noted = found.noted[job_id]
            slot = entry.data.get("slot", noted.slot)
            found.noted[job_id] = evolve(noted, started=entry.data, slot=slot)
            account = found.accounts[job_id]
            account.recall_start(entry.data, entry.at)
        case changes.Thawing(job_id):
            found.thawing.add(job_id)
        case changes.Thawed(job_id):
            found.thawing.discard(job_id)
            if cpus := entry.data.get("cpus"):
                account = found.accounts[job_id]
                account.limits = {**account.limits, "cpuset_cpus": LimitReading(**cpus)}
        case changes.Stopped(job_id, _, _, why):
            found.thawing.discard(job_id)
            found.accounts[job_id].asked_to_end = why
        case changes.Finished(job_id):
            found.thawing.discard(job_id)
            found.accounts[job_id].recall_end(entry.data)


@define(kw_only=True, eq=False)
class Adoption:
    """Puts the active jobs of a recovered schedule under the scheduler's care. `rebooted`: since they were started."""

    scheduler: Scheduler
    found: Recovered
    notes: Mapping[str, Json]
    rebooted: bool
    tell: Callable[[str], None] = print
    adopted: int = field(init=False, default=0)
    lost: int = field(init=False, default=0)

    async def perform(self) -> None:
        """Before the first turn of the loop."""
        books = self.scheduler.books
        books.accounts.update(self.found.accounts)
        self.scheduler.register.over(self.found.over)
        launched = {books.schedule[job_id].array_id for job_id in self.found.noted if job_id in books.schedule}
        begun = {self.scheduler.owners[array_id].key for array_id in launched}
        for key, anchors in self.found.anchors.items():
            self.scheduler.outputs.restore(key, anchors, launched=key in begun)
        for job_id in books.schedule.active:
            job = books.schedule[job_id]
            attempt = await self._attempt(job)
            books.attempts[job_id] = attempt
            if self.rebooted:
                self._lose(attempt, "the machine was restarted, or its run folder removed, while it ran")
            else:
                self._adopt(job, attempt)
        self._end_strangers()
        if self.scheduler.written is not None:
            self.scheduler.written.sweep({one.name for one in books.attempts.values()}, self.notes)
        self.scheduler.effects.release(recorded=True)

    async def _attempt(self, job: Job) -> Attempt:
        noted = self.found.noted[job.id]
        assert job.placement is not None
        attempt = Attempt(job.id, noted.name, job.placement)
        if not self.rebooted:
            with suppress(UserError, HostError):
                await self.scheduler.preparer.network_ready(job)
            with suppress(HostError):  # it is nobody's by the settings of now, and is not given back
                attempt.slot = self.scheduler.machine.runs.slot(noted.slot) if noted.slot is not None else None
            self.scheduler.preparer.adopt(attempt, job)
        attempt.asked = True
        # What the kernel has for one that is, or was, frozen may be others' CPUs and less memory: its own are due.
        attempt.moving = job.id in self.found.thawing
        attempt.squeezed = job.state in (State.SUSPENDED, State.COMPLETING)
        attempt.files = (noted.started.get("stdout"), noted.started.get("stderr"))
        if not noted.started and attempt.name in self.scheduler.machine.launcher.known:
            with suppress(UserError):
                attempt.files = self.scheduler.preparer.paths(job)
        if self.scheduler.written is not None and not self.rebooted:
            owner = None
            with suppress(UserError):
                owner = self.scheduler.owners.submitter(job)
            self.scheduler.written.restore(attempt.name, attempt.files, owner, self.notes)
        return attempt

    def _adopt(self, job: Job, attempt: Attempt) -> None:
        scheduler = self.scheduler
        known = scheduler.machine.launcher.known.get(attempt.name)
        if known is None:
            if not self.found.noted[job.id].started:
                scheduler.loop.launches.ask(attempt)  # the launcher was never asked
            else:
                self._lose(attempt, "the launcher does not know it any more")
            return
        self.adopted += 1
        if not self.found.noted[job.id].started:  # it has started, or not: that is still to be heard
            scheduler.loop.launches.recall(attempt)
            return
        if isinstance(known, Running | Over):
            attempt.started = known.started
        else:
            attempt.started = Started(attempt=attempt.name, pid=self.found.noted[job.id].started.get("pid") or 0)
        attempt.launched.set()
        scheduler.effects.start(scheduler.loop.launches.wait, attempt)
        self._go_on(job, attempt)

    def _go_on(self, job: Job, attempt: Attempt) -> None:
        """What was being done to it when the daemon ended may have been done, or not: it is done again."""
        effects = self.scheduler.effects
        match job.state:
            case State.RUNNING:
                effects.thaw(attempt)  # where a freeze had come through that was never recorded
            case State.SUSPENDING:
                effects.freeze(attempt)
            case State.SUSPENDED if job.id in self.found.thawing:
                effects.thaw(attempt, memory=job.bounds.memory)
            case State.SUSPENDED:
                effects.keep_frozen(attempt)
                if job.id in self.scheduler.books.schedule.squeezed:
                    effects.squeeze(attempt)
            case State.COMPLETING:
                if job.stopping is not None and job.stopping.kill_at is None:
                    effects.kill(attempt)
                else:
                    effects.ask(attempt, thaw=True, memory=job.bounds.memory)

    def _lose(self, attempt: Attempt, why: str) -> None:
        self.lost += 1
        if not self.rebooted:
            self.scheduler.effects.clear(attempt)
        outcome = Outcome(event=lifecycle.Event.LOST, reason=why, retry=True)
        self.scheduler.loop.answers.finish(attempt, outcome)

    def _end_strangers(self) -> None:
        launcher = self.scheduler.machine.launcher
        ours = {attempt.name for attempt in self.scheduler.books.attempts.values()}
        for name in launcher.known:
            if name not in ours:
                self.scheduler.effects.nursery.start_soon(self._end_stranger, name)

    async def _end_stranger(self, name: str) -> None:
        """One whose end has been recorded, and which the launcher was not told to forget; or of no job at all."""
        scheduler = self.scheduler
        launcher, driver = scheduler.machine.launcher, scheduler.machine.driver
        try:
            if not isinstance(launcher.known[name], Over | Failed):
                self.tell(f"attempt {name} belongs to no job: ended")
                await scheduler.blocking(partial(driver.kill, name, 5.0))
                await launcher.wait(name)
        except (OSError, HostError) as error:
            self.tell(f"attempt {name} belongs to no job: {error}")
        await launcher.forget(name)
