"""What Prometheus asks for, to whoever asks: /metrics, and beside it whether the daemon is well.

1. Over TCP nobody is asked who they are: there is nothing else to be had here, and nothing to change.
2. Whoever stalls costs a connection of theirs; there are few for each address, and few in all.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import trio
from attrs import define, field

from batchns.daemon.http.connection import Connection
from batchns.daemon.http.settings import Limits
from batchns.daemon.service import Peer
from batchns.errors import HostError

LIMITS = Limits(header=8 << 10, body=0, turns=1, idle=120.0, request=10.0, write=10.0)
MOST, EACH = 64, 8  # connections: in all, of one address
PAUSE = 0.5  # seconds, where the machine has no room for another one
_NOBODY = Peer(uid=65534, gid=65534, user="nobody")
_PLAIN = "text/plain; charset=utf-8"

log = logging.getLogger("batchns.http")

Send = Callable[[Any], Awaitable[None]]


class Told(Protocol):
    """What can be asked."""

    async def scrape(self, accept: str) -> tuple[str, bytes]:
        """Content type and text of all metrics. `accept`: the header."""

    async def ill(self) -> str:
        """Why the daemon does not do its work at all; "" while it does."""

    def unready(self) -> str:
        """Why new jobs would not be started, or not taken; "" where they would."""


class ScrapeApp:
    """An ASGI application for `Connection`."""

    PATHS = frozenset({"/metrics", "/healthz", "/readyz"})

    def __init__(self, told: Told) -> None:
        self._told = told

    async def __call__(self, scope: dict[str, Any], receive: object, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path not in self.PATHS:
            await _answer(send, 404, _PLAIN, b"there are /metrics, /healthz and /readyz\n")
        elif method not in ("GET", "HEAD"):
            await _answer(send, 405, _PLAIN, b"GET is all that can be done here\n")
        else:
            try:
                answer = await self._get(path, scope["headers"])
            except Exception:
                log.exception("defect in %s", path)
                answer = 500, _PLAIN, b"batchns could not tell: its log says why\n"
            await _answer(send, *answer)

    async def _get(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, str, bytes]:
        """Status, content type and body."""
        if path == "/metrics":
            accept = dict(headers).get(b"accept", b"").decode("ascii", "replace")
            return 200, *await self._told.scrape(accept)
        why = self._told.unready() if path == "/readyz" else await self._told.ill()
        return 503 if why else 200, _PLAIN, f"{why or 'ok'}\n".encode()


async def _answer(send: Send, status: int, kind: str, body: bytes) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def serve_scrapes(
    told: Told, address: tuple[str, int], *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer at `address` until cancelled. Started, with the port, when it listens.

    Raises:
        HostError: it cannot listen there.
    """
    host, port = address
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        what = f"metrics cannot be served at {host}:{port}: {error.strerror or error}"
        raise HostError(what, "choose another port or address: listen under [metrics], or --metrics") from None
    house = _House(ScrapeApp(told))
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(house.accept, listener, nursery)
        task_status.started(listeners[0].socket.getsockname()[1])


@define(eq=False)
class _House:
    app: ScrapeApp
    _count: Counter[str] = field(init=False, factory=Counter)

    async def accept(self, listener: trio.SocketListener, guests: trio.Nursery) -> None:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno == errno.EBADF:
                        raise
                    await trio.sleep(PAUSE)
                    continue
                try:
                    address = str(stream.socket.getpeername()[0])
                except OSError:  # whoever it was is gone again
                    await trio.aclose_forcefully(stream)
                    continue
                if self._count.total() >= MOST or self._count[address] >= EACH:
                    await trio.aclose_forcefully(stream)
                    continue
                self._count[address] += 1
                guests.start_soon(self._serve, stream, address)

    async def _serve(self, stream: trio.SocketStream, address: str) -> None:
        try:
            turns = trio.Semaphore(LIMITS.turns)
            await Connection(stream, self.app, _nobody, turns, LIMITS, lambda method, target: LIMITS.body).serve()
        except Exception:
            log.exception("defect in a connection for metrics")
        finally:
            self._count[address] -= 1
            if not self._count[address]:
                del self._count[address]


async def _nobody() -> Peer:
    return _NOBODY
