"""Room for whole messages in unix sockets: a packet is sent at once or not at all."""

from __future__ import annotations

import socket
from contextlib import suppress

_SO_SNDBUFFORCE = 32  # include/uapi/asm-generic/socket.h


def make_room(sender: socket.socket, size: int) -> None:
    """Let `sender` send packets of `size` bytes; without root as large as net.core.wmem_max allows. socket(7)."""
    with suppress(PermissionError):
        sender.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size)
        return
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
