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


def tls_context(tls: Tls) -> ssl.SSLContext:
    """
    Raises:
        HostError: a file cannot be read or is no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        context.load_verify_locations(tls.authority)
    except OSError as error:  # ssl.SSLError is one
        files = f"{tls.certificate}, {tls.key}, {tls.authority}"
        raise HostError(
            f"no TLS with {files}: {error.strerror or error}", "give PEM files that belong together"
        ) from None
    return context


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


async def certified(sock: Any, context: ssl.SSLContext, tls: Tls, seconds: float) -> tuple[Any, Certified]:
    """The stream after the handshake, and whose certificate it was.

    Raises:
        NotLetIn: no certificate of the authority, or no handshake within `seconds`.
    """
    stream: Any = trio.SSLStream(trio.SocketStream(sock), context, server_side=True, https_compatible=True)
    try:
        with trio.fail_after(seconds):
            await stream.do_handshake()
    except (trio.BrokenResourceError, trio.TooSlowError):
        raise NotLetIn from None
    name = common_name(stream.getpeercert())
    user = tls.users.get(name, "")
    return stream, Certified(user or name, bool(user))
