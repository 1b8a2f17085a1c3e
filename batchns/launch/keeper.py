"""The client of a kept launcher: it finds the one that serves a folder, or starts it, and starts the next one.

1. Whoever asks does not notice that a launcher has died and another one goes on: what was asked for and not answered is
   asked for again, and the launcher does it once.
2. What is known of an attempt stays known until `forget`.
"""

from __future__ import annotations

import array
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import trio
from attrs import frozen

from batchns.errors import HostError, StepError
from batchns.launch.client import Ended, Launcher, LauncherGone, Started, ended_from, started_from
from batchns.launch.dial import PAUSE, connect, make_folder, reaped, take_lock
from batchns.launch.plan import Plan, to_wire


class Interrupted(HostError):
    """The launcher was killed while it launched an attempt, which is over. Nothing is left of it.

    `may_have_run`: False: the command was never executed; True: that is not known.
    """

    def __init__(self, attempt: str, *, may_have_run: bool) -> None:
        ran = "may have run" if may_have_run else "did not run"
        super().__init__(f"the launcher was killed while it started attempt {attempt}; its command {ran}")
        self.attempt = attempt
        self.may_have_run = may_have_run


@frozen
class Underway:
    """It has been asked for, and its command does not run yet."""


@frozen
class Running:
    started: Started


@frozen
class Over:
    started: Started
    ended: Ended


@frozen
class Failed:
    """Its command never ran to its end: it was not started, or that is not known."""

    error: StepError | Interrupted


Known = Underway | Running | Over | Failed


class _Pending:
    """Something that is asked for until it is answered."""

    def __init__(self) -> None:
        self.answered = False
        self._changed = trio.Event()

    def poke(self) -> None:
        """It has changed, or there is another launcher to ask."""
        self._changed.set()
        self._changed = trio.Event()

    async def change(self) -> None:
        await self._changed.wait()


class _Attempt(_Pending):
    def __init__(self) -> None:
        super().__init__()
        self.known: Known = Underway()

    def learn(self, attempt: str, started: Mapping[str, Any] | None, over: Mapping[str, Any] | None) -> None:
        """The launcher's answers so far."""
        if over is not None and over["event"] == "failed":
            self.known = Failed(_error_from(attempt, over))
        elif over is not None:
            begun = self._begun() or started_from(attempt, started or {})
            self.known = Over(begun, ended_from(attempt, over))
        elif started is not None and isinstance(self.known, Underway):
            self.known = Running(started_from(attempt, started))
        self.answered = not isinstance(self.known, Underway)
        self.poke()

    def _begun(self) -> Started | None:
        return self.known.started if isinstance(self.known, Running | Over) else None


class KeptLauncher(Launcher):
    """The launcher of one folder, whichever process that is at the moment. Methods may be called from any trio task.

    `prepare` is as of `Launcher`. `enter`, too; a process that has entered is lost with the launcher, and so with the
    client: its `wait` raises HostError, and it has been hung up.
    """

    def __init__(self, folder: Path, channel: trio.socket.SocketType) -> None:
        super().__init__(channel)
        self._folder = folder
        self._attempts: dict[str, _Attempt] = {}
        self._signals: dict[int, _Pending] = {}  # by serial number
        self._forgotten: set[str] = set()  # that the launcher has not confirmed
        self._serial = 0
        self._connection = 1
        self._ending = _Pending()
        self._busy = False  # what it said when it was last asked to end
        self._failure: HostError | None = None
        self._pidfd = -1  # of the launcher, if it was started here
        # Entries of a client before this one may still be there.
        self._entries = secrets.randbits(40) << 20

    @property
    def known(self) -> Mapping[str, Known]:
        """What is known of every attempt that has not been forgotten, as it is now."""
        return MappingProxyType({attempt: found.known for attempt, found in self._attempts.items()})

    async def launch(self, plan: Plan, stdin: int, stdout: int, stderr: int) -> Started:
        """As of `Launcher.launch`; for an attempt that is known, what became of it.

        Raises:
            StepError: as there.
            Interrupted: the launcher was killed meanwhile, and the attempt with it.
            HostError: no launcher can be started any more; or the plan is too large.
        """
        fds = array.array("i", (stdin, stdout, stderr))
        found = self._attempts.setdefault(plan.attempt, _Attempt())
        try:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
            await self._ask(found, lambda: b"L" + to_wire(plan), ancillary)
        except HostError:
            if not found.answered and self._failure is None:  # it cannot be sent at all
                del self._attempts[plan.attempt]
            raise
        return await self.recall(plan.attempt)

    async def recall(self, attempt: str) -> Started:
        """What becomes of the launch of an attempt that is known. It is not asked for again, by whoever it was.

        Raises:
            StepError, Interrupted, HostError: as of `launch`.
        """
        found = self._attempts[attempt]
        while not found.answered:
            self._raise_failure()
            await found.change()
        if isinstance(found.known, Failed):
            raise found.known.error
        assert isinstance(found.known, Running | Over)
        return found.known.started

    async def wait(self, attempt: str) -> Ended:
        """The end of a started attempt, whoever has started it; as often as it is asked for, until it is forgotten.

        Raises:
            StepError, Interrupted: it never started.
            HostError: no launcher can be started any more; the job may go on.
        """
        found = self._attempts[attempt]
        while True:
            if isinstance(found.known, Over):
                return found.known.ended
            if isinstance(found.known, Failed):
                raise found.known.error
            self._raise_failure()
            await found.change()

    async def signal(self, attempt: str, signum: int) -> None:
        """As of `Launcher.signal`. Returns when it has been sent: it is not lost with a launcher, but may be sent twice
        when one dies.
        """
        found = self._attempts.get(attempt)
        if found is None or isinstance(found.known, Over | Failed):
            return
        self._serial += 1
        serial = self._serial
        pending = self._signals[serial] = _Pending()
        try:
            with suppress(HostError):
                await self._ask(pending, lambda: b"K" + json.dumps([attempt, int(signum), serial]).encode())
        finally:
            del self._signals[serial]

    async def forget(self, attempt: str) -> None:
        """The attempt's end, or failure, has been taken note of: the launcher removes what it keeps of it.

        One that is not over is not forgotten, and one that is not known is no error.
        """
        found = self._attempts.get(attempt)
        if found is None or not isinstance(found.known, Over | Failed):
            return
        del self._attempts[attempt]
        self._forgotten.add(attempt)
        with suppress(LauncherGone):  # the next one is asked again
            await self._send(b"D" + json.dumps([attempt]).encode(), [])

    async def stop(self) -> None:
        """End the launcher, which must have no jobs left, and wait for it. Nothing can be asked for afterwards.

        What has not been forgotten the next one knows again.

        Raises:
            HostError: there are jobs, and all is as it was.
        """
        self._ending = _Pending()
        await self._ask(self._ending, lambda: b"E")
        if self._busy:
            raise HostError(f"the launcher of {self._folder} has jobs that run", "end them first")
        while self._failure is None:
            await self._ending.change()
        if self._pidfd >= 0:
            await reaped(self._reap())
        while (lock := take_lock(self._folder)) < 0:
            await trio.sleep(PAUSE)
        os.close(lock)

    async def _ask(self, pending: _Pending, message: Callable[[], bytes], ancillary: list[Any] | None = None) -> None:
        """Send it, and again to each launcher that follows, until it is answered."""
        asked = 0
        while not pending.answered:
            self._raise_failure()
            if asked != self._connection:
                asked = self._connection
                with suppress(LauncherGone):
                    await self._send(message(), ancillary or [])
                if asked != self._connection:
                    continue
            if not pending.answered:
                await pending.change()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    # -- one launcher after the other ------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Hear what the launcher says, for ever."""
        while True:
            while (heard := await self._hear()) is not None:
                self._heard(*heard)
            self._gone = True
            for waiting in (self._entering, self._leaving):
                for answer in waiting.values():
                    if not answer.arrived.is_set():
                        answer.give(None)
            self._leaving.clear()
            self._channel.close()
            if self._ending.answered and not self._busy:
                self._fail(HostError("the launcher has been ended"))
                return
            try:
                await self._connect()
            except HostError as error:
                self._fail(error)
                return

    async def _connect(self) -> None:
        """To another launcher; whoever waits for an answer asks it again."""
        self._channel, heard, pidfd = await connect(self._folder, self._reap())
        self._pidfd = pidfd
        self._gone = False
        self._connection += 1
        self._greeted(heard)
        for pending in self._everything():
            pending.poke()
        for attempt in tuple(self._forgotten):
            with suppress(LauncherGone):
                await self._send(b"D" + json.dumps([attempt]).encode(), [])

    def _reap(self) -> int:
        pidfd, self._pidfd = self._pidfd, -1
        return pidfd

    def _greeted(self, heard: list[dict[str, Any]]) -> None:
        for value in heard:
            attempt = value["attempt"]
            if attempt not in self._forgotten:
                self._attempts.setdefault(attempt, _Attempt()).learn(attempt, value["started"], value["over"])

    def _fail(self, error: HostError) -> None:
        self._failure = error
        for pending in self._everything():
            pending.poke()

    def _everything(self) -> Iterator[_Pending]:
        yield from tuple(self._attempts.values())
        yield from tuple(self._signals.values())
        yield self._ending

    def _heard(self, value: dict[str, Any], fds: list[int]) -> None:
        event, attempt = value["event"], value["attempt"]
        if event == "started":
            if attempt in self._attempts:
                self._attempts[attempt].learn(attempt, value, None)
        elif event in ("failed", "ended"):
            if attempt in self._attempts:
                self._attempts[attempt].learn(attempt, None, value)
        elif event == "signalled":
            if value["serial"] in self._signals:
                self._signals[value["serial"]].answered = True
                self._signals[value["serial"]].poke()
        elif event == "forgotten":
            self._forgotten.discard(attempt)
        elif event in ("busy", "ending"):
            self._busy = event == "busy"
            self._ending.answered = True
            self._ending.poke()
        else:
            super()._heard(value, fds)


def _error_from(attempt: str, value: Mapping[str, Any]) -> StepError | Interrupted:
    if value["interrupted"] is not None:
        return Interrupted(attempt, may_have_run=value["interrupted"])
    return StepError(value["step"], value["path"], value["errno"], value["hint"])


@asynccontextmanager
async def keep_launcher(folder: str | Path) -> AsyncIterator[KeptLauncher]:
    """The launcher that serves `folder`, started unless there is one. On leaving, it and its jobs are left alone.

    `folder`: of root's alone, on a tmpfs; made where it is not there. For one client at a time.

    Raises:
        HostError: the folder cannot be used, another client has the launcher, or none can be started.
    """
    path = Path(folder)
    make_folder(path)
    channel, heard, pidfd = await connect(path, -1)
    launcher = KeptLauncher(path, channel)
    launcher._pidfd = pidfd
    launcher._greeted(heard)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(launcher._serve)
            try:
                yield launcher
            finally:
                nursery.cancel_scope.cancel()
    finally:
        launcher._channel.close()
        if launcher._pidfd >= 0:
            os.close(launcher._reap())
