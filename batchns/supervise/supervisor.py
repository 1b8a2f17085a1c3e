"""The loop that runs jobs: events in, lifecycle applied, decisions made, actions performed.

1. One task changes the schedule: this loop. Everything else happens in tasks that post an event when they are done.
2. `_perform` is the only place where a decision becomes an effect.
3. Nothing waits for a job without a bound once it is to die: it is killed through its cgroup, and given up if need be.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence

import trio
from attrs import define, field

from batchns.core.actions import Action, Cancel, Freeze, Join, Kill, Launch, Reclaim, Requeue, Stop, Thaw, Warn
from batchns.core.admit import admit, expand
from batchns.core.decide import decide
from batchns.core.estimates import Estimates
from batchns.core.job import Cause
from batchns.core.node import NodeCapacity
from batchns.core.placement import Placement
from batchns.core.reasons import render
from batchns.core.schedule import Schedule
from batchns.kernel.cgroups.interface import Driver
from batchns.model import lifecycle
from batchns.model.config import Config
from batchns.model.job import JobSpec
from batchns.model.lifecycle import State
from batchns.model.result import JobResult
from batchns.model.submitter import ROOT, Submitter
from batchns.supervise import events
from batchns.supervise.account import Account
from batchns.supervise.admission import check_holds, check_queues
from batchns.supervise.answers import Answers
from batchns.supervise.attempt import Attempt, Preparer
from batchns.supervise.books import Books
from batchns.supervise.chronicle import Chronicle, Keeper
from batchns.supervise.devices import Units
from batchns.supervise.effects import FREEZE_TIMEOUT, Effects
from batchns.supervise.events import Mailbox
from batchns.supervise.launches import Launches
from batchns.supervise.limits import on_cpus
from batchns.supervise.networks import Networks
from batchns.supervise.outputs import Outputs
from batchns.supervise.ports import Blocking, Launching, Runs, threads
from batchns.supervise.view import Observer
from batchns.supervise.watch import Sampler, Watch, rule_of

AHEAD = 4  # attempts for which sandboxes are prepared: each launch asks for the one so many behind it


@define(kw_only=True, eq=False)
class Supervisor:
    """Runs one set of jobs to its end. Every argument is a seam: tests put fakes there.

    `capacity`: see `supervise.node.read_node`. `host_paths`: see `launch.build.host_paths`. `attached`: stdin, stdout
    and stderr of the jobs, instead of files. `clock`: seconds, of the clock that trio sleeps by.
    """

    config: Config
    capacity: NodeCapacity
    driver: Driver
    launcher: Launching
    runs: Runs
    observer: Observer
    host_paths: frozenset[str] = frozenset()
    networks: Networks = field(factory=Networks)
    submitter: Submitter = ROOT
    filters: Mapping[str, str] = field(factory=dict)  # compiled seccomp filters, by the profile's name
    units: Mapping[str, Units] = field(factory=dict)  # see `devices.read_units`
    attached: tuple[int, int, int] | None = None
    root: bool = True  # batchns has root's rights
    tell: Callable[[str], None] = print  # a line for the user
    keeper: Keeper | None = None  # where what jobs took is kept
    sampler: Sampler | None = None  # what measures the neighbours, where jobs yield to them
    clock: Callable[[], float] = trio.current_time
    wall: Callable[[], float] = time.time
    blocking: Blocking = field(factory=threads)
    _books: Books = field(init=False)
    _answers: Answers = field(init=False)
    _preparer: Preparer = field(init=False)
    _effects: Effects = field(init=False)
    _launches: Launches = field(init=False)
    _chronicle: Chronicle = field(init=False)
    _inbox: Mailbox[events.Event] = field(init=False, factory=Mailbox)
    _serial: int = field(init=False, default=0)
    _calm_waiters: list[trio.Event] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self._books = Books(Schedule(self.capacity, self.config), self.observer, self.clock)
        self._chronicle = Chronicle(
            keeper=self.keeper, blocking=self.blocking, submitter=self.submitter, wall=self.wall, tell=self.tell
        )
        self._preparer = Preparer(
            config=self.config,
            driver=self.driver,
            runs=self.runs,
            outputs=Outputs(self.blocking, self.submitter),
            submitter=self.submitter,
            host_paths=self.host_paths,
            networks=self.networks,
            filters=self.filters,
            units=self.units,
            root=self.root,
            own=tuple(map(os.path.realpath, self._own_folders())),
            attached=self.attached,
        )
        self._effects = Effects(
            driver=self.driver,
            launcher=self.launcher,
            blocking=self.blocking,
            post=self._inbox.post,
            give_back=self._preparer.give_back,
        )
        self._launches = Launches(
            launcher=self.launcher,
            preparer=self._preparer,
            effects=self._effects,
            post=self._inbox.post,
            job=self._books.schedule.__getitem__,
        )
        self._answers = Answers(
            books=self._books,
            preparer=self._preparer,
            effects=self._effects,
            chronicle=self._chronicle,
            driver=self.driver,
            root=self.root,
        )

    def _own_folders(self) -> tuple[str, ...]:
        """Where jobs must not write. A user's state folder is in the user's home, where jobs have every right to be."""
        paths = self.config.paths
        return (paths.run, paths.state) if self.root else (paths.run,)

    async def run(self, specs: Sequence[JobSpec]) -> list[JobResult]:
        """Run all jobs to their end; array tasks are results of their own. In the order of `specs`. Once.

        Raises:
            UserError: a job can never run here, or its file's folder does not answer; nothing was started.
            HostError: no job ids are to be had; nothing was started.
        """
        check_queues(specs, self.config, self.submitter)
        check_holds(specs)
        admitted = admit(specs, self.capacity, self.config)
        first_id = self.runs.job_ids(len(specs))
        known = await self._chronicle.estimates() if self.attached is None else Estimates()
        self._books.schedule.submit(
            expand(
                admitted,
                first_id,
                self.config,
                self.clock(),
                user=self.submitter.name,
                wall=self.wall(),
                estimator=known.expected,
            )
        )
        if self.attached is None:
            await self._preparer.outputs.anchor(specs)
        for job in self._books.schedule:
            self._books.accounts[job.id] = Account()
            self._books.tell(job.id)
        try:
            async with trio.open_nursery() as nursery:
                self._effects.nursery = nursery
                nursery.start_soon(self._launches.serve)
                nursery.start_soon(self._chronicle.write)
                if self.sampler is not None:
                    nursery.start_soon(self._watch, self.sampler)
                await self._loop()
                await self._chronicle.close()
                nursery.cancel_scope.cancel()
        finally:
            await self._abandon()
        return [account.result for account in self._books.accounts.values() if account.result is not None]

    def stop(self, detail: str = "interrupted") -> None:
        """Ask every job to end (SIGTERM, after its grace SIGKILL); cancel what waits. From any trio task."""
        self._inbox.post(events.Interrupt(detail, kill=False))

    def kill(self, detail: str = "interrupted") -> None:
        """End every job now."""
        self._inbox.post(events.Interrupt(detail, kill=True))

    async def freeze_all(self) -> bool:
        """Freeze every job and start none until `thaw_all`.

        Returns, within twice `FREEZE_TIMEOUT`, whether all jobs stand still; one that could not be frozen runs on.
        """
        calm = trio.Event()
        self._inbox.post(events.Pause(on=True))
        self._calm_waiters.append(calm)
        with trio.move_on_after(2 * FREEZE_TIMEOUT):
            await calm.wait()
        return all(self._books.schedule[job_id].state is State.SUSPENDED for job_id in self._books.schedule.active)

    def thaw_all(self) -> None:
        """Let every frozen job run on, and start others again."""
        self._inbox.post(events.Pause(on=False))

    async def _watch(self, sampler: Sampler) -> None:
        watch = Watch(
            sampler=sampler,
            cpus=len(self.capacity.cpus),
            rule=rule_of(self.config),
            blocking=self.blocking,
            clock=self.clock,
        )
        await watch.run(lambda busy: self._inbox.post(events.Neighbours(busy)))

    # The loop.

    async def _loop(self) -> None:
        while True:
            decided = self.clock()
            while actions := decide(self._books.schedule, decided):
                for action in actions:
                    self._perform(action)
                decided = self.clock()
            while self._books.freed:
                job_id = self._books.freed.popleft()
                if self._books.schedule[job_id].state is State.PENDING:
                    self._books.tell(job_id)
            if self._books.schedule.finished:
                break
            self._wake_calm_waiters()
            with trio.move_on_after(self._patience(decided)):
                self._handle(await self._inbox.get())
                while self._inbox:
                    self._handle(self._inbox.get_nowait())
        for waiter in self._calm_waiters:
            waiter.set()

    def _patience(self, decided: float) -> float:
        """Seconds until there is something to decide though nothing happens. `decided`: when that was done last."""
        deadline = self._books.schedule.next_deadline(decided)
        return math.inf if deadline is None else max(0.0, deadline - self.clock())

    def _handle(self, event: events.Event) -> None:
        match event:
            case events.Interrupt(detail, kill):
                self._books.drain(detail, kill=kill)
            case events.Pause(on):
                self._books.schedule.pause() if on else self._books.schedule.resume()
            case events.Neighbours(busy):
                self._books.schedule.yield_to_others(on=busy)
            case _:
                self._answers.heed(event)

    def _perform(self, action: Action) -> None:
        now = self.clock()
        match action:
            case Launch(job_id, placement):
                self._books.schedule.launch(job_id, placement, now)
                attempt = Attempt(job_id, self.runs.attempt_name(self._serial), placement)
                if self._serial + AHEAD < len(self._books.schedule):
                    attempt.ahead = self.runs.attempt_name(self._serial + AHEAD)
                self._serial += 1
                self._books.attempts[job_id] = attempt
                self._books.accounts[job_id] = Account()
                self._launches.ask(attempt)
            case Stop(job_id, cause, by):
                self._stop(job_id, cause, now, by)
            case Kill(job_id):
                self._books.schedule.killed(job_id)
                self._effects.kill(self._books.attempts[job_id])
            case Requeue(job_id):
                self._books.schedule.requeue(job_id, now)
            case Cancel(job_id, reason):
                self._books.accounts[job_id].reason = render(reason)
                self._books.freed += self._books.schedule.finish(job_id, lifecycle.Event.CANCEL, now)
                self._books.accounts[job_id].conclude(self._books.schedule[job_id])
            case Freeze(job_id, cause, by, thaw_by):
                self._books.schedule.freezing(job_id, now, cause, by=by, thaw_by=thaw_by)
                self._effects.freeze(self._books.attempts[job_id])
            case Thaw(job_id, placement):
                self._thaw(job_id, placement, now)
                return  # nothing that an onlooker sees has changed yet
            case Reclaim(job_id):
                self._books.schedule.reclaiming(job_id)
                self._effects.squeeze(self._books.attempts[job_id])
                return
            case Join(job_id):
                self._books.schedule.join(job_id)
            case Warn(job_id):
                warn = self._books.schedule.warn(job_id).spec.warn
                if warn is not None:
                    self._effects.signal(self._books.attempts[job_id], warn.signal)
                return
        self._books.tell(action.job)

    def _stop(self, job_id: str, cause: Cause, now: float, by: str) -> None:
        before = self._books.schedule[job_id]
        account = self._books.accounts[job_id]
        if cause is Cause.CANCELLED and self._books.schedule.draining is not None:
            account.asked_to_end = self._books.schedule.draining.detail
        elif by:
            account.asked_to_end = f"made room for job {by}"
        self._books.schedule.stop(job_id, cause, now, by=by)
        attempt = self._books.attempts[job_id]
        if attempt.started is not None:
            self._effects.ask(attempt, thaw=before.state is State.SUSPENDED, memory=before.bounds.memory)

    def _thaw(self, job_id: str, placement: Placement | None, now: float) -> None:
        """Where it is; or, where it has lent its CPUs, on those that it gets now."""
        job = self._books.schedule.thawing(job_id, placement, now)
        attempt = self._books.attempts[job_id]
        moved = placement is not None and job.placement is not None and job.placement.cpus != attempt.placement.cpus
        if moved and job.placement is not None:
            attempt.placement = job.placement
            attempt.limits = on_cpus(attempt.limits, job.placement)
        self._effects.thaw(attempt, moved=moved, memory=job.bounds.memory)

    def _wake_calm_waiters(self) -> None:
        """Tell `freeze_all` when every job has come to a state in which it stays."""
        if not self._calm_waiters:
            return
        schedule, passing = self._books.schedule, (State.STARTING, State.SUSPENDING)
        moving = schedule.to_freeze or any(schedule[job_id].state in passing for job_id in schedule.active)
        if not (self._books.schedule.paused and moving):
            for waiter in self._calm_waiters:
                waiter.set()
            self._calm_waiters.clear()

    async def _abandon(self) -> None:
        """Whatever still runs (only after a cancellation or a crash) is killed. Shielded, bounded."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                self._effects.nursery = nursery
                for attempt in self._books.attempts.values():
                    self._effects.clear(attempt)
        self._books.attempts.clear()
