"""HTTP spoken by hand: what a library would not send."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import frozen


@frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def connect(path: Path, timeout: float = 10.0) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(timeout)
    made.connect(str(path))
    return made


def answer_of(connection: socket.socket, method: str = "GET") -> Answer:
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def ask(path: Path, method: str, target: str, body: object = None, *headers: str, raw: bytes | None = None) -> Answer:
    """One question on a connection of its own."""
    data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {target} HTTP/1.1", "Host: x", f"Content-Length: {len(data)}", *headers, "", ""]
    with connect(path) as connection:
        with suppress(BrokenPipeError):  # turned away before it could ask: the answer is there all the same
            connection.sendall("\r\n".join(lines).encode() + data)
        return answer_of(connection, method)


def read_until(connection: socket.socket, what: bytes) -> bytes:
    data = b""
    while what not in data:
        piece = connection.recv(65536)
        assert piece, f"closed after {data!r}"
        data += piece
    return data


def all_of(connection: socket.socket) -> bytes:
    """Up to the end, however it ends."""
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


def eventually(true: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.01)
    return true()
