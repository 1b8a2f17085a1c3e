"""HTTP/1.1 answers, read from a socket: as much of it as the daemon speaks, with a length or in chunks.

`http.client` does the same, and takes a command line 12 ms to import (it brings e-mail and TLS along).
"""

from __future__ import annotations

import socket

from batchns.wire.types import BEGINS

PIECE = 1 << 16
MAX_HEAD = 1 << 16


class Answer:
    """`status` has come when this has been made; the body comes with `read`, or bit by bit with `piece`.

    `exact`: take not one byte beyond the head, for what follows an answer of 101.

    Everything raises:
        ConnectionError: the connection ended before its time, or what came is no HTTP.
        TimeoutError: nothing came in time.
    """

    def __init__(self, connection: socket.socket, *, exact: bool = False) -> None:
        self._connection = connection
        self._buffer = bytearray()
        lines = self._until(b"\r\n\r\n", 1 if exact else PIECE).decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise ConnectionError(f"no HTTP: {lines[0][:60]!r}")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self.status = int(rest[:3])
        begins = headers.get(BEGINS, "")
        self.begins = int(begins) if begins.isdecimal() else 0  # of a job's output: the byte that comes first
        self._chunked = headers.get("transfer-encoding") == "chunked"
        length = headers.get("content-length", "0")
        self._left = 0 if self._chunked else int(length) if length.isdigit() else 0  # of the body, or of this chunk
        self._over = not self._chunked and not self._left
        self.last = version == "HTTP/1.0" or headers.get("connection", "").lower() == "close"  # on this connection

    def read(self) -> bytes:
        """All that is left of the body."""
        body = bytearray()
        while piece := self.piece():
            body += piece
        return bytes(body)

    def piece(self) -> bytes:
        """What has come of the body, and something has; b"" when it is complete."""
        if self._chunked and not self._left and not self._over:
            self._left = self._chunk()
            self._over = not self._left
        if self._over:
            return b""
        if not self._buffer:
            self._receive(PIECE)
        piece = bytes(self._buffer[: self._left])
        del self._buffer[: len(piece)]
        self._left -= len(piece)
        if not self._left:
            if self._chunked:
                self._until(b"\r\n", PIECE)
            else:
                self._over = True
        return piece

    def _chunk(self) -> int:
        """The length of the next chunk; of the last one, which is empty, the rest is read, too."""
        line = self._until(b"\r\n", PIECE)
        try:
            length = int(line.partition(b";")[0], 16)
        except ValueError:
            raise ConnectionError(f"no chunk: {bytes(line[:20])!r}") from None
        if length == 0:
            while self._until(b"\r\n", PIECE):
                pass
        return length

    def _until(self, end: bytes, size: int) -> bytes:
        """What comes before `end`, which is taken, too."""
        while (place := self._buffer.find(end)) < 0:
            if len(self._buffer) > MAX_HEAD:
                raise ConnectionError("a head or line without an end")
            self._receive(size)
        found = bytes(self._buffer[:place])
        del self._buffer[: place + len(end)]
        return found

    def _receive(self, size: int) -> None:
        data = self._connection.recv(size)
        if not data:
            raise ConnectionResetError("closed before its time")
        self._buffer += data
