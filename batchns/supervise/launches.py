"""Attempts on their way to a running command, a few at a time and each within a bound.

1. Attempts are launched in the order in which they are asked for; a slow launch does not keep others from theirs.
2. Nothing is decided here: what became of a launch, or that it hangs, is posted to the loop.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import trio
from attrs import define, field

from batchns.core.job import Job
from batchns.errors import HostError, StepError, UserError
from batchns.launch.client import Started
from batchns.launch.plan import Plan
from batchns.supervise import events
from batchns.supervise.attempt import Attempt, Preparer
from batchns.supervise.effects import Effects
from batchns.supervise.events import Mailbox
from batchns.supervise.ports import Launching

PLACES = 4  # launches at a time: enough to keep the launcher busy, few enough to hold few descriptors open
SLOW = 2.0  # seconds after which a launch gives its place to the next
TIMEOUT = 60.0  # seconds for a launch. A job's time limit counts from its command's start: this holds for every job

_ADDRESS_TAKEN = ("network: add the route", errno.EEXIST)


@define(kw_only=True, eq=False)
class Launches:
    """`job`: the job of an id, as it is now. `effects` has the nursery for the tasks."""

    launcher: Launching
    preparer: Preparer
    effects: Effects
    post: Callable[[events.Event], None]
    job: Callable[[str], Job]
    _waiting: Mailbox[Attempt] = field(init=False, factory=Mailbox)

    def ask(self, attempt: Attempt) -> None:
        """Launch it when its turn comes: answered with `HasStarted`, `LaunchFailed` or `Lost`, and its end later.

        `LaunchHangs` is posted when that takes too long; the answer may still come.
        """
        self._waiting.post(attempt)

    async def serve(self) -> None:
        """Launch what is asked for, for ever."""
        async with trio.open_nursery() as nursery:
            for _ in range(PLACES):
                nursery.start_soon(self._serve_place)

    async def _serve_place(self) -> None:
        while True:
            attempt = await self._waiting.get()
            self.effects.start(self._launch, attempt)
            with trio.move_on_after(SLOW) as patience:
                await attempt.launched.wait()
            if patience.cancelled_caught:
                self.effects.start(self._watch, attempt)

    async def _watch(self, attempt: Attempt) -> None:
        with trio.move_on_after(TIMEOUT - SLOW) as patience:
            await attempt.launched.wait()
        if patience.cancelled_caught:
            self.post(events.LaunchHangs(attempt))

    async def _launch(self, attempt: Attempt) -> None:
        try:
            with attempt.scope:
                started = await self._start(attempt)
                if started is not None:
                    attempt.scope = trio.CancelScope()
                    self.post(events.HasStarted(attempt, started))
                    self.effects.start(self._wait, attempt)
        finally:
            attempt.launched.set()

    async def _start(self, attempt: Attempt) -> Started | None:
        """None: it did not start, and that has been posted."""
        job = self.job(attempt.job_id)
        if job.stopping is not None:
            self.post(events.LaunchFailed(attempt, HostError("asked to end before it was launched")))
            return None
        try:
            plan = self.preparer.plan(attempt, job)
            paths = self.preparer.paths(job)
            async with self.preparer.descriptors(*paths) as fds:
                attempt.files = paths
                try:
                    return await self._launch_in_a_free_slot(attempt, job, plan, fds)
                except StepError:
                    raise
                except HostError as error:
                    self.post(events.Lost(attempt, error))
        except (UserError, HostError) as error:
            self.post(events.LaunchFailed(attempt, error))
        return None

    async def _launch_in_a_free_slot(
        self, attempt: Attempt, job: Job, plan: Plan, fds: tuple[int, int, int]
    ) -> Started:
        """The address of a job that has just ended, of any run, may still lead to it: then another one is tried."""
        try:
            return await self.launcher.launch(plan, *fds)
        except StepError as error:
            if (error.step, error.errno) != _ADDRESS_TAKEN:
                raise
        return await self.launcher.launch(self.preparer.plan_in_another_slot(attempt, job), *fds)

    async def _wait(self, attempt: Attempt) -> None:
        with attempt.scope:
            try:
                ended = await self.launcher.wait(attempt.name)
            except HostError as error:
                self.post(events.Lost(attempt, error))
            else:
                self.post(events.HasEnded(attempt, ended))
