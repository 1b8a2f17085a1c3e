"""One connection: bytes to requests (h11), requests to the app (ASGI), answers to bytes.

1. Each wait has a bound, except those of a stream's reader and writer: a stalled client costs its own connection only.
2. A user has a few turns at a time: whoever sends a thousand questions waits for their own, not the others for them.
3. Malformed HTTP is answered 400 and the connection closed: after it nobody knows where a request begins.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any

import h11
import trio

from batchns.daemon.http.failures import answered
from batchns.daemon.http.settings import Limits
from batchns.daemon.service import Peer, Refused
from batchns.wire import types as wire

PIECE = 64 << 10  # bytes per system call
LINGER = 1.0  # seconds in which a refused request may still be read away

Message = dict[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Any], Awaitable[None]]], Awaitable[None]]
# Of a request (method, path): how long its body may be.
BodyLimit = Callable[[str, str], int]
# Out of HTTP: the raw stream, and what the client has already sent on it.
Switch = Callable[[], Awaitable[tuple[Any, bytes]]]


class Gone(Exception):
    """The client is not there any more, or does not read."""


class _Bad(Exception):
    """A request that is refused before the app has seen it."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.failure = wire.Failure(code=code, message=message, hint=hint)


class Connection:
    """`who`: the peer, asked for anew with each request; None: nobody of this machine."""

    def __init__(
        self,
        stream: Any,
        app: App,
        who: Callable[[], Awaitable[Peer | None]],
        turns: trio.Semaphore,
        limits: Limits,
        body_limit: BodyLimit,
    ) -> None:
        self.stream = stream
        self._app = app
        self._who = who
        self._turns = turns
        self._limits = limits
        self._body_limit = body_limit
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header)
        self._scope = trio.CancelScope()
        self.stopping = False
        self._idle = True
        self._closed = False
        self._peer: Peer | None = None  # of the latest request
        self.switched = False
        self.streaming = False

    async def serve(self) -> None:
        """Answer until the client, a bound or `stop` ends it. The stream is closed then."""
        try:
            with self._scope:
                while await self._exchange():
                    self.http.start_next_cycle()
        except Gone:
            pass
        finally:
            await trio.aclose_forcefully(self.stream)

    def stop(self) -> None:
        """Take no more requests: an answer that is being made is finished, a stream is cut off."""
        self.stopping = True
        if self._idle or self.streaming:
            self._scope.cancel()

    def recheck(self) -> None:
        """Rights have changed: a stream is cut off, unless it is root's or out of HTTP, which took an owner's right."""
        if self.streaming and not self.switched and self._peer is not None and self._peer.uid != 0:
            self.stop()

    async def _exchange(self) -> bool:
        """One request and its answer. False: the connection is to be closed."""
        self.streaming = False
        try:
            if not await self._begun():
                return False
            with trio.fail_after(self._limits.request):
                request = await self._event()
                if not isinstance(request, h11.Request):
                    return False
            await self._answer(request)
        except _Bad as bad:
            await self._refuse(bad.failure)
            return False
        except trio.TooSlowError:
            seconds = f"{self._limits.request:g} s"
            await self._refuse(wire.Failure(code="slow", message=f"the request was not complete after {seconds}"))
            return False
        done = self.http.our_state is h11.DONE and self.http.their_state is h11.DONE
        return done and not self.stopping

    async def _begun(self) -> bool:
        """Wait for the first byte of a request. False: none has come."""
        if self.http.trailing_data[0]:
            self._idle = False
            return True
        self._idle = True
        with trio.move_on_after(self._limits.idle) as scope:
            await self._fill()
        self._idle = False
        return not scope.cancelled_caught

    async def _answer(self, request: h11.Request) -> None:
        async with _Turn(self._turns) as turn:
            small = _small(request)
            if not small:
                await turn.take()
            with trio.fail_after(self._limits.request):
                body = await self._body(request)
            if small:
                await turn.take()
            peer = self._peer = await self._who()
            if peer is None:
                raise _Bad("forbidden", "your certificate names no user of this machine")
            exchange = _Exchange(self, request, body, turn)
            await self._app(_scope_of(request, peer, exchange.upgrade), exchange.receive, exchange.send)

    async def _body(self, request: h11.Request) -> bytes:
        limit = self._body_limit(request.method.decode("ascii"), request.target.decode("ascii", "replace"))
        for name, value in request.headers:
            if name == b"content-length" and int(value) > limit:
                raise _too_large(limit)
        if self.http.they_are_waiting_for_100_continue:
            await self.write(self.http.send(h11.InformationalResponse(status_code=100, headers=[])))
        body = bytearray()
        while isinstance(event := await self._event(), h11.Data):
            body += event.data
            if len(body) > limit:
                raise _too_large(limit)
        if not isinstance(event, h11.EndOfMessage):
            raise Gone
        return bytes(body)

    async def _event(self) -> Any:
        while True:
            try:
                event = self.http.next_event()
            except h11.RemoteProtocolError as error:
                if self._closed:
                    raise Gone from None
                code = "headers_too_large" if error.error_status_hint == 431 else "invalid"
                raise _Bad(code, f"this is not HTTP/1.1: {error}") from None
            if event is not h11.NEED_DATA:
                return event
            await self._fill()

    async def _fill(self) -> None:
        data = await self.read()
        self._closed = not data
        self.http.receive_data(data)

    async def read(self) -> bytes:
        try:
            data: bytes = await self.stream.receive_some(PIECE)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Gone from None
        return data

    async def write(self, data: bytes | None, *, bounded: bool = True) -> None:
        """Raises `Gone` where a piece is not taken in time; not `bounded`: it has all the time in the world."""
        view = memoryview(data or b"")
        try:
            for start in range(0, len(view), PIECE):
                with trio.fail_after(self._limits.write if bounded else inf):
                    await self.stream.send_all(view[start : start + PIECE])
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            raise Gone from None

    async def _refuse(self, failure: wire.Failure) -> None:
        """Say why, and read for a moment what the client is still sending: else it would not see the answer."""
        if self.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            raise Gone
        answer = answered(failure)
        headers = [*_headers(len(answer.body)), (b"connection", b"close")]
        parts = (
            h11.Response(status_code=answer.status, headers=headers),
            h11.Data(data=answer.body),
            h11.EndOfMessage(),
        )
        await self.write(b"".join(self.http.send(part) or b"" for part in parts))
        with trio.move_on_after(LINGER):
            if isinstance(self.stream, trio.SocketStream):
                with suppress(trio.BrokenResourceError):
                    await self.stream.send_eof()
            while await self.read():
                pass


class _Turn:
    """A semaphore's turn that can be given back early, and is at the end of the block."""

    def __init__(self, turns: trio.Semaphore) -> None:
        self._turns = turns
        self._held = False

    async def __aenter__(self) -> _Turn:
        return self

    async def take(self) -> None:
        await self._turns.acquire()
        self._held = True

    async def __aexit__(self, *_: object) -> None:
        self.give_back()

    def give_back(self) -> None:
        if self._held:
            self._held = False
            self._turns.release()


class _Exchange:
    """ASGI's receive and send, for one request whose body has been read."""

    def __init__(self, connection: Connection, request: h11.Request, body: bytes, turn: _Turn) -> None:
        self._connection = connection
        self._http = connection.http
        self._request = request
        self._body: bytes | None = body
        self._turn = turn
        self._start = b""

    async def receive(self) -> Message:
        """The body, and then the end of the connection."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        while len(self._http.trailing_data[0]) < PIECE:
            try:
                data = await self._connection.read()
            except Gone:
                data = b""
            if not data:
                return {"type": "http.disconnect"}
            self._http.receive_data(data)
        await trio.sleep_forever()
        raise AssertionError

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            response = h11.Response(status_code=message["status"], headers=message["headers"])
            self._start = self._http.send(response) or b""
            return
        data = self._start
        self._start = b""
        if message.get("body") and self._request.method != b"HEAD":
            data += self._http.send(h11.Data(data=message["body"])) or b""
        if message.get("more_body"):
            self._connection.streaming = True
            self._turn.give_back()
            if self._connection.stopping:
                raise Gone
        else:
            data += self._http.send(h11.EndOfMessage()) or b""
        await self._connection.write(data, bounded=not self._connection.streaming)

    def upgrade(self, protocol: str) -> Switch:
        """The way out of HTTP.

        Raises:
            Refused: the client has not asked for this protocol.
        """
        asked = [value for name, value in self._request.headers if name == b"upgrade"]
        if asked != [protocol.encode()] or self._http.their_state is not h11.MIGHT_SWITCH_PROTOCOL:  # type: ignore[attr-defined]
            raise Refused("invalid", "this is a stream of frames", f"ask with Connection: Upgrade, Upgrade: {protocol}")
        return partial(self._switch, protocol)

    async def _switch(self, protocol: str) -> tuple[Any, bytes]:
        if self._connection.stopping:
            raise Gone
        headers = [(b"connection", b"upgrade"), (b"upgrade", protocol.encode())]
        self._connection.streaming = self._connection.switched = True
        self._turn.give_back()
        await self._connection.write(self._http.send(h11.InformationalResponse(status_code=101, headers=headers)))
        return self._connection.stream, self._http.trailing_data[0]


def _small(request: h11.Request) -> bool:
    """Whether the body takes so little memory that it need not wait for a turn; so a slow sender needs none."""
    lengths = [int(value) for name, value in request.headers if name == b"content-length"]
    chunked = any(name == b"transfer-encoding" for name, _ in request.headers)
    return not chunked and sum(lengths) <= PIECE


def _too_large(limit: int) -> _Bad:
    return _Bad("too_large", f"the request is larger than {limit} bytes", "send it in several parts")


def _headers(length: int) -> list[tuple[bytes, bytes]]:
    return [(b"content-type", b"application/json"), (b"content-length", str(length).encode())]


def _scope_of(request: h11.Request, peer: Peer, upgrade: Any) -> Message:
    path, _, query = request.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.http_version.decode("ascii"),
        "method": request.method.decode("ascii"),
        "scheme": "http",
        "path": path.decode("ascii", "replace"),  # still with its %XX: an id may have a slash in it
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": list(request.headers),
        "client": None,
        "server": None,
        "batchns.peer": peer,
        "batchns.upgrade": upgrade,
    }
