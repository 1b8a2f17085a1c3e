"""A process in a running job for somebody at the other end of a connection: its pipes or its terminal."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress

import trio
from attrs import define, field

from batchns.daemon.service import Refused
from batchns.errors import HostError, StepError, host_error
from batchns.launch.client import Entered, Launcher, Unsendable
from batchns.model.submitter import Submitter
from batchns.units import format_duration
from batchns.wire import types as wire

_PIECE = 64 << 10
_ENTER = 30.0  # seconds for a process to begin: its working folder may be one of a file system that does not answer
_HANG_UP = 5.0  # seconds to wait for the end of a process whose client has gone: more than it has (`entries.HANG_UP`)
# The owner's shell where the job's root has it, else the one that every root has.
_SHELL = ("/bin/sh", "-c", 'test -x "$0" && exec "$0" -i; exec /bin/sh -i')


@define(eq=False)
class Pipes:
    """Three pipes. See `service.Execution`."""

    entered: Entered
    stdin: trio.lowlevel.FdStream
    outputs: dict[str, trio.lowlevel.FdStream]
    _pieces: trio.MemorySendChannel[tuple[str, bytes]] = field(init=False)
    _read: trio.MemoryReceiveChannel[tuple[str, bytes]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._pieces, self._read = trio.open_memory_channel(0)

    async def pump(self) -> None:
        """Bring what it writes, until it writes no more."""
        async with self._pieces, trio.open_nursery() as nursery:
            for name, stream in self.outputs.items():
                nursery.start_soon(self._pump, name, stream, self._pieces.clone())

    async def _pump(
        self, name: str, stream: trio.lowlevel.FdStream, pieces: trio.MemorySendChannel[tuple[str, bytes]]
    ) -> None:
        async with pieces, stream:
            while data := await stream.receive_some(_PIECE):
                await pieces.send((name, data))

    async def read(self) -> tuple[str, bytes] | None:
        try:
            return await self._read.receive()
        except trio.EndOfChannel:
            return None

    async def write(self, data: bytes) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # it does not read any more
            if data:
                await self.stdin.send_all(data)
            else:
                await self.stdin.aclose()

    async def signal(self, number: int) -> None:
        await self.entered.signal(number)

    def resize(self, rows: int, columns: int) -> None:
        """Pipes have no size."""

    async def wait(self) -> tuple[int | None, int | None]:
        left = await self.entered.wait()
        return left.exit_code, left.signal


@define(eq=False)
class Terminal:
    """A terminal of the job's own. See `service.Execution`."""

    entered: Entered
    master: trio.lowlevel.FdStream

    async def read(self) -> tuple[str, bytes] | None:
        try:
            data = await self.master.receive_some(_PIECE)
        except trio.BrokenResourceError as error:  # EIO: nobody has the other side open any more
            if isinstance(error.__cause__, OSError) and error.__cause__.errno != errno.EIO:
                raise
            return None
        return ("stdout", data) if data else None

    async def write(self, data: bytes) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.master.send_all(data or b"\x04")  # the end of input, as a terminal has it

    async def signal(self, number: int) -> None:
        await self.entered.signal(number)

    def resize(self, rows: int, columns: int) -> None:
        self.entered.resize(rows, columns)

    async def wait(self) -> tuple[int | None, int | None]:
        left = await self.entered.wait()
        return left.exit_code, left.signal


@asynccontextmanager
async def execute(
    launcher: Launcher, attempt: str, request: wire.ExecRequest, owner: Submitter
) -> AsyncIterator[Pipes | Terminal]:
    """On leaving, a process that has not ended is hung up, and killed where it does not heed that.

    Raises:
        Refused: it cannot be started, or has not been within its bound; then it is hung up as soon as it is.
    """
    argv = request.command or (*_SHELL, owner.shell)
    env = dict(request.env)
    try:
        if request.terminal is not None:
            with _in_time():
                entered = await launcher.enter(attempt, argv, env=env, cwd=request.cwd, size=request.terminal)
            if entered.terminal is None:  # it came, and there was no descriptor for it: recvmsg(2), MSG_CTRUNC
                await _hang_up(entered)
                raise host_error(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
            async with trio.lowlevel.FdStream(entered.terminal) as master:
                try:
                    yield Terminal(entered, master)
                finally:
                    await _hang_up(entered)
            return
        async with _pipes(launcher, attempt, argv, env, request.cwd) as pipes, trio.open_nursery() as nursery:
            nursery.start_soon(pipes.pump)
            try:
                yield pipes
            finally:
                await _hang_up(pipes.entered)
                nursery.cancel_scope.cancel()
    except StepError as error:
        raise Refused(_code_of(error), error.what, error.hint or "see batchns show for the job's state") from None
    except Unsendable:
        raise Refused("too_large", "command and environment are too large to be sent", "put them into a file") from None
    except HostError as error:
        raise Refused("unavailable", error.what, error.hint) from None


@asynccontextmanager
async def _pipes(
    launcher: Launcher, attempt: str, argv: tuple[str, ...], env: dict[str, str], cwd: str
) -> AsyncIterator[Pipes]:
    with ExitStack() as theirs, ExitStack() as ours:
        ends = {}
        for name in ("stdin", "stdout", "stderr"):
            try:
                read, write = os.pipe2(os.O_CLOEXEC)
            except OSError as error:
                raise host_error(error) from None
            mine, other = (write, read) if name == "stdin" else (read, write)
            theirs.callback(os.close, other)
            ours.callback(os.close, mine)
            ends[name] = (mine, other)
        descriptors = (ends["stdin"][1], ends["stdout"][1], ends["stderr"][1])
        with _in_time():
            entered = await launcher.enter(attempt, argv, env=env, cwd=cwd, descriptors=descriptors)
        theirs.close()
        ours.pop_all()
    stdin = trio.lowlevel.FdStream(ends["stdin"][0])
    outputs = {name: trio.lowlevel.FdStream(ends[name][0]) for name in ("stdout", "stderr")}
    async with stdin:
        yield Pipes(entered, stdin, outputs)


def _code_of(error: StepError) -> str:
    """A shell tells the same two apart."""
    if error.step == "exec":
        return "command_not_found" if error.errno == errno.ENOENT else "command_not_executable"
    return "conflict" if error.step == "enter" else "invalid"


@contextmanager
def _in_time() -> Iterator[None]:
    """Raises Refused."""
    try:
        with trio.fail_after(_ENTER):
            yield
    except trio.TooSlowError:
        message = f"the process has not begun within {format_duration(_ENTER)}"
        raise Refused("unavailable", message, "see that the file system of its working folder answers") from None


async def _hang_up(entered: Entered) -> None:
    with trio.CancelScope(shield=True), trio.move_on_after(_HANG_UP):
        await entered.hang_up()
        with suppress(HostError):  # the launcher is gone, and it with it
            await entered.wait()
