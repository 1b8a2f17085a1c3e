"""Unix sockets: room for whole messages, as a packet is sent at once or not at all; whether the other end is gone."""

from __future__ import annotations

import select
import socket
from contextlib import suppress

_SO_SNDBUFFORCE = 32  # include/uapi/asm-generic/socket.h


def make_room(sender: socket.socket, size: int) -> None:
    """Let `sender` send packets of `size` bytes; without root as large as net.core.wmem_max allows. socket(7)."""
    with suppress(PermissionError):
        sender.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size)
        return
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


def sends_no_more(descriptor: int) -> bool:
    """Whether the other end of a connection has closed it, or its own half; what it has sent before may be unread."""
    poller = select.poll()
    poller.register(descriptor, select.POLLRDHUP)
    return bool(poller.poll(0))


def hung_up(one: socket.socket) -> bool:
    """Whether the other end of a connection has been closed; what it has sent before may still be read."""
    poller = select.poll()
    poller.register(one, 0)  # POLLHUP is always told
    return bool(poller.poll(0))
