"""What is done to running jobs, each in a task of its own: asked to end, killed, frozen, thawed, cleared away.

1. Every call into the kernel that may block is made in a thread and bounded in time.
2. What became of it is posted to the loop; nothing is decided here.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import trio
from attrs import define, field

from batchns.kernel.cgroups.interface import Driver
from batchns.model.result import LimitReading
from batchns.supervise import events
from batchns.supervise.attempt import Attempt
from batchns.supervise.ports import Blocking, Launching

FREEZE_TIMEOUT = 5.0  # seconds for the kernel to confirm
KILL_TIMEOUT = 5.0  # seconds for a job's cgroup to be empty
KILL_TRIES = 3
END_TIMEOUT = 10.0  # seconds for the launcher to report the end of a job that has been killed
SQUEEZE_TIMEOUT = 2.0  # seconds for the kernel to reclaim
THAW_PAUSE = 1.0  # seconds before a thaw that the kernel did not confirm is tried again
_GONE = (errno.ENOENT, errno.ENODEV)


@define(kw_only=True, eq=False)
class Effects:
    """`post` takes the events; `give_back` frees an attempt's slot; tasks live in `nursery`."""

    driver: Driver
    launcher: Launching
    blocking: Blocking
    post: Callable[[events.Event], None]
    give_back: Callable[[Attempt], None]
    nursery: trio.Nursery = field(init=False)

    def start(self, function: Callable[[Attempt], Awaitable[None]], attempt: Attempt) -> None:
        """Run a task for the attempt."""
        self.nursery.start_soon(function, attempt)

    def ask(self, attempt: Attempt, *, thaw: bool, memory: int | None = None) -> None:
        """SIGTERM to the command. `thaw`: it is frozen and must run to obey, with its limit of `memory` bytes."""
        if thaw:
            self.nursery.start_soon(self._ask_frozen, attempt, memory)
        else:
            self.start(self._ask, attempt)

    def kill(self, attempt: Attempt) -> None:
        """End the attempt now. Its end is reported by the launcher, or `Unkillable` here."""
        self.start(self._kill, attempt)

    def freeze(self, attempt: Attempt) -> None:
        """Answered with `FreezeAnswer`."""
        self.start(self._freeze, attempt)

    def thaw(self, attempt: Attempt, *, moved: bool = False, memory: int | None = None) -> None:
        """Answered with `ThawAnswer`. `moved`: to the CPUs of its placement; `memory`: its limit, bytes."""
        self.nursery.start_soon(partial(self._thaw, attempt, moved=moved, memory=memory))

    def squeeze(self, attempt: Attempt) -> None:
        """Take from the frozen job what memory it can do without. Answered with `SqueezeAnswer`."""
        self.start(self._squeeze, attempt)

    def signal(self, attempt: Attempt, number: int) -> None:
        """Send the command a signal."""
        self.nursery.start_soon(self.launcher.signal, attempt.name, number)

    def clear(self, attempt: Attempt) -> None:
        """Kill and remove what is left of an attempt that nobody else will. Not cancelled with the others."""
        self.start(self._clear, attempt)

    async def _ask(self, attempt: Attempt) -> None:
        await self.launcher.signal(attempt.name, signal.SIGTERM)

    async def _ask_frozen(self, attempt: Attempt, memory: int | None) -> None:
        await self._ask(attempt)
        await self._thaw(attempt, moved=False, memory=memory)

    async def _kill(self, attempt: Attempt) -> None:
        empty = False
        for _ in range(KILL_TRIES):
            if self.driver.mode == "none":
                await self.launcher.signal(attempt.name, signal.SIGKILL)  # to its init
            empty = await self._call(partial(self.driver.kill, attempt.name, KILL_TIMEOUT), gone=True)
            if empty or attempt.over.is_set():
                break
        with trio.move_on_after(END_TIMEOUT):
            await attempt.over.wait()
        if not attempt.over.is_set():
            self.post(events.Unkillable(attempt, empty))

    async def _freeze(self, attempt: Attempt) -> None:
        async with attempt.turn:
            confirmed = await self._call(partial(self.driver.freeze, attempt.name, FREEZE_TIMEOUT), gone=False)
        self.post(events.FreezeAnswer(attempt, confirmed))

    async def _thaw(self, attempt: Attempt, *, moved: bool, memory: int | None) -> None:
        """First what others had meanwhile: its CPUs may be others now, and its memory limit its own again."""
        reading: LimitReading | None = None
        try:
            async with attempt.turn:
                if moved:
                    cpus, mems = attempt.limits.cpuset_cpus or "", attempt.limits.cpuset_mems or ""
                    reading = await self.blocking(partial(self.driver.set_cpus, attempt.name, cpus, mems))
                if attempt.squeezed:
                    await self.blocking(partial(self.driver.unsqueeze, attempt.name, memory))
                    attempt.squeezed = False
                confirmed = await self._call(partial(self.driver.thaw, attempt.name, FREEZE_TIMEOUT), gone=True)
        except OSError as error:  # it stays frozen, and is tried again
            confirmed = error.errno in _GONE
        if not confirmed:
            await trio.sleep(THAW_PAUSE)
        self.post(events.ThawAnswer(attempt, confirmed, reading))

    async def _squeeze(self, attempt: Attempt) -> None:
        held: int | None = None
        with suppress(OSError):  # gone meanwhile, or the kernel will not: then nothing could be had of it
            async with attempt.turn:
                attempt.squeezed = True
                held = (await self.blocking(partial(self.driver.squeeze, attempt.name, SQUEEZE_TIMEOUT))).holds
        self.post(events.SqueezeAnswer(attempt, held))

    async def _clear(self, attempt: Attempt) -> None:
        with trio.CancelScope(shield=True):
            if not await self._call(partial(self.driver.kill, attempt.name, KILL_TIMEOUT), gone=True):
                return  # its slot stays taken: processes that use it are still there
            if await self._call(partial(self._remove, attempt.name), gone=True):
                self.give_back(attempt)

    def _remove(self, name: str) -> bool:
        try:
            self.driver.remove(name)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    async def _call(self, function: Callable[[], bool], *, gone: bool) -> bool:
        """The driver's answer; `gone` where the job's cgroups went away meanwhile."""
        try:
            return await self.blocking(function)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return gone
