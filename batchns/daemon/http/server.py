"""The daemon's front door: listens, lets in, and closes within a bound.

1. The kernel says who has connected, at the moment of the connection.
2. Nobody has all connections: each user has a few, root some that nobody else can take.
3. A defect in one connection ends that connection, and is logged.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from contextlib import ExitStack, suppress
from functools import partial
from math import inf
from typing import Any

import trio
from attrs import evolve, frozen

from batchns.daemon.http.app import App, Monitor
from batchns.daemon.http.connection import Connection
from batchns.daemon.http.failures import answered
from batchns.daemon.http.listen import unix_listener
from batchns.daemon.http.peers import Peers, credentials
from batchns.daemon.http.settings import Settings
from batchns.daemon.http.tls import Certified, NotLetIn, Papers, certified, read_papers, tcp_listeners
from batchns.daemon.service import Peer, Service
from batchns.wire import types as wire

PAUSE = 0.1  # seconds, where no connection can be accepted: the machine has no descriptor or memory for another one
# Of a connection that is gone again, or that a firewall does not want: accept(2). The next one may be well.
_OF_ONE = {
    errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENONET,
    errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EPERM, errno.EPROTO,
}  # fmt: skip

log = logging.getLogger("batchns.http")


Who = Callable[[], Awaitable[Peer | None]]


@frozen
class Guest:
    """A connection that has come. `key`: who has to share; `enter`: up to its HTTP, and who asks there."""

    sock: Any
    key: Hashable
    enter: Callable[[], Awaitable[tuple[Any, Who]]]
    plain: bool = True


Door = Callable[[Any, Any], Guest]
# Takes other settings: who administers and how many connections a user has hold from then on, no others. True: rights
# have changed, and streams are cut off whose reader may have lost some; clients ask for them anew. Papers: for TCP from
# then on; where they let in others than before, or as others, everybody who came by TCP has to come anew.
Change = Callable[[Settings, bool, Papers | None], None]


async def serve(
    service: Service,
    settings: Settings,
    *,
    monitor: Monitor | None = None,
    stop: trio.Event | None = None,
    task_status: trio.TaskStatus[Change] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer until `stop` is set: then nobody new is let in, streams are cut off, answers that are being made are
    finished within `settings.limits.grace` seconds. Cancelling is the same without the grace. Started when it listens,
    with what changes its settings.

    Raises:
        HostError: it cannot listen, for whatever reason.
    """
    house = _House(service, settings, monitor)
    with ExitStack() as listening:
        local = listening.enter_context(unix_listener(settings.socket, settings.mode))
        doors: list[tuple[Any, Door]] = [(local, house.local)]
        if settings.tls is not None:
            house.papers = read_papers(settings.tls)
            doors += [(listening.enter_context(tcp), house.remote) for tcp in await tcp_listeners(settings.tls)]
        async with trio.open_nursery() as guests:
            async with trio.open_nursery() as porters:
                for listener, door in doors:
                    porters.start_soon(house.accept, listener, guests, door)
                task_status.started(house.change)
                await (trio.sleep_forever() if stop is None else stop.wait())
                porters.cancel_scope.cancel()
            listening.close()
            with trio.move_on_after(settings.limits.grace):
                await house.close()
            guests.cancel_scope.cancel()


class _House:
    """Who is in, and how many of them."""

    def __init__(self, service: Service, settings: Settings, monitor: Monitor | None = None) -> None:
        self._limits = settings.limits
        self._peers = Peers(settings.admins, settings.admin_groups)
        self._app = App(service, settings.limits, monitor)
        self.papers: Papers | None = None
        self._inside: set[Connection] = set()
        self._remote: set[Connection] = set()  # of those inside
        self._count: Counter[Hashable] = Counter()
        self._turns: dict[Hashable, trio.Semaphore] = {}
        self._empty = trio.Event()
        self._closing = False
        self._told = -inf

    async def accept(self, listener: Any, guests: trio.Nursery, door: Door) -> None:
        """Let in whoever comes, until cancelled."""
        while True:
            try:
                sock, address = await listener.accept()
            except OSError as error:
                await self._not_accepted(error)
                continue
            try:
                guest = door(sock, address)
            except OSError:  # gone before anybody could look
                sock.close()
                continue
            if self._room(guest.key):
                self._count[guest.key] += 1
                guests.start_soon(self._serve, guest)
            else:
                await _turn_away(guest)

    async def _not_accepted(self, error: OSError) -> None:
        """Others' faults pass; whatever else it is would be so at once again: wait, and say it once a minute."""
        if error.errno in _OF_ONE:
            await trio.sleep(0)
            return
        if trio.current_time() > self._told + 60:
            log.warning("no connection can be accepted: %s", error)
            self._told = trio.current_time()
        await trio.sleep(PAUSE)

    def change(self, settings: Settings, rights: bool, papers: Papers | None = None) -> None:
        """See `Change`."""
        before, self.papers = self.papers, papers or self.papers
        if before is not None and papers is not None and not papers.lets_in_as(before):
            for connection in self._remote:
                connection.stop()
        self._limits = evolve(self._limits, per_user=settings.limits.per_user)
        self._peers.change(settings.admins, settings.admin_groups)
        if rights:
            for connection in self._inside:
                connection.recheck()

    def local(self, sock: Any, address: object) -> Guest:
        uid, gid = credentials(sock)

        async def enter() -> tuple[Any, Who]:
            return trio.SocketStream(sock), partial(self._peers.by_uid, uid, gid)

        return Guest(sock, uid, enter)

    def remote(self, sock: Any, address: tuple[Any, ...]) -> Guest:
        papers = self.papers
        assert papers is not None

        async def enter() -> tuple[Any, Who]:
            stream, user = await certified(sock, papers, self._limits.request)
            if self.papers is None or not self.papers.lets_in_as(papers):  # they have changed meanwhile
                raise NotLetIn
            return stream, partial(self._remote_peer, user, papers)

        return Guest(sock, address[0], enter, plain=False)

    async def _remote_peer(self, user: Certified, papers: Papers) -> Peer | None:
        """Nobody, where papers have changed since the handshake: for a request that had begun."""
        if self.papers is None or not self.papers.lets_in_as(papers):
            return None
        peer = await self._peers.by_name(user.name)
        return None if peer is not None and peer.uid == 0 and not user.mapped else peer

    def _room(self, key: Hashable) -> bool:
        limits = self._limits
        if key == 0:
            return self._count[key] < limits.per_user + limits.reserve
        others = self._count.total() - self._count[0]
        return self._count[key] < limits.per_user and others < limits.connections

    async def _serve(self, guest: Guest) -> None:
        connection = None
        try:
            stream, who = await guest.enter()
            turns = self._turns.setdefault(guest.key, trio.Semaphore(self._limits.turns))
            connection = Connection(stream, self._app, who, turns, self._limits, self._app.body_limit)
            self._inside.add(connection)
            if not guest.plain:
                self._remote.add(connection)
            if self._closing:
                connection.stop()
            await connection.serve()
        except NotLetIn:
            pass
        except Exception:
            log.exception("defect in a connection")
        finally:
            guest.sock.close()
            if connection is not None:
                self._inside.discard(connection)
                self._remote.discard(connection)
            self._count[guest.key] -= 1
            if not self._count[guest.key]:
                del self._count[guest.key]
                self._turns.pop(guest.key, None)
            if not self._count:
                self._empty.set()

    async def close(self) -> None:
        """Ask everybody to leave, and wait until they have."""
        self._closing = True
        self._empty = trio.Event()
        for connection in self._inside:
            connection.stop()
        if self._count:
            await self._empty.wait()


async def _turn_away(guest: Guest) -> None:
    """Without waiting for the client: a new connection has room for this answer."""
    failure = wire.Failure(code="unavailable", message="too many connections", hint="close some, or try again soon")
    answer = answered(failure)
    head = f"HTTP/1.1 {answer.status} \r\nconnection: close\r\nretry-after: 1\r\ncontent-type: application/json\r\n"
    with trio.move_on_after(PAUSE), suppress(OSError):
        if guest.plain:
            await guest.sock.send(f"{head}content-length: {len(answer.body)}\r\n\r\n".encode() + answer.body)
    guest.sock.close()
