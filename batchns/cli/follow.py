"""Waiting for jobs to be over: by the daemon's events, and by asking again where those fail.

1. A daemon that is started anew in the meantime is waited for: the jobs outlive it. So is room for one more connection.
2. Who waits has one connection: a user has so many of them, and may wait for as many jobs.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from batchns.cli.jobs import find
from batchns.client.streams import Stream
from batchns.client.sync import Client
from batchns.errors import BatchnsError
from batchns.wire.engine import Engine, Refusal, Reset, passes
from batchns.wire.types import JobRow

PATIENCE = 60.0  # seconds for which a daemon may be away
_PAUSE = 0.5  # seconds between two tries


class TimeIsUp(Exception):
    """The time to wait is over."""


def wait_for(
    client: Engine, selectors: Sequence[str], on_end: Callable[[JobRow], None], on_change: Callable[[JobRow], None]
) -> dict[str, JobRow]:
    """Returns the jobs' rows, by id, when all are over. `on_end`: once for each job; `on_change`: at each change.

    Raises:
        UserError: a selector means no job.
        HostError: no daemon answers for longer than `PATIENCE`.
    """
    seen: dict[str, JobRow] = {}
    wanted: Sequence[str] = selectors
    last_contact, met = time.monotonic(), False

    def heed(row: JobRow) -> None:
        before = seen.get(row.id)
        if before is not None and before.ended is not None:
            return
        seen[row.id] = row
        if before is None or before.state != row.state:
            on_change(row)
        if row.ended is not None:
            on_end(row)

    while True:
        try:
            with client.events(wanted) as events:
                met = True
                # Opened first, looked at second: nothing that happens in between is missed.
                for row in _again(client, seen) if seen else find(client, selectors):
                    heed(row)
                client.close()
                last_contact = time.monotonic()
                while (open_jobs := _open(seen)) and (event := next(events, None)) is not None:
                    last_contact = time.monotonic()
                    if isinstance(event, Reset):
                        break
                    if event[1].id in seen:
                        heed(event[1])
                if not open_jobs:
                    return seen
        except BatchnsError as error:
            if not passes(error) or time.monotonic() - last_contact > PATIENCE:
                raise
            if not met and not isinstance(error, Refusal):  # nobody waits for a daemon that was not there
                raise
        if seen:  # from here on by id: a name may mean new jobs meanwhile
            wanted = ranges(row.array_id for row in seen.values() if row.ended is None)
        time.sleep(_PAUSE)


def follow(
    connect: Callable[[], Engine], job_id: str, stream: str, *, attempt: int | None = None, tail: int | None = None
) -> Iterator[bytes]:
    """What the job writes to "stdout" or "stderr", from the beginning, or from its last `tail` lines, until it is over.

    `attempt`: only what this one writes; None: the latest, and those that come. After a restart of the daemon it goes
    on where it was.

    Raises:
        UserError: there is no such job or attempt, or it has written nothing.
        HostError: no daemon answers for longer than `PATIENCE`.
    """
    place = _Place(attempt, tail)
    away = -math.inf  # since when there is no daemon
    while True:
        try:
            with connect() as client:
                for opened in place.attempts(client, job_id, stream):
                    away = math.inf
                    yield from opened
                return
        except BatchnsError as error:
            if not passes(error):
                raise
            if away == math.inf:
                away = time.monotonic()
            if time.monotonic() - away > PATIENCE:
                raise
        time.sleep(_PAUSE)


class _Place:
    """How far what a job writes has been read. `at`: the next byte of the attempt's file; None: nothing yet."""

    def __init__(self, attempt: int | None, tail: int | None) -> None:
        self._only, self._attempt, self._tail = attempt, attempt, tail
        self._at: int | None = None
        self._some = False

    def attempts(self, client: Engine, job_id: str, stream: str) -> Iterator[Iterator[bytes]]:
        """What there is of each, one after the other, until the job is over."""
        if not isinstance(client, Client):  # of a cluster: one file for all, and nobody who could be away
            with client.logs(job_id, stream, attempt=self._only, tail=self._tail, follow=True) as pieces:
                yield pieces
            return
        while True:
            self._attempt = self._attempt or _begun(client.job(job_id).row)
            client.close()
            try:
                with self._open(client, job_id, stream) as pieces:
                    self._some = True
                    yield self._read(pieces)
            except Refusal as refusal:
                if refusal.code != "not_found" or self._only:
                    raise
                if client.job(job_id).row.attempt <= self._attempt:  # there is no other
                    if self._some:
                        return
                    raise
            else:
                row = client.job(job_id).row
                if self._only or (row.ended is not None and row.attempt <= self._attempt):
                    return
            self._attempt, self._at, self._tail = self._attempt + 1, None, None

    def _open(self, client: Client, job_id: str, stream: str) -> Stream[bytes]:
        tail = self._tail if self._at is None else None
        return client.logs(job_id, stream, attempt=self._attempt, tail=tail, follow=True, start=self._at or 0)

    def _read(self, pieces: Stream[bytes]) -> Iterator[bytes]:
        self._at = pieces.begins
        for piece in pieces:
            self._at += len(piece)
            yield piece


def _begun(row: JobRow) -> int:
    """The latest attempt that was launched; 1 where there is none yet."""
    return max(row.attempt - (row.state == "PENDING"), 1)


def _again(client: Engine, seen: Mapping[str, JobRow]) -> list[JobRow]:
    """The rows of the jobs that were not over when they were looked at last."""
    left = _open(seen)
    found = {row.id: row for row in client.jobs(ranges(seen[job_id].array_id for job_id in left), ended=True)}
    # What has ended longer ago is asked for by its id.
    return [found.get(job_id) or client.job(job_id).row for job_id in left]


def _open(seen: Mapping[str, JobRow]) -> list[str]:
    return [job_id for job_id, row in seen.items() if row.ended is None]


def ranges(array_ids: Iterable[str]) -> list[str]:
    """Selectors of just these jobs, as few as possible: a question has room for a thousand."""
    spans: list[list[int]] = []
    for number in sorted({int(one) for one in array_ids}):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return [f"{first}-{last}" if last > first else str(first) for first, last in spans]


@contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """The body, for so long at most.

    Raises:
        TimeIsUp: it took longer.
    """
    if seconds is None:
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
