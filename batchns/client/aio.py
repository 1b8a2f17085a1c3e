"""The daemon's API for a program on trio: as `sync`, with the same names.

1. Any number of tasks may ask at the same time; connections that are free are used again.
2. What may have been done is never asked for again, unless that is harmless: see `Client.submit`.
3. Streams are context managers: leaving the block closes their connection, and with it what hangs on it.
"""

from __future__ import annotations

import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, TypeVar

import h11
import trio

from batchns.client.errors import ApiError, Lost, NoDaemon, broken, slow, unreachable
from batchns.client.requests import (
    DEFAULT_SOCKET,
    SILENCE,
    EventReader,
    ended,
    job_path,
    live,
    past,
    refusal,
    target,
)
from batchns.wire import codec, frames
from batchns.wire import types as wire
from batchns.wire.codec import WireError
from batchns.wire.engine import Event, Reset

__all__ = ["ApiError", "Client", "Event", "Execution", "Lost", "NoDaemon", "Reset", "WireError", "DEFAULT_SOCKET"]

PIECE = 1 << 16
FREE = 4  # connections that are kept

T = TypeVar("T")


class _NotSent(Lost):
    """The request has not gone out whole, so that nobody can have acted on it."""


class Execution:
    """A process in a job. `write` and `read` may be used by two tasks."""

    def __init__(self, stream: trio.SocketStream, early: bytes) -> None:
        self._stream = stream
        self._frames = frames.Frames()
        self._pending = list(self._frames.feed(early))
        self._sending = trio.Lock()
        self._end: tuple[int | None, int | None] | None = None

    async def read(self) -> tuple[str, bytes] | None:
        """The next piece of ("stdout" or "stderr"), as it comes; None: it has ended, see `wait`."""
        while self._end is None:
            while not self._pending:
                try:
                    data = await self._stream.receive_some(PIECE)
                except trio.BrokenResourceError:
                    data = b""
                if not data:
                    raise Lost("the connection to the daemon broke before the process had ended")
                self._pending += self._frames.feed(data)
            kind, payload = self._pending.pop(0)
            if kind in frames.OUTPUTS:
                return frames.OUTPUTS[kind], payload
            if kind == frames.FAILURE:
                raise refusal(0, payload)
            if kind == frames.END:
                self._end = ended(payload)
        return None

    async def write(self, data: bytes) -> None:
        """To its stdin; b"" closes it. No error once it has ended."""
        for frame in frames.stdin(data):
            await self._send(frame)

    async def resize(self, rows: int, columns: int) -> None:
        """Its terminal has another size."""
        await self._send(frames.resize(rows, columns))

    async def signal(self, number: int) -> None:
        await self._send(frames.frame(frames.SIGNAL, bytes([number])))

    async def _send(self, frame: bytes) -> None:
        async with self._sending:
            try:
                await self._stream.send_all(frame)
            except trio.BrokenResourceError:
                return  # `read` tells

    async def wait(self) -> tuple[int | None, int | None]:
        """(exit code, signal), one of them None; both None where it was killed with its job. Drops output not read."""
        while await self.read() is not None:
            pass
        assert self._end is not None
        return self._end


class _Connection:
    """HTTP's client side over one unix socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)

    async def ask(self, method: str, path: str, body: bytes | None, upgrade: str = "") -> h11.Response:
        """The head of the answer.

        Raises:
            Lost: there is none; `_NotSent` where the daemon cannot have understood the request.
        """
        headers = [("host", "batchns")]
        if upgrade:
            headers += [("connection", "Upgrade"), ("upgrade", upgrade)]
        if body is not None:
            headers += [("content-type", "application/json"), ("content-length", str(len(body)))]
        data = self.http.send(h11.Request(method=method, target=path, headers=headers)) or b""
        if body:
            data += self.http.send(h11.Data(data=body)) or b""
        data += self.http.send(h11.EndOfMessage()) or b""
        cut = False
        try:
            await self.stream.send_all(data)
        except trio.BrokenResourceError:
            cut = True  # refused in mid-sentence, a daemon says why; else it is just gone
        try:
            event = await self.event()
            while isinstance(event, h11.InformationalResponse) and event.status_code != 101:
                event = await self.event()
        except Lost as error:
            raise _NotSent(*error.args) if cut else error from None
        assert isinstance(event, (h11.Response, h11.InformationalResponse))
        return event  # type: ignore[return-value] # both have a status

    async def event(self) -> Any:
        while True:
            try:
                event = self.http.next_event()
                if event is not h11.NEED_DATA:
                    break
                self.http.receive_data(await self.stream.receive_some(PIECE))
            except (trio.BrokenResourceError, h11.RemoteProtocolError):
                raise broken() from None
        if isinstance(event, h11.ConnectionClosed):
            raise broken()
        return event

    async def pieces(self, silence: float = math.inf) -> AsyncGenerator[bytes, None]:
        """The body, as it comes.

        Raises:
            Lost: it broke off, or nothing has come for `silence` seconds.
        """
        while True:
            try:
                with trio.fail_after(silence):
                    event = await self.event()
            except trio.TooSlowError:
                raise slow() from None
            if not isinstance(event, h11.Data):
                return
            yield bytes(event.data)

    async def body(self) -> bytes:
        async with aclosing(self.pieces()) as pieces:
            return b"".join([piece async for piece in pieces])


class Client:
    """What the daemon at `socket_path` can be asked. `timeout`: seconds for one answer.

    Every method raises:
        ApiError: the daemon says no.
        NoDaemon: nobody listens at `socket_path`.
        Lost: the connection broke before the answer was complete.
        WireError: the answer is not understood; the daemon is of another version.
    """

    def __init__(self, socket_path: str | os.PathLike[str] = DEFAULT_SOCKET, *, timeout: float = 60.0) -> None:
        self.socket_path = os.fspath(socket_path)
        self.timeout = timeout
        self._free: list[_Connection] = []

    async def aclose(self) -> None:
        """Close the connections that are kept open. The client can still be used."""
        while self._free:
            await self._free.pop().stream.aclose()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def you(self) -> wire.You:
        """Whom the daemon takes the caller for."""
        return await self._get(wire.You, "/v1/you")

    async def submit(self, request: wire.SubmitRequest) -> wire.Submitted:
        """All jobs, or none; durable when it returns. With `request.key` set it is sent again where the connection
        breaks: the daemon submits once for one key.
        """
        return await self._post(wire.Submitted, "/v1/jobs", request, again=bool(request.key))

    async def jobs(
        self,
        select: Sequence[str] = (),
        *,
        states: Sequence[str] = (),
        user: str | None = None,
        queue: str | None = None,
        ended: bool = False,
        page: int = 1000,
    ) -> AsyncIterator[wire.JobRow]:
        """Jobs that are not over, and with `ended` those that ended lately; `page` of them are asked for at a time."""
        async for row in self._rows("/v1/jobs", live(select, states, user, queue, ended), page):
            yield row

    async def job(self, job_id: str) -> wire.JobDetail:
        """All of one job, over or not."""
        return await self._get(wire.JobDetail, job_path(job_id))

    async def why(self, job_id: str) -> wire.Why:
        """Why it does not run, and when it is expected to."""
        return await self._get(wire.Why, job_path(job_id, "/why"))

    async def act(self, request: wire.ActRequest) -> wire.ActAnswer:
        """Do something with jobs: cancel, hold, release, freeze, thaw, requeue, priority, signal."""
        return await self._post(wire.ActAnswer, "/v1/actions", request)

    async def history(
        self,
        *,
        user: str | None = None,
        since: float | None = None,
        until: float | None = None,
        names: Sequence[str] = (),
        states: Sequence[str] = (),
        queue: str | None = None,
        page: int = 1000,
    ) -> AsyncIterator[wire.JobRow]:
        """Jobs that are over, the newest end first. `user`: "*" for everybody's; None: the caller's."""
        async for row in self._rows("/v1/history", past(user, since, until, names, states, queue), page):
            yield row

    async def usage(
        self,
        *,
        user: str | None = None,
        since: float | None = None,
        until: float | None = None,
        names: Sequence[str] = (),
        states: Sequence[str] = (),
        queue: str | None = None,
    ) -> wire.UsageAnswer:
        """What jobs that are over asked for and what they used, by name."""
        return await self._get(wire.UsageAnswer, "/v1/usage", past(user, since, until, names, states, queue))

    async def node(self) -> wire.NodeInfo:
        """What this machine has, what of it is free, and whether the daemon is well."""
        return await self._get(wire.NodeInfo, "/v1/node")

    async def queues(self) -> wire.QueuesAnswer:
        return await self._get(wire.QueuesAnswer, "/v1/queues")

    async def drain(self, detail: str = "") -> wire.NodeInfo:
        """Start no more jobs. Administrators."""
        return await self._post(wire.NodeInfo, "/v1/node/drain", wire.DrainRequest(detail=detail))

    async def resume(self) -> wire.NodeInfo:
        """Start jobs again. Administrators."""
        return await self._post(wire.NodeInfo, "/v1/node/resume")

    @asynccontextmanager
    async def logs(
        self,
        job_id: str,
        stream: str = "stdout",
        *,
        attempt: int | None = None,
        tail: int | None = None,
        follow: bool = False,
        start: int = 0,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """What the job has written to "stdout" or "stderr", in pieces. `tail`: only its last so many lines; `start`:
        without it, from this byte on.

        `follow`: what it will write, too, until it is over.
        """
        query = {"stream": stream, "attempt": attempt, "tail": tail, "follow": follow, "start": start or None}
        async with self._stream(target(job_path(job_id, "/logs"), query), math.inf) as pieces:
            yield pieces

    @asynccontextmanager
    async def events(
        self, select: Sequence[str] = (), *, after: str | None = None
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Each change of a job's state, as (position, row). `after`: a position; None: from now on.

        "Now" is before the block is entered. To miss nothing: open the stream, ask for `jobs`, then read the stream.
        """
        query = {"select": tuple(select), "after": after}
        async with self._stream(target("/v1/events", query), SILENCE) as pieces, aclosing(_events(pieces)) as events:
            yield events

    @asynccontextmanager
    async def execute(
        self,
        job_id: str,
        command: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        terminal: tuple[int, int] | None = None,
    ) -> AsyncIterator[Execution]:
        """Start a process in a running job. No command: a shell. `terminal`: rows and columns; None: three pipes."""
        request = wire.ExecRequest(command=tuple(command), env=dict(env or {}), cwd=cwd, terminal=terminal)
        connection = await self._connected()
        try:
            with _in_time(self.timeout):
                answer = await connection.ask(
                    "POST", job_path(job_id, "/exec"), codec.encode(request), upgrade=frames.UPGRADE
                )
                if answer.status_code != 101:
                    raise refusal(answer.status_code, await connection.body())
            yield Execution(connection.stream, connection.http.trailing_data[0])
        finally:
            await trio.aclose_forcefully(connection.stream)

    async def _rows(self, path: str, query: Mapping[str, Any], page: int) -> AsyncIterator[wire.JobRow]:
        after = ""
        while True:
            found = await self._get(wire.JobPage, path, {**query, "limit": page, "after": after})
            for row in found.jobs:
                yield row
            if not (after := found.next):
                return

    async def _get(self, kind: type[T], path: str, query: Mapping[str, Any] | None = None) -> T:
        return codec.decode(kind, await self._ask("GET", target(path, query), None, again=True))

    async def _post(self, kind: type[T], path: str, request: object = None, *, again: bool = False) -> T:
        body = b"" if request is None else codec.encode(request)
        return codec.decode(kind, await self._ask("POST", path, body, again=again))

    async def _ask(self, method: str, path: str, body: bytes | None, *, again: bool) -> bytes:
        """The answer's body. `again`: it does no harm to ask twice."""
        with _in_time(self.timeout):
            kept = bool(self._free)
            try:
                return await self._ask_once(method, path, body, fresh=False)
            except Lost as error:
                if not (again or (kept and isinstance(error, _NotSent))):
                    raise
            return await self._ask_once(method, path, body, fresh=True)

    async def _ask_once(self, method: str, path: str, body: bytes | None, *, fresh: bool) -> bytes:
        connection = await self._connected() if fresh or not self._free else self._free.pop()
        try:
            answer = await connection.ask(method, path, body)
            data = await connection.body()
            if connection.http.our_state is connection.http.their_state is h11.DONE and len(self._free) < FREE:
                connection.http.start_next_cycle()
                self._free.append(connection)
        finally:
            if connection not in self._free:
                await trio.aclose_forcefully(connection.stream)
        if answer.status_code >= 300:
            raise refusal(answer.status_code, data)
        return data

    @asynccontextmanager
    async def _stream(self, path: str, silence: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """The pieces of an answer whose head has come. `silence`: seconds that may pass without one."""
        connection = await self._connected()
        try:
            with _in_time(self.timeout):
                answer = await connection.ask("GET", path, None)
                if answer.status_code != 200:
                    raise refusal(answer.status_code, await connection.body())
            async with aclosing(connection.pieces(silence)) as pieces:
                yield pieces
        finally:
            await trio.aclose_forcefully(connection.stream)

    async def _connected(self) -> _Connection:
        try:
            return _Connection(await trio.open_unix_socket(self.socket_path))
        except OSError as error:
            raise unreachable(self.socket_path, error) from None


async def _events(pieces: AsyncIterator[bytes]) -> AsyncGenerator[Event, None]:
    reader = EventReader()
    async for piece in pieces:
        for event in reader.feed(piece):
            yield event


@contextmanager
def _in_time(seconds: float) -> Iterator[None]:
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise slow() from None
