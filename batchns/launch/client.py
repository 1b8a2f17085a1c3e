"""The trio side of the launcher: start it, ask it for jobs, hear of their ends."""

from __future__ import annotations

import array
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from errno import EMSGSIZE
from pathlib import Path
from types import MappingProxyType
from typing import Any

import trio
from attrs import field, frozen

from batchns.errors import HostError, StepError
from batchns.kernel.network.types import Counters
from batchns.kernel.sockets import make_room
from batchns.launch.plan import Base, Plan, to_wire

MAX_MESSAGE = 1 << 20
END_TIMEOUT = 10.0  # seconds for the launcher to kill and clean up once its client has gone

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_PROGRAM = "import sys; sys.path.append({package!r}); from batchns.launch.launcher import main; main({fd}, root={root})"


@frozen(kw_only=True)
class Started:
    """The command has been executed. `phases` are seconds, by phase; "total" counts from the launcher's receipt."""

    attempt: str
    pid: int  # init's, in the host's PID namespace
    phases: Mapping[str, float] = field(factory=dict)
    cgroup_values: Mapping[str, str | int] = field(factory=dict)  # for Driver.readings
    shapers: Mapping[str, int | None] = field(factory=dict)  # {"egress": bit/s in force, "ingress": ...}
    unshaped: str = ""  # why a job in the host's network has no rates in force
    confined: tuple[str, ...] = ()  # what the kernel says that the command is, for each of `Command.confined`


@frozen(kw_only=True)
class Ended:
    """The job is over and its cgroups are gone.

    `exit_code` and `signal` (a number) are the command's own; both None when init left no record (it was killed).
    """

    attempt: str
    exit_code: int | None = None
    signal: int | None = None
    cgroup_texts: Mapping[str, str] = field(factory=dict)  # for Driver.usage
    network: Counters | None = None
    unread: str = ""  # why cgroup_texts or network are not complete
    left: tuple[str, ...] = ()  # kernel objects that could not be removed


def started_from(attempt: str, value: Mapping[str, Any]) -> Started:
    """Of the launcher's answer."""
    return Started(
        attempt=attempt,
        pid=value["pid"],
        phases=value["phases"],
        cgroup_values=value["cgroup_values"],
        shapers=value["shapers"],
        unshaped=value["unshaped"],
        confined=tuple(value.get("confined", ())),
    )


def ended_from(attempt: str, value: Mapping[str, Any]) -> Ended:
    """Of the launcher's answer."""
    return Ended(
        attempt=attempt,
        exit_code=value["exit_code"],
        signal=value["signal"],
        cgroup_texts=value["cgroup_texts"],
        network=Counters(*value["network"]) if value["network"] else None,
        unread=value["unread"],
        left=tuple(value["left"]),
    )


class LauncherGone(HostError):
    """There is no launcher at the other end any more."""


class Unsendable(HostError):
    """A message that no launcher can be sent: it is too large. Nothing has been done."""


class _Answer:
    """One value that a task waits for, once."""

    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.value: dict[str, Any] | None = None

    def give(self, value: dict[str, Any] | None) -> None:
        self.value = value
        self.arrived.set()


@frozen(kw_only=True)
class Left:
    """How a process that had entered a job ended: as of `Ended`; both None where it was killed with the job."""

    exit_code: int | None = None
    signal: int | None = None


class Entered:
    """A process in a running job. `pid`: in the host's PID namespace. `terminal`: the master, the caller's to close."""

    def __init__(self, launcher: Launcher, name: str, pid: int, terminal: int | None, end: _Answer) -> None:
        self.pid = pid
        self.terminal = terminal
        self._launcher = launcher
        self._name = name
        self._end = end

    async def wait(self) -> Left:
        """Its end.

        Raises:
            HostError: the launcher is gone, and with it the job.
        """
        await self._end.arrived.wait()
        if self._end.value is None:
            raise _gone()
        return Left(exit_code=self._end.value["exit_code"], signal=self._end.value["signal"])

    async def signal(self, signum: int) -> None:
        """Send a signal to the process and its group. One that has ended is no error."""
        with suppress(HostError):
            await self._launcher._send(b"Y" + json.dumps([self._name, int(signum)]).encode(), [])

    async def hang_up(self) -> None:
        """Nobody listens to it any more: SIGHUP, and SIGKILL if it has not ended within `entries.HANG_UP` seconds."""
        await self._launcher._hang_up(self._name)

    def resize(self, rows: int, columns: int) -> None:
        """The terminal has another size from now on: the process gets a SIGWINCH."""
        assert self.terminal is not None
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


class Launcher:
    """One launcher process. Methods may be called from any trio task."""

    def __init__(self, channel: trio.socket.SocketType) -> None:
        self._channel = channel
        self._sending = trio.Lock()
        self._starts: dict[str, _Answer] = {}
        self._ends: dict[str, _Answer] = {}
        self._entering: dict[str, _Answer] = {}  # by entry
        self._leaving: dict[str, _Answer] = {}
        self._entries = 0
        self._unwanted: list[str] = []  # entries that began after whoever asked had been cancelled
        self._gone = False

    async def launch(self, plan: Plan, stdin: int, stdout: int, stderr: int) -> Started:
        """Start a job; returns once its command has been executed. The descriptors stay the caller's.

        Raises:
            StepError: which step failed, on what path, with which errno. Nothing is left behind. Step "exec" means
                that the command itself could not be executed (ENOENT: exit code 127 for a shell, else 126).
            Unsendable: the plan is too large.
            HostError: the launcher is gone.
        """
        start = self._starts[plan.attempt] = _Answer()
        self._ends[plan.attempt] = _Answer()
        try:
            fds = array.array("i", (stdin, stdout, stderr))
            await self._send(b"L" + to_wire(plan), [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            await start.arrived.wait()
        finally:
            del self._starts[plan.attempt]
        value = start.value
        if value is None:
            del self._ends[plan.attempt]
            raise _gone()
        if value["event"] == "failed":
            del self._ends[plan.attempt]
            raise StepError(value["step"], value["path"], value["errno"], value["hint"])
        return started_from(plan.attempt, value)

    async def prepare(self, attempt: str, base: Base, into: str) -> None:
        """Build the common part of a sandbox for a coming attempt. A launch that finds none makes one: nothing is told.

        `into`: the cgroup v2 directory of the attempt's plan ("" for none).
        """
        with suppress(HostError):
            await self._send(b"P" + json.dumps([attempt, base, into]).encode(), [])

    async def wait(self, attempt: str) -> Ended:
        """The end of a started attempt (returns at once when it has already ended; once per attempt).

        Raises:
            HostError: the launcher is gone, and with it the job.
        """
        end = self._ends[attempt]
        await end.arrived.wait()
        del self._ends[attempt]
        value = end.value
        if value is None:
            raise _gone()
        return ended_from(attempt, value)

    async def signal(self, attempt: str, signum: int) -> None:
        """Send a signal to the job's init, which forwards it to the command; SIGKILL ends init and so the job.

        An attempt that has ended is no error, and neither is a launcher that is gone.
        """
        with suppress(HostError):
            await self._send(b"S" + json.dumps([attempt, int(signum)]).encode(), [])

    async def enter(
        self,
        attempt: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] = MappingProxyType({}),
        cwd: str = "",
        descriptors: tuple[int, int, int] | None = None,
        size: tuple[int, int] = (24, 80),
    ) -> Entered:
        """Start a process in a running job: in its namespaces and cgroups, under the same restrictions.

        `env`: in addition to the job's. `cwd`: "" for the job's. `descriptors`: stdin, stdout and stderr; without them
        it gets a terminal of the job's own, of `size` (rows, columns). Cancelled, what it starts after all is hung up.

        Raises:
            StepError: which step failed, as of `launch`; the job goes on. Step "enter": it does not run, or is frozen.
            Unsendable: command and environment are too large.
            HostError: the launcher is gone.
        """
        self._entries += 1
        name = str(self._entries)
        answer = self._entering[name] = _Answer()
        end = self._leaving[name] = _Answer()
        wanted = [list(argv), list(env.items()), cwd, None if descriptors else size]
        fds = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            await self._send(b"X" + json.dumps([attempt, name, wanted]).encode(), fds)
            if not answer.arrived.is_set():  # one that has come is not lost to a cancellation
                await answer.arrived.wait()
        except BaseException:
            self._leaving.pop(name, None)
            raise
        finally:
            del self._entering[name]
        value = answer.value
        if value is None or value["event"] == "refused":
            self._leaving.pop(name, None)
            if value is None:
                raise _gone()
            raise StepError(value["step"], value["path"], value["errno"], value["hint"])
        return Entered(self, name, value["pid"], value.get("descriptor"), end)

    async def _hang_up(self, name: str) -> None:
        with suppress(HostError):
            await self._send(b"H" + json.dumps([name]).encode(), [])

    async def _send(self, message: bytes, ancillary: list[Any]) -> None:
        if len(message) > MAX_MESSAGE:
            raise Unsendable(
                f"a launch plan of {len(message)} bytes is larger than {MAX_MESSAGE}",
                "ask for less: a shorter environment, script or command",
            )
        if self._gone:
            raise _gone()
        channel = self._channel
        try:
            async with self._sending:
                await channel.sendmsg([message], ancillary)
        except (BrokenPipeError, ConnectionResetError, trio.ClosedResourceError):
            raise _gone() from None
        except OSError as error:
            if channel.fileno() < 0:
                raise _gone() from None  # closed while it waited for its turn
            if error.errno != EMSGSIZE:
                raise
            hint = "put the script into a file, or let root raise the bound: sysctl -w net.core.wmem_max=1048576"
            raise Unsendable(f"a launch plan of {len(message)} bytes is larger than sockets take here", hint) from None

    async def _receive(self) -> None:
        """Hand each answer to the task that waits for it, until the launcher is gone."""
        while (heard := await self._hear()) is not None:
            self._heard(*heard)
        self._gone = True
        for answer in self._everyone():
            if not answer.arrived.is_set():
                answer.give(None)

    async def _hear(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message and its descriptors; None when the launcher is gone."""
        while self._unwanted:
            await self._hang_up(self._unwanted.pop())
        try:
            message, ancillary, _, _ = await self._channel.recvmsg(
                MAX_MESSAGE, socket.CMSG_LEN(4), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return None
        if not message:
            return None
        return json.loads(message), array.array("i", b"".join(data for _, _, data in ancillary)).tolist()

    def _heard(self, value: dict[str, Any], fds: list[int]) -> None:
        if fds:
            value["descriptor"] = fds[0]
        event = value["event"]
        if event in ("entered", "refused", "left"):
            waiting = self._leaving if event == "left" else self._entering
            name = value["entry"]
        else:
            waiting = self._ends if event == "ended" else self._starts
            name = value["attempt"]
        if name in waiting:
            waiting[name].give(value)
        else:  # whoever asked has been cancelled
            for fd in fds:
                os.close(fd)
            if event == "entered":
                self._unwanted.append(name)
        if event == "left":
            self._leaving.pop(name, None)

    def _everyone(self) -> Iterator[_Answer]:
        for waiting in (self._starts, self._ends, self._entering, self._leaving):
            yield from waiting.values()


def _gone() -> LauncherGone:
    return LauncherGone("the launcher process is gone", "run the command again: what it left is swept then")


@asynccontextmanager
async def open_launcher(*, root: bool = True) -> AsyncIterator[Launcher]:
    """Start a launcher process; on leaving, its jobs are killed and it is waited for, within a bound.

    `root`: it has root's rights; else it works in a user namespace of its own (kernel/rootless.py).
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        # -I -S: neither the environment nor site-packages have a say in what this process imports.
        program = _PROGRAM.format(package=_PACKAGE_ROOT, fd=theirs.fileno(), root=root)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # a terminal's Ctrl-C and Ctrl-Z are for the client to decide on
            cwd="/",
            env={},
        )
    make_room(ours, MAX_MESSAGE)
    with trio.socket.from_stdlib_socket(ours) as channel:
        launcher = Launcher(channel)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(launcher._receive)
                try:
                    yield launcher
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            channel.shutdown(socket.SHUT_RDWR)
            with trio.CancelScope(shield=True):
                await _reap(process)


async def _reap(process: subprocess.Popen[bytes]) -> None:
    pidfd = os.pidfd_open(process.pid)
    try:
        with trio.move_on_after(END_TIMEOUT) as scope:
            await trio.lowlevel.wait_readable(pidfd)
        if scope.cancelled_caught:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        process.wait()
    finally:
        os.close(pidfd)
