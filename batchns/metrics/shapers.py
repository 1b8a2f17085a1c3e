"""Packets that jobs' shapers dropped: of what comes in on the host's end of a link, of what a job sends in the job.

1. The host's ends are asked all at once. A job's own end is asked where it has sent something since it was last asked:
   who sends nothing loses nothing, and a thousand idle jobs cost nothing.
2. A job's namespace is found by a process of its cgroup, held by a pidfd: a number that is reused means nobody else,
   and no namespace outlives its job for being watched.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from attrs import define, field

from batchns.kernel.cgroups.interface import Driver
from batchns.kernel.network import traffic
from batchns.kernel.network.types import Counters
from batchns.metrics.snapshot import JobNow

_SOURCE = "shaper"  # of failed readings
_ENDED = (errno.ESRCH, errno.ENOENT)


class Drops(NamedTuple):
    """Packets; None: not known, or no shaper."""

    egress: int | None = None
    ingress: int | None = None


@define(eq=False)
class Shapers:
    """One thread at a time. `errors`: failed readings, by source."""

    driver: Driver
    errors: Counter[str]
    _indices: dict[str, int] = field(init=False, factory=dict)  # of links
    _inside: dict[str, int] = field(init=False, factory=dict)  # by attempt: a process in it (pidfd)
    _sent: dict[str, int] = field(init=False, factory=dict)  # by attempt: bytes when its own end was last asked

    def read(self, jobs: Sequence[JobNow], links: Mapping[str, Counters]) -> dict[str, Drops]:
        """By attempt; what is not known now, or has not been asked since nothing was sent, is None. Blocks."""
        outside = self._outside(jobs)
        inside = self._asked_inside(jobs, links)
        return {
            job.attempt: Drops(inside.get(job.attempt), outside.get(self._indices.get(job.link, -1)))
            for job in jobs
            if job.link
        }

    def keep(self, attempts: Container[str]) -> None:
        """All others are over."""
        for attempt in [one for one in self._inside if one not in attempts]:
            self._forget(attempt)

    def _forget(self, attempt: str) -> None:
        os.close(self._inside.pop(attempt))
        self._sent.pop(attempt, None)

    def _outside(self, jobs: Sequence[JobNow]) -> Mapping[int, int]:
        shaped = {job.link for job in jobs if job.link and job.ingress}
        if not shaped:
            return {}
        try:
            if not shaped <= self._indices.keys():
                self._indices = {name: index for index, name in socket.if_nameindex() if name in shaped}
            return traffic.drops()
        except (OSError, ValueError):
            self.errors[_SOURCE] += 1
            return {}

    def _asked_inside(self, jobs: Sequence[JobNow], links: Mapping[str, Counters]) -> dict[str, int]:
        sent, processes = {}, {}
        for job in jobs:
            through = links.get(job.link) if job.link and job.egress else None
            if through is None or self._sent.get(job.attempt) == through.sent_bytes:
                continue
            process = self._process(job.attempt)
            if process is not None:
                processes[job.attempt], sent[job.attempt] = process, through.sent_bytes
        found = {}
        for attempt, answer in (traffic.drops_inside(processes) if processes else {}).items():
            if not isinstance(answer, OSError):
                found[attempt], self._sent[attempt] = answer, sent[attempt]
            elif answer.errno in _ENDED:
                self._forget(attempt)  # another process of the job is asked the next time, if there is one
            else:
                self.errors[_SOURCE] += 1
        return found

    def _process(self, attempt: str) -> int | None:
        held = self._inside.get(attempt)
        if held is not None:
            return held
        try:
            for pid in self.driver.pids(attempt):
                process = os.pidfd_open(pid)
                try:
                    if pid in self.driver.pids(attempt):  # it is the job's, and was when it was opened
                        return self._inside.setdefault(attempt, process)
                finally:
                    if attempt not in self._inside:
                        os.close(process)
        except ProcessLookupError:
            pass
        except OSError:
            self.errors[_SOURCE] += 1
        return None
