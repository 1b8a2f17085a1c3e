"""A process in a job, over a connection that has left HTTP: frames of `wire.frames` both ways.

1. What the process does not read of its stdin holds up nothing else: signals and sizes overtake it, and a client that
   leaves is noticed.
2. A client is as far ahead of its process as `AHEAD`: then its frames are not read until some stdin has been.
3. After a frame that was cut off nothing is sent: nobody would know where it begins.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio

from batchns.daemon.http.connection import Gone, Switch
from batchns.daemon.http.failures import DEFECT, besides, failure_of, only
from batchns.daemon.http.routes import Call
from batchns.daemon.service import Execution, Service
from batchns.kernel.sockets import sends_no_more
from batchns.wire import codec, frames

PIECE = 64 << 10
AHEAD = 256 << 10  # bytes of stdin that wait for the process; the frame that goes beyond is the last
LOOK = 1.0  # seconds between looks for a client whose frames are not read
NAMES = {"stdout": frames.STDOUT, "stderr": frames.STDERR}
_FRAME = 100  # bytes that one takes besides its payload

log = logging.getLogger("batchns.http")


async def serve_execution(service: Service, call: Call, upgrade: Callable[[str], Switch]) -> None:
    """Until the process has ended or the client is gone; leaving the service's block ends a process that is left."""
    switch = upgrade(frames.UPGRADE)
    async with service.execute(call.peer, call.job_id, call.body) as execution:
        stream, early = await switch()
        line = _Line(stream)
        try:
            await _exchange(execution, line, early)
        except Exception as error:
            rest = besides(error, Gone)
            if rest is None:
                raise Gone from None
            failure = failure_of(only(rest))
            if failure is None:
                log.error("a process in job %s broke off", call.job_id, exc_info=rest)
            if line.whole:
                with trio.move_on_after(1.0), suppress(Gone):
                    await line.send(frames.FAILURE, codec.encode(failure or DEFECT))


class _Line:
    """The connection. Both ways raise `Gone`. `whole`: every frame has been sent to its end."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._socket = getattr(stream, "transport_stream", stream).socket  # below TLS
        self.whole = True

    async def send(self, kind: int, payload: bytes) -> None:
        self.whole = False
        try:
            await self._stream.send_all(frames.frame(kind, payload))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Gone from None
        self.whole = True

    async def receive(self) -> bytes:
        try:
            data: bytes = await self._stream.receive_some(PIECE)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Gone from None
        if not data:
            raise Gone
        return data

    def look(self) -> None:
        """Without reading what there is."""
        if sends_no_more(self._socket.fileno()):
            raise Gone


class _Stdin:
    """What has come for the process and waits to be read."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._some = trio.Event()
        self._room = trio.Event()

    def add(self, data: bytes) -> None:
        self._pieces.append(data)
        self._held += len(data) + _FRAME
        self._some.set()

    async def feed(self, execution: Execution) -> None:
        """For ever."""
        while True:
            while not self._pieces:
                self._some = trio.Event()
                await self._some.wait()
            await execution.write(self._pieces[0])
            self._held -= len(self._pieces.popleft()) + _FRAME
            self._room.set()

    async def room(self, line: _Line) -> None:
        """Wait until more may come. Raises `Gone`."""
        while self._held >= AHEAD:
            self._room = trio.Event()
            with trio.move_on_after(LOOK):
                await self._room.wait()
            line.look()


async def _exchange(execution: Execution, line: _Line, early: bytes) -> None:
    stdin = _Stdin()

    async def listen() -> None:
        incoming = frames.Frames()
        data = early
        while True:
            for kind, payload in incoming.feed(data):
                await _perform(execution, stdin, kind, payload)
            await stdin.room(line)
            data = await line.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        nursery.start_soon(stdin.feed, execution)
        while (piece := await execution.read()) is not None:
            name, data = piece
            for start in range(0, len(data), frames.MAX_PAYLOAD):
                await line.send(NAMES[name], data[start : start + frames.MAX_PAYLOAD])
        exit_code, signum = await execution.wait()
        await line.send(frames.END, codec.encode({"exit_code": exit_code, "signal": signum}))
        nursery.cancel_scope.cancel()


async def _perform(execution: Execution, stdin: _Stdin, kind: int, payload: bytes) -> None:
    """What a client's frame asks for.

    Raises:
        WireError: no client's frame.
    """
    if kind == frames.STDIN:
        stdin.add(payload)
    elif kind == frames.RESIZE and len(payload) == frames.SIZE.size:
        rows, columns = frames.SIZE.unpack(payload)
        execution.resize(rows, columns)
    elif kind == frames.SIGNAL and len(payload) == 1 and 0 < payload[0] < 65:
        await execution.signal(payload[0])
    else:
        raise codec.WireError(f"a frame of kind {kind} and {len(payload)} bytes", "see wire/frames.py for the kinds")
