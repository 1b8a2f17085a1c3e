"""Answers without an end that is known: logs and events.

1. The answer's head goes out as soon as the service has let the reader in: whoever sees it misses nothing from then on.
2. A reader that stalls holds up its own answer only; one that goes away ends it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import trio

from batchns.daemon.http.routes import Call
from batchns.daemon.service import Service, StateEvent
from batchns.errors import UserError
from batchns.units import quote
from batchns.wire import types as wire

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Any], Awaitable[None]]


async def send_logs(service: Service, call: Call, receive: Receive, send: Send) -> None:
    query = call.query
    async with service.logs(
        call.peer,
        call.job_id,
        query.get("stream", "stdout"),
        attempt=query.get("attempt"),
        tail=query.get("tail"),
        follow=query.get("follow", False),
        start=query.get("start", 0),
    ) as pieces:
        begins = str(getattr(pieces, "begins", 0)).encode()
        await _stream(receive, send, [(b"content-type", b"text/plain"), (wire.BEGINS.encode(), begins)], pieces)


async def send_events(
    service: Service, call: Call, last: str | None, life: str, beat: float, receive: Receive, send: Send
) -> None:
    """`last`: the header Last-Event-ID. `life`: of this daemon; numbers of another one's mean nothing."""
    after, lost = position(call.query.get("after") or last, life)
    async with (
        service.events(call.peer, call.query.get("select", ()), after) as events,
        aclosing(_texts(events, life, lost)) as texts,
    ):
        await _stream(receive, send, [(b"content-type", b"text/event-stream")], texts, beat)


def position(text: str | None, life: str) -> tuple[int | None, bool]:
    """The event's number, and whether the events after it are lost: those of another life of the daemon.

    Raises:
        UserError: no position.
    """
    if not text:
        return None, False
    other, _, number = text.rpartition("-")
    if not (other.isalnum() and number.isascii() and number.isdigit() and len(number) < 19):
        raise UserError(f"{quote(text)} is no event's id", "leave it out to hear what comes from now on")
    return (int(number), False) if other == life else (None, True)


async def _texts(events: AsyncIterator[StateEvent | None], life: str, lost: bool) -> AsyncGenerator[bytes, None]:
    reset = b"event: reset\ndata:\n\n"
    yield reset if lost else b":\n\n"
    async for event in events:
        if event is None:
            yield reset
        else:
            yield b"id: %s-%d\nevent: job\ndata: %s\n\n" % (life.encode(), event.number, event.row)


async def _stream(
    receive: Receive,
    send: Send,
    headers: list[tuple[bytes, bytes]],
    pieces: AsyncIterator[bytes],
    beat: float | None = None,
) -> None:
    """`beat`: seconds after which a comment is sent, so that both sides notice when the other is gone."""
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": True})
    sending = trio.Lock()

    async def hang_up() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        nursery.cancel_scope.cancel()

    async def keep_alive(every: float) -> None:
        while True:
            await trio.sleep(every)
            async with sending:
                await send({"type": "http.response.body", "body": b":\n\n", "more_body": True})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hang_up)
        if beat is not None:
            nursery.start_soon(keep_alive, beat)
        async for piece in pieces:
            if piece:
                async with sending:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True), trio.move_on_after(1.0):
            await send({"type": "http.response.body", "body": b"", "more_body": False})
