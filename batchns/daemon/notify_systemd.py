"""Tells the service manager how the daemon is: sd_notify(3), without its library. Without a manager it does nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from time import CLOCK_MONOTONIC, clock_gettime_ns

_VARIABLE = "NOTIFY_SOCKET"


class ServiceManager:
    """Whoever started the daemon. A manager that does not listen is none of the daemon's business: nothing raises."""

    def __init__(self, address: str = "") -> None:
        """`address`: a path, or "@" and the name of an abstract socket; "": nobody listens."""
        self._address = "\0" + address[1:] if address.startswith("@") else address

    @classmethod
    def of_environment(cls, environ: Mapping[str, str] = os.environ) -> ServiceManager:
        return cls(environ.get(_VARIABLE, ""))

    def ready(self, status: str = "") -> None:
        """It takes requests, for the first time or again after `reloading`."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """It reads its settings anew; `ready` follows. The moment is what Type=notify-reload asks for."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={clock_gettime_ns(CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line, for `systemctl status`."""
        self._send(f"STATUS={text}")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        text = "\n".join(line.replace("\n", " ") for line in lines)
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
            sending.settimeout(1.0)
            sending.sendto(text.encode(), self._address)
