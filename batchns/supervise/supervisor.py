"""One foreground run: its jobs through the loop to their results.

What is asked of it from outside (stop, kill, freeze everything) is posted to the loop like every other event.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence

import trio
from attrs import define, field

from batchns.core.admit import admit, expand
from batchns.core.estimates import Estimates
from batchns.core.node import NodeCapacity
from batchns.core.schedule import Schedule
from batchns.kernel.cgroups.interface import Driver
from batchns.model.config import Config
from batchns.model.job import JobSpec
from batchns.model.lifecycle import State
from batchns.model.result import JobResult
from batchns.model.submitter import ROOT, Submitter
from batchns.store.interface import Submission
from batchns.supervise import events
from batchns.supervise.admission import check_holds, check_queues
from batchns.supervise.answers import Answers
from batchns.supervise.attempt import Preparer
from batchns.supervise.books import Books
from batchns.supervise.chronicle import Chronicle, Keeper
from batchns.supervise.devices import Units
from batchns.supervise.effects import FREEZE_TIMEOUT, Effects
from batchns.supervise.events import Mailbox
from batchns.supervise.images import Images
from batchns.supervise.launches import Launches
from batchns.supervise.loop import Loop
from batchns.supervise.networks import Networks
from batchns.supervise.outputs import Outputs
from batchns.supervise.owner import OneOwner
from batchns.supervise.ports import Blocking, Launching, Metering, Runs, threads
from batchns.supervise.view import Observer
from batchns.supervise.watch import Sampler, Watch, rule_of


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
    _chronicle: Chronicle = field(init=False)
    _books: Books = field(init=False)
    _preparer: Preparer = field(init=False)
    _effects: Effects = field(init=False)
    _loop: Loop = field(init=False)
    _inbox: Mailbox[events.Event] = field(init=False, factory=Mailbox)
    _calm_waiters: list[trio.Event] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self._chronicle = Chronicle(
            keeper=self.keeper, blocking=self.blocking, submitter=self.submitter, wall=self.wall, tell=self.tell
        )
        self._books = Books(Schedule(self.capacity, self.config), self.observer, self.clock, self._chronicle)
        self._preparer = Preparer(
            config=self.config,
            driver=self.driver,
            runs=self.runs,
            outputs=Outputs(self.blocking, mode=self.config.output.mode),
            images=Images(self.blocking),
            owners=OneOwner(self.submitter),
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
        launches = Launches(
            launcher=self.launcher,
            preparer=self._preparer,
            effects=self._effects,
            post=self._inbox.post,
            job=self._books.schedule.__getitem__,
        )
        self._loop = Loop(
            books=self._books,
            answers=Answers(
                books=self._books,
                preparer=self._preparer,
                effects=self._effects,
                driver=self.driver,
                root=self.root,
            ),
            effects=self._effects,
            launches=launches,
            runs=self.runs,
            inbox=self._inbox,
            clock=self.clock,
            settled=self._wake_calm_waiters,
        )

    def _own_folders(self) -> tuple[str, ...]:
        """Where jobs must not write. A user's state folder is in the user's home, where jobs have every right to be."""
        paths = self.config.paths
        scratch = self.config.node.scratch_folder
        return (paths.run, paths.state, *((scratch,) if scratch else ())) if self.root else (paths.run,)

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
        now = self.clock()
        jobs = expand(
            admitted,
            first_id,
            self.config,
            now,
            user=self.submitter.name,
            wall=self.wall(),
            estimator=known.expected,
        )
        if self.attached is None:
            await self._preparer.outputs.anchor("", specs, self.submitter)
        self._loop.last_serial = len(jobs) - 1
        self._loop.submit(Submission(at=now, jobs=tuple(jobs), uid=self.submitter.uid, user=self.submitter.name))
        schedule = self._books.schedule
        try:
            async with trio.open_nursery() as nursery:
                self._effects.nursery = nursery
                nursery.start_soon(self._loop.launches.serve)
                nursery.start_soon(self._chronicle.write)
                if self.sampler is not None:
                    nursery.start_soon(self._watch, self.sampler)
                await self._loop.run(lambda: schedule.finished)
                await self._chronicle.close()
                nursery.cancel_scope.cancel()
        finally:
            await self._abandon()
        return [account.result for account in self._books.accounts.values() if account.result is not None]

    def count(self, metering: Metering) -> Books:
        """Tell `metering` of all that happens from now on. Returns what there is to look at; nobody else changes it."""
        self._books.metering = metering
        return self._books

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

    def _wake_calm_waiters(self) -> None:
        """Tell `freeze_all` when every job has come to a state in which it stays."""
        if not self._calm_waiters:
            return
        schedule, passing = self._books.schedule, (State.STARTING, State.SUSPENDING)
        moving = schedule.to_freeze or any(schedule[job_id].state in passing for job_id in schedule.active)
        if schedule.finished or not (schedule.paused and moving):
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
                self._effects.release(recorded=True)
        self._books.attempts.clear()
