"""What is done to running jobs, each in a task of its own: asked to end, killed, frozen, thawed, cleared away.

1. Every call into the kernel that may block is made in a thread and bounded in time.
2. What became of it is posted to the loop; nothing is decided here.
3. What the loop asks for waits for `release`: until what led to it has been recorded.
"""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import trio
from attrs import define, field

from batchns.kernel.cgroups.interface import Driver
from batchns.model.result import LimitReading
from batchns.supervise import events
from batchns.supervise.attempt import Attempt
from batchns.supervise.ports import Blocking, Launching

T = TypeVar("T")

FREEZE_TIMEOUT = 5.0  # seconds for the kernel to confirm
KILL_TIMEOUT = 5.0  # seconds for a job's cgroup to be empty
KILL_TRIES = 3
END_TIMEOUT = 10.0  # seconds for the launcher to report the end of a job that has been killed
SQUEEZE_TIMEOUT = 2.0  # seconds for the kernel to reclaim
THAW_PAUSE = 1.0  # seconds before a thaw that the kernel did not confirm is tried again
_GONE = (errno.ENOENT, errno.ENODEV)


@define(kw_only=True, eq=False)
class Effects:
    """`post` takes the events; `give_back` frees an attempt's slot; tasks live in `nursery`.

    `forgotten`: told of each attempt, by its name, whose end has been recorded.
    """

    driver: Driver
    launcher: Launching
    blocking: Blocking
    post: Callable[[events.Event], None]
    give_back: Callable[[Attempt], None]
    forgotten: Callable[[str], None] | None = None
    nursery: trio.Nursery = field(init=False)
    _due: list[Callable[[], None]] = field(init=False, factory=list)
    _due_when_recorded: list[Callable[[], None]] = field(init=False, factory=list)

    def start(self, function: Callable[[Attempt], Awaitable[None]], attempt: Attempt) -> None:
        """Run a task for the attempt, now."""
        self.nursery.start_soon(function, attempt)

    def after_record(self, effect: Callable[[], None]) -> None:
        """What must not be done before it is recorded why."""
        self._due_when_recorded.append(effect)

    def release(self, *, recorded: bool) -> None:
        """Do what is due. What was not recorded is done all the same where doing it twice does no harm."""
        due, self._due = self._due, []
        if recorded:
            due += self._due_when_recorded
            self._due_when_recorded = []
        for effect in due:
            effect()

    def _later(self, function: Callable[[Attempt], Awaitable[None]], attempt: Attempt) -> None:
        self._due.append(partial(self.start, function, attempt))

    def ask(self, attempt: Attempt, *, thaw: bool, memory: int | None = None) -> None:
        """SIGTERM to the command. `thaw`: it is frozen and must run to obey, with its limit of `memory` bytes."""
        if thaw:
            self._due.append(lambda: self.nursery.start_soon(self._ask_frozen, attempt, memory))
        else:
            self._later(self._ask, attempt)

    def kill(self, attempt: Attempt) -> None:
        """End the attempt now. Its end is reported by the launcher, or `Unkillable` here."""
        self._later(self._kill, attempt)

    def freeze(self, attempt: Attempt) -> None:
        """Answered with `FreezeAnswer`."""
        self._later(self._freeze, attempt)

    def keep_frozen(self, attempt: Attempt) -> None:
        """See that one which is frozen is so."""
        self._later(self._freeze_again, attempt)

    def thaw(self, attempt: Attempt, *, memory: int | None = None) -> None:
        """Answered with `ThawAnswer`. `memory`: its limit, bytes."""
        self._later(partial(self._thaw, memory=memory), attempt)

    def squeeze(self, attempt: Attempt) -> None:
        """Take from the frozen job what memory it can do without. Answered with `SqueezeAnswer`."""
        self._later(self._squeeze, attempt)

    def signal(self, attempt: Attempt, number: int) -> None:
        """Send the command a signal."""
        self._due.append(lambda: self.nursery.start_soon(self.launcher.signal, attempt.name, number))

    def clear(self, attempt: Attempt) -> None:
        """Kill and remove what is left of an attempt that nobody else will. Not cancelled with the others."""
        self._later(self._clear, attempt)

    def forget(self, attempt: Attempt) -> None:
        """The end of the attempt is known for good: a launcher that keeps it may forget it."""
        if self.forgotten is not None:
            self.after_record(partial(self.forgotten, attempt.name))

    async def _ask(self, attempt: Attempt) -> None:
        await self.launcher.signal(attempt.name, signal.SIGTERM)

    async def _ask_frozen(self, attempt: Attempt, memory: int | None) -> None:
        await self._ask(attempt)
        await self._thaw(attempt, memory=memory)

    async def _kill(self, attempt: Attempt) -> None:
        if attempt.dying:
            return  # somebody is at it, however often it is asked for
        empty, attempt.dying = False, True
        try:
            for _ in range(KILL_TRIES):
                if self.driver.mode == "none":
                    await self.launcher.signal(attempt.name, signal.SIGKILL)  # to its init
                empty = await self._call(partial(self.driver.kill, attempt.name, KILL_TIMEOUT), gone=True)
                if empty or attempt.over.is_set():
                    break
        finally:
            attempt.dying = False
        with trio.move_on_after(END_TIMEOUT):
            await attempt.over.wait()
        if not attempt.over.is_set():
            self.post(events.Unkillable(attempt, empty))

    async def _freeze(self, attempt: Attempt) -> None:
        async with attempt.turn:
            begun = time.perf_counter()
            confirmed = await self._call(partial(self.driver.freeze, attempt.name, FREEZE_TIMEOUT), gone=None)
            took = time.perf_counter() - begun
        self.post(events.FreezeAnswer(attempt, bool(confirmed), took, gone=confirmed is None))

    async def _freeze_again(self, attempt: Attempt) -> None:
        async with attempt.turn:
            await self._call(partial(self.driver.freeze, attempt.name, FREEZE_TIMEOUT), gone=False)

    async def _thaw(self, attempt: Attempt, *, memory: int | None) -> None:
        """First what others had meanwhile: its CPUs may be others now, and its memory limit its own again.

        What fails of it is due again with the next try: it never runs on CPUs that are others' by now.
        """
        reading: LimitReading | None = None
        took = 0.0
        why = f"the kernel did not confirm it within {FREEZE_TIMEOUT:.0f} s"
        try:
            async with attempt.turn:
                if attempt.moving:
                    cpus, mems = attempt.limits.cpuset_cpus or "", attempt.limits.cpuset_mems or ""
                    reading = await self.blocking(partial(self.driver.set_cpus, attempt.name, cpus, mems))
                    attempt.moving = False
                if attempt.squeezed:
                    await self.blocking(partial(self.driver.unsqueeze, attempt.name, memory))
                    attempt.squeezed = False
                begun = time.perf_counter()
                confirmed = await self._call(partial(self.driver.thaw, attempt.name, FREEZE_TIMEOUT), gone=True)
                took = time.perf_counter() - begun
        except OSError as error:  # it stays frozen, and is tried again
            confirmed = error.errno in _GONE
            why = f"{error.filename or attempt.name}: {error.strerror}"
        if not confirmed:
            await trio.sleep(THAW_PAUSE)
        self.post(events.ThawAnswer(attempt, confirmed, reading, "" if confirmed else why, took))

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

    async def _call(self, function: Callable[[], bool], *, gone: T) -> bool | T:
        """The driver's answer; `gone` where the job's cgroups went away meanwhile.

        It comes within seconds, but those of many jobs that do not die, on purpose, must not be waited for by others:
        so each has a thread of its own.
        """
        try:
            return await self.blocking(function, late=_ignore)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return gone


def _ignore(value: object) -> None:
    pass
