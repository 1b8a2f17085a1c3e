"""The API over TCP, for those who have a certificate of the configured authority. Nobody else gets to HTTP at all."""

from __future__ import annotations

import ssl
from typing import Any

import trio
from attrs import frozen

from batchns.daemon.http.peers import common_name
from batchns.daemon.http.settings import Tls
from batchns.errors import HostError


class NotLetIn(Exception):
    """No handshake, or not in time."""


@frozen
class Certified:
    """`name`: the user; `mapped`: the configuration names them, so that it may be root."""

    name: str
    mapped: bool


@frozen
class Papers:
    """What a handshake is made with. `trusted`: the bytes of the authority's file: who is let in."""

    tls: Tls
    context: ssl.SSLContext
    trusted: bytes

    def lets_in_as(self, other: Papers) -> bool:
        """Whoever one of both lets in is the same user to the other."""
        return self.trusted == other.trusted and self.tls.users == other.tls.users


def read_papers(tls: Tls) -> Papers:
    """The files as they are now.

    Raises:
        HostError: a file cannot be read or is no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        trusted = tls.authority.read_bytes()
        context.load_verify_locations(cadata=trusted.decode("ascii", "ignore"))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        files = f"{tls.certificate}, {tls.key}, {tls.authority}"
        raise HostError(
            f"no TLS with {files}: {getattr(error, 'strerror', None) or error}", "give PEM files that belong together"
        ) from None
    return Papers(tls, context, trusted)


async def tcp_listeners(tls: Tls) -> list[trio.socket.SocketType]:
    """
    Raises:
        HostError: host and port are not to be had.
    """
    try:
        listeners = await trio.open_tcp_listeners(tls.port, host=tls.host)
    except OSError as error:
        raise HostError(f"cannot listen at {tls.host}:{tls.port}: {error}", "choose another port or host") from None
    return [listener.socket for listener in listeners]


async def certified(sock: Any, papers: Papers, seconds: float) -> tuple[Any, Certified]:
    """The stream after the handshake, and whose certificate it was.

    Raises:
        NotLetIn: no certificate of the authority, or no handshake within `seconds`.
    """
    stream: Any = trio.SSLStream(trio.SocketStream(sock), papers.context, server_side=True, https_compatible=True)
    try:
        with trio.fail_after(seconds):
            await stream.do_handshake()
    except (trio.BrokenResourceError, trio.TooSlowError):
        raise NotLetIn from None
    name = common_name(stream.getpeercert())
    user = papers.tls.users.get(name, "")
    return stream, Certified(user or name, bool(user))
