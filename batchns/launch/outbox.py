"""What the launcher has to say to its client, in order; a client that does not read holds nobody else up."""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from typing import Protocol


class Stalling(Protocol):
    """Told when the socket is full (`on`), and when it is no longer: `flush` is due when it is writable again."""

    def __call__(self, *, on: bool) -> None: ...


class Outbox:
    """Packets for `client`, each with a descriptor or without one (-1)."""

    def __init__(self, client: socket.socket, stalled: Stalling) -> None:
        self._client = client
        self._told = stalled
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._stalled = False

    def add(self, message: bytes, descriptor: int = -1) -> None:
        """Send it now, or after those that wait. The descriptor is closed when it is sent."""
        self._waiting.append((message, descriptor))
        if len(self._waiting) == 1:
            self.flush()

    def flush(self) -> None:
        """Send what the client takes."""
        while self._waiting:
            message, descriptor = self._waiting[0]
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (descriptor,)))
            ancillary = (rights,) if descriptor >= 0 else ()
            try:
                self._client.sendmsg((message,), ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                self._stall(on=True)
                return
            except (BrokenPipeError, ConnectionResetError):
                self.drop()
                return
            self._waiting.popleft()
            if descriptor >= 0:
                os.close(descriptor)
        if self._stalled:
            self._stall(on=False)

    def drop(self) -> None:
        """The client is gone."""
        for _, descriptor in self._waiting:
            if descriptor >= 0:
                os.close(descriptor)
        self._waiting.clear()

    def _stall(self, *, on: bool) -> None:
        self._stalled = on
        self._told(on=on)
