"""Attempts on their way to a running command, a few at a time and each within a bound.

1. Attempts are launched in the order in which they are asked for; a slow launch does not keep others from theirs.
2. Nothing is decided here: what became of a launch, or that it hangs, is posted to the loop.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from functools import partial

import trio
from attrs import define, field

from batchns.core.job import Job
from batchns.errors import HostError, StepError, UserError
from batchns.launch.client import Started, Unsendable
from batchns.launch.plan import Plan
from batchns.supervise import events
from batchns.supervise.attempt import Attempt, Preparer
from batchns.supervise.effects import Effects
from batchns.supervise.events import Mailbox
from batchns.supervise.ports import Keeping, Launching

PLACES = 4  # launches at a time: enough to keep the launcher busy, few enough to hold few descriptors open
SLOW = 2.0  # seconds after which a launch gives its place to the next
TIMEOUT = 60.0  # seconds for a launch. A job's time limit counts from its command's start: this holds for every job

_ADDRESS_TAKEN = ("network: add the route", errno.EEXIST)


@define(kw_only=True, eq=False)
class Launches:
    """`job`: the job of an id, as it is now. `effects` has the nursery for the tasks.

    `kept`: the launcher, where it keeps what became of an attempt.
    """

    launcher: Launching
    preparer: Preparer
    effects: Effects
    post: Callable[[events.Event], None]
    job: Callable[[str], Job]
    kept: Keeping | None = None
    _waiting: Mailbox[Attempt] = field(init=False, factory=Mailbox)

    def ask(self, attempt: Attempt) -> None:
        """Launch it when that has been recorded and its turn comes.

        Answered with `HasStarted`, `LaunchFailed` or `Lost`, and its end later.

        `LaunchHangs` is posted when that takes too long; the answer may still come.
        """
        self.effects.after_record(partial(self._waiting.post, attempt))

    def recall(self, attempt: Attempt) -> None:
        """Hear what becomes of the launch of an attempt that an earlier process asked a launcher for, which keeps it.

        Answered as of `ask`. Nothing is prepared again: it may run, whatever has become of its files since.
        """
        attempt.checked.set()
        self.effects.start(partial(self._launch, start=self._recall), attempt)
        self.effects.start(self._watch, attempt)

    async def serve(self) -> None:
        """Launch what is asked for, for ever."""
        async with trio.open_nursery() as nursery:
            for _ in range(PLACES):
                nursery.start_soon(self._serve_place)

    async def _serve_place(self) -> None:
        while True:
            attempt = await self._waiting.get()
            self.effects.start(partial(self._launch, start=self._start), attempt)
            with trio.move_on_after(SLOW) as patience:
                await attempt.launched.wait()
            if patience.cancelled_caught:
                self.effects.start(self._watch, attempt)

    async def _watch(self, attempt: Attempt) -> None:
        await _either(attempt.checked, attempt.launched)
        with trio.move_on_after(TIMEOUT - SLOW) as patience:
            await attempt.launched.wait()
        if patience.cancelled_caught:
            self.post(events.LaunchHangs(attempt))

    async def _launch(self, attempt: Attempt, start: Callable[[Attempt], Awaitable[Started | None]]) -> None:
        try:
            with attempt.scope:
                started = await start(attempt)
                if started is not None:
                    attempt.scope = trio.CancelScope()
                    self.post(events.HasStarted(attempt, started))
                    self.effects.start(self.wait, attempt)
        finally:
            attempt.launched.set()

    async def _start(self, attempt: Attempt) -> Started | None:
        """None: it did not start, and that has been posted; or it was given up before its turn came."""
        if attempt.over.is_set():
            return None
        job = self.job(attempt.job_id)
        if job.stopping is not None and not attempt.asked:
            self.post(events.LaunchFailed(attempt, HostError("asked to end before it was launched")))
            return None
        try:
            await self.preparer.make_scratch(attempt, job)
            await self.preparer.check_image(attempt, job)
            await self.preparer.network_ready(job)
            plan = self.preparer.plan(attempt, job)
            paths = self.preparer.paths(job)
            async with self.preparer.descriptors(job, attempt.name, *paths) as fds:
                attempt.files = paths
                try:
                    return await self._launch_in_a_free_slot(attempt, job, plan, fds)
                except (StepError, Unsendable):
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
        attempt.sent = True
        try:
            return await self.launcher.launch(plan, *fds)
        except StepError as error:
            if (error.step, error.errno) != _ADDRESS_TAKEN:
                raise
        if self.kept is not None:
            await self.kept.forget(attempt.name)  # else it would answer as before
        return await self.launcher.launch(self.preparer.plan_in_another_slot(attempt, job), *fds)

    async def _recall(self, attempt: Attempt) -> Started | None:
        assert self.kept is not None
        try:
            return await self.kept.recall(attempt.name)
        except StepError as error:
            if (error.step, error.errno) == _ADDRESS_TAKEN:
                return await self._start(attempt)
            self.post(events.LaunchFailed(attempt, error))
        except HostError as error:
            self.post(events.Lost(attempt, error))
        return None

    async def wait(self, attempt: Attempt) -> None:
        """Hear of the end of an attempt that has started."""
        with attempt.scope:
            try:
                ended = await self.launcher.wait(attempt.name)
            except HostError as error:
                self.post(events.Lost(attempt, error))
            else:
                self.post(events.HasEnded(attempt, ended))


async def _either(*events: trio.Event) -> None:
    """Until one of them is set."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)
