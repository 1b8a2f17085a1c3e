"""Requests and answers as both clients have them. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from batchns.client.errors import ApiError
from batchns.errors import UserError
from batchns.units import quote as shown
from batchns.wire import codec
from batchns.wire import types as wire
from batchns.wire.engine import Event, Reset

DEFAULT_SOCKET = "/run/batchns/batchns.sock"
SILENCE = 60.0  # seconds without a sign of life from a stream of events, which has one every 15


def target(path: str, query: Mapping[str, Any] | None = None) -> str:
    """Without what is not set; what has many values is there many times.

    Raises:
        UserError: a value is not UTF-8.
    """
    given = {name: _text(value) for name, value in (query or {}).items() if value not in (None, "", ())}
    words = urlencode({name: value for name, value in given.items() if value != ""}, doseq=True)
    return f"{path}?{words}" if words else path


def live(
    select: Sequence[str], states: Sequence[str], user: str | None, queue: str | None, ended: bool
) -> dict[str, Any]:
    """The query of jobs."""
    return {"select": tuple(select), "state": tuple(states), "user": user, "queue": queue, "ended": ended}


def past(
    user: str | None,
    since: float | None,
    until: float | None,
    names: Sequence[str],
    states: Sequence[str],
    queue: str | None,
) -> dict[str, Any]:
    """The query of history and usage."""
    return {"user": user, "since": since, "until": until, "name": tuple(names), "state": tuple(states), "queue": queue}


def job_path(job_id: str, below: str = "") -> str:
    return f"/v1/jobs/{quote(_sendable(job_id), safe='')}{below}"


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "1" if value else ""
    if isinstance(value, (tuple, list)):
        return [_sendable(str(one)) for one in value]
    return _sendable(str(value))


def _sendable(text: str) -> str:
    """
    Raises:
        UserError: it is no UTF-8: bytes of a command line that Python has kept as halves of surrogate pairs.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{shown(text)} is not UTF-8", "nothing that the daemon knows has such a name") from None
    return text


def head(method: str, path: str, length: int | None, *extra: str) -> bytes:
    """A request's head. `length`: of its body."""
    lines = [f"{method} {path} HTTP/1.1", "Host: batchns", *extra]
    if length is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def refusal(status: int, body: bytes) -> ApiError:
    """The error that an answer beyond 2xx stands for."""
    try:
        failure = codec.decode(wire.Failure, body)
    except codec.WireError:
        shown = body[:200].decode("utf-8", "replace").strip()
        return ApiError("unknown", f"the daemon answered {status}: {shown}", status=status)
    return ApiError(failure.code, failure.message, failure.hint, status)


def ended(payload: bytes) -> tuple[int | None, int | None]:
    """(exit code, signal) of an END frame."""
    value = json.loads(payload)
    return value["exit_code"], value["signal"]


class EventReader:
    """Bytes of a text/event-stream in, events out."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> Iterator[Event]:
        *whole, self._pending = (self._pending + data).split(b"\n\n")
        for text in whole:
            fields = dict(line.split(b": ", 1) for line in text.split(b"\n") if b": " in line)
            kind = fields.get(b"event")
            if kind == b"reset":
                yield Reset()
            elif kind == b"job":
                yield fields[b"id"].decode(), codec.decode(wire.JobRow, fields[b"data"])
