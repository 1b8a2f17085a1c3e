"""The two-way stream of a process in a job: frames of a byte (kind), four bytes (length, big-endian), and the payload.

| kind | from | payload |
|---|---|---|
| STDIN | client | bytes for its stdin; none: close it |
| STDOUT, STDERR | daemon | bytes that it wrote; with a terminal all of it is STDOUT |
| RESIZE | client | rows and columns of its terminal, two bytes each, big-endian |
| SIGNAL | client | the signal's number, one byte |
| END | daemon | the last frame: `{"exit_code": ..., "signal": ...}`, one of them null, or both: killed with its job |
| FAILURE | daemon | instead of END: `wire.Failure` |
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from batchns.wire.codec import WireError

UPGRADE = "batchns-exec"  # of the Upgrade header

STDIN = 0
STDOUT = 1
STDERR = 2
RESIZE = 3
SIGNAL = 4
END = 5
FAILURE = 6

OUTPUTS = {STDOUT: "stdout", STDERR: "stderr"}
HEADER = struct.Struct(">BI")
SIZE = struct.Struct(">HH")
MAX_PAYLOAD = 1 << 20


def frame(kind: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


def stdin(data: bytes) -> Iterator[bytes]:
    """STDIN frames of all of it; of nothing one that closes it."""
    for start in range(0, len(data), MAX_PAYLOAD) if data else (0,):
        yield frame(STDIN, data[start : start + MAX_PAYLOAD])


def resize(rows: int, columns: int) -> bytes:
    """A RESIZE frame; sizes beyond 65535 are held to that."""
    return frame(RESIZE, SIZE.pack(min(max(rows, 0), 65535), min(max(columns, 0), 65535)))


def opened(header: bytes) -> tuple[int, int]:
    """Kind and length of the payload that follows.

    Raises:
        WireError: it is too long.
    """
    kind, length = HEADER.unpack(header)
    if length > MAX_PAYLOAD:
        raise WireError(f"a frame of {length} bytes", f"a frame holds {MAX_PAYLOAD} bytes at most")
    return kind, length


class Frames:
    """Bytes in, as they come; whole frames out."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """
        Raises:
            WireError: a frame is too long.
        """
        self._pending += data
        while len(self._pending) >= HEADER.size:
            kind, length = opened(bytes(self._pending[: HEADER.size]))
            end = HEADER.size + length
            if len(self._pending) < end:
                return
            payload = bytes(self._pending[HEADER.size : end])
            del self._pending[:end]
            yield kind, payload
