"""The daemon's API for a program without an event loop: what the command line uses.

1. One connection, kept open, for questions that have one answer; each stream (`logs`, `events`, `execute`) has its own.
2. What may have been done is never asked for again, unless that is harmless: see `Client.submit`.
3. Little is imported: a command that asks one question must not wait for its imports.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from batchns.client.answers import Answer
from batchns.client.errors import ApiError, Lost, NoDaemon, unreachable
from batchns.client.requests import (
    DEFAULT_SOCKET,
    SILENCE,
    EventReader,
    head,
    job_path,
    live,
    past,
    refusal,
    target,
)
from batchns.client.streams import Execution, Stream, lost
from batchns.wire import codec, frames
from batchns.wire import types as wire
from batchns.wire.codec import WireError
from batchns.wire.engine import Event, Reset

__all__ = [
    "ApiError",
    "Client",
    "Event",
    "Execution",
    "Lost",
    "NoDaemon",
    "Reset",
    "Stream",
    "WireError",
    "DEFAULT_SOCKET",
]

T = TypeVar("T")


class Client:
    """What the daemon at `socket_path` can be asked. Not for several threads at once.

    `timeout`: seconds without a sign of life from the daemon, after which a question fails.

    Every method raises:
        ApiError: the daemon says no.
        NoDaemon: nobody listens at `socket_path`.
        Lost: the connection broke before the answer was complete.
        WireError: the answer is not understood; the daemon is of another version.
    """

    def __init__(self, socket_path: str | os.PathLike[str] = DEFAULT_SOCKET, *, timeout: float = 60.0) -> None:
        self.socket_path = os.fspath(socket_path)
        self.timeout = timeout
        self._open: socket.socket | None = None

    def close(self) -> None:
        """Close the connection that is kept open. The client can still be used."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def you(self) -> wire.You:
        """Whom the daemon takes the caller for."""
        return self._get(wire.You, "/v1/you")

    def submit(self, request: wire.SubmitRequest) -> wire.Submitted:
        """All jobs, or none; durable when it returns.

        Where the connection breaks and `request.key` is set (a text of one's own making, new for each submission, such
        as `os.urandom(16).hex()`), it is sent once more: the daemon submits once for one key. Without a key: `Lost`.
        """
        return self._post(wire.Submitted, "/v1/jobs", request, again=bool(request.key))

    def jobs(
        self,
        select: Sequence[str] = (),
        *,
        states: Sequence[str] = (),
        user: str | None = None,
        queue: str | None = None,
        ended: bool = False,
        page: int = 1000,
    ) -> Iterator[wire.JobRow]:
        """Jobs that are not over, and with `ended` those that ended lately; `page` of them are asked for at a time."""
        return self._rows("/v1/jobs", live(select, states, user, queue, ended), page)

    def jobs_page(
        self,
        select: Sequence[str] = (),
        *,
        states: Sequence[str] = (),
        user: str | None = None,
        queue: str | None = None,
        ended: bool = False,
        limit: int = 1000,
        after: str = "",
    ) -> wire.JobPage:
        """One page of `jobs`. `after`: `next` of the page before."""
        query = live(select, states, user, queue, ended)
        return self._get(wire.JobPage, "/v1/jobs", {**query, "limit": limit, "after": after})

    def job(self, job_id: str) -> wire.JobDetail:
        """All of one job, over or not."""
        return self._get(wire.JobDetail, job_path(job_id))

    def why(self, job_id: str) -> wire.Why:
        """Why it does not run, and when it is expected to."""
        return self._get(wire.Why, job_path(job_id, "/why"))

    def act(self, request: wire.ActRequest) -> wire.ActAnswer:
        """Do something with jobs: cancel, hold, release, freeze, thaw, requeue, priority, signal."""
        return self._post(wire.ActAnswer, "/v1/actions", request)

    def history(
        self,
        *,
        user: str | None = None,
        since: float | None = None,
        until: float | None = None,
        names: Sequence[str] = (),
        states: Sequence[str] = (),
        queue: str | None = None,
        page: int = 1000,
    ) -> Iterator[wire.JobRow]:
        """Jobs that are over, the newest end first. `user`: "*" for everybody's; None: the caller's."""
        return self._rows("/v1/history", past(user, since, until, names, states, queue), page)

    def usage(
        self,
        *,
        user: str | None = None,
        since: float | None = None,
        until: float | None = None,
        names: Sequence[str] = (),
        states: Sequence[str] = (),
        queue: str | None = None,
    ) -> wire.UsageAnswer:
        """What jobs that are over asked for and what they used, by name."""
        return self._get(wire.UsageAnswer, "/v1/usage", past(user, since, until, names, states, queue))

    def node(self) -> wire.NodeInfo:
        """What this machine has, what of it is free, and whether the daemon is well."""
        return self._get(wire.NodeInfo, "/v1/node")

    def queues(self) -> wire.QueuesAnswer:
        return self._get(wire.QueuesAnswer, "/v1/queues")

    def drain(self, detail: str = "") -> wire.NodeInfo:
        """Start no more jobs. Administrators."""
        return self._post(wire.NodeInfo, "/v1/node/drain", wire.DrainRequest(detail=detail))

    def resume(self) -> wire.NodeInfo:
        """Start jobs again. Administrators."""
        return self._post(wire.NodeInfo, "/v1/node/resume")

    def logs(
        self,
        job_id: str,
        stream: str = "stdout",
        *,
        attempt: int | None = None,
        tail: int | None = None,
        follow: bool = False,
        start: int = 0,
    ) -> Stream[bytes]:
        """What the job has written to "stdout" or "stderr", in pieces. `tail`: only its last so many lines; `start`:
        without it, from this byte on. The stream's `begins` is the byte at which it does.

        `follow`: what it will write, too, until it is over.
        """
        query = {"stream": stream, "attempt": attempt, "tail": tail, "follow": follow, "start": start or None}
        connection, answer = self._begun("GET", target(job_path(job_id, "/logs"), query), None, None)
        return Stream(connection, answer, lambda data: iter((data,) if data else ()))

    def events(self, select: Sequence[str] = (), *, after: str | None = None) -> Stream[Event]:
        """Each change of a job's state, as (position, row). `after`: a position; None: from now on.

        "Now" is before this method returns. To miss nothing: open the stream, ask for `jobs`, then read the stream.
        """
        query = {"select": tuple(select), "after": after}
        connection, answer = self._begun("GET", target("/v1/events", query), None, SILENCE)
        return Stream(connection, answer, EventReader().feed)

    def execute(
        self,
        job_id: str,
        command: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        terminal: tuple[int, int] | None = None,
    ) -> Execution:
        """Start a process in a running job. No command: a shell. `terminal`: rows and columns; None: three pipes."""
        request = wire.ExecRequest(command=tuple(command), env=dict(env or {}), cwd=cwd, terminal=terminal)
        path, body = job_path(job_id, "/exec"), codec.encode(request)
        connection, _ = self._begun("POST", path, body, None, upgrade=frames.UPGRADE)
        return Execution(connection)

    def _rows(self, path: str, query: Mapping[str, Any], page: int) -> Iterator[wire.JobRow]:
        after = ""
        while True:
            found = self._get(wire.JobPage, path, {**query, "limit": page, "after": after})
            yield from found.jobs
            if not (after := found.next):
                return

    def _get(self, kind: type[T], path: str, query: Mapping[str, Any] | None = None) -> T:
        return codec.decode(kind, self._ask("GET", target(path, query), None, again=True))

    def _post(self, kind: type[T], path: str, request: object = None, *, again: bool = False) -> T:
        body = b"" if request is None else codec.encode(request)
        return codec.decode(kind, self._ask("POST", path, body, again=again))

    def _ask(self, method: str, path: str, body: bytes | None, *, again: bool) -> bytes:
        """The answer's body. `again`: it does no harm to ask twice."""
        kept = self._open is not None
        try:
            return self._ask_once(method, path, body)
        except OSError as error:
            unheard = kept and isinstance(error, _NotSent)
            if not (again or unheard) or isinstance(error, TimeoutError):
                raise lost(error) from None
        try:
            return self._ask_once(method, path, body)
        except OSError as error:
            raise lost(error) from None

    def _ask_once(self, method: str, path: str, body: bytes | None) -> bytes:
        """On the connection that is open, or on a new one."""
        connection, self._open = self._open or self._connected(), None
        with _closed_on_failure(connection):
            answer = _asked(connection, method, path, body)
            data = answer.read()
        if answer.last:
            connection.close()
        else:
            self._open = connection
        if answer.status >= 300:
            raise refusal(answer.status, data)
        return data

    def _begun(
        self, method: str, path: str, body: bytes | None, silence: float | None, upgrade: str = ""
    ) -> tuple[socket.socket, Answer]:
        """A connection of its own and the answer, whose head has come. `silence`: seconds it may last afterwards."""
        connection = self._connected()
        with _closed_on_failure(connection):
            try:
                answer = _asked(connection, method, path, body, upgrade)
                if answer.status != (101 if upgrade else 200):
                    raise refusal(answer.status, answer.read())
                connection.settimeout(silence)
            except OSError as error:
                raise lost(error) from None
        return connection, answer

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _closed_on_failure(connection):
            try:
                # The kernel waits for the daemon to accept, where many want to be heard: unix(7), SO_SNDTIMEO.
                seconds = max(1, int(self.timeout))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", seconds, 0))
                connection.connect(self.socket_path)
            except OSError as error:
                raise unreachable(self.socket_path, error) from None
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 0))
            connection.settimeout(self.timeout)
        return connection


@contextmanager
def _closed_on_failure(connection: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


class _NotSent(ConnectionError):
    """The request has not gone out whole, so that nobody can have acted on it."""


def _asked(connection: socket.socket, method: str, path: str, body: bytes | None, upgrade: str = "") -> Answer:
    """Send a request and read the answer's head; with `upgrade` not one byte more."""
    extra = ("Connection: Upgrade", f"Upgrade: {upgrade}") if upgrade else ()
    cut: _NotSent | None = None
    try:
        connection.sendall(head(method, path, None if body is None else len(body), *extra) + (body or b""))
    except (BrokenPipeError, ConnectionResetError) as error:
        cut = _NotSent(error.errno, error.strerror)
    try:
        return Answer(connection, exact=bool(upgrade))
    except OSError:  # refused in mid-sentence, a daemon says why; else it is just gone
        if cut is not None:
            raise cut from None
        raise
