"""What live jobs use, asked of the kernel: in a thread, all of them at once.

1. Files stay open between two readings, as many as there is room for.
2. A file that cannot be read is counted; no other reading fails by it, of that job or of another.
3. What an attempt has used never goes back: where it cannot be read any more, its last reading stands.
"""

from __future__ import annotations

import resource
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from attrs import define, field

from batchns.kernel.cgroups.files import KeptOpen
from batchns.kernel.cgroups.interface import Driver
from batchns.kernel.cgroups.sample import RESOURCES, Sample, merged, pressure
from batchns.kernel.network import traffic
from batchns.kernel.network.types import Counters
from batchns.metrics.meters import Labels
from batchns.metrics.shapers import Drops, Shapers
from batchns.metrics.snapshot import JobNow
from batchns.model.result import Usage

_RESERVED = 2048  # descriptors that are for other things
_LEAST = 256


class Reading(NamedTuple):
    sample: Sample = Sample()
    traffic: Counters | None = None
    drops: Drops = Drops()


@define(eq=False)
class Readings:
    """One thread at a time. `last` and `ended` are also asked by the loop."""

    driver: Driver
    errors: Counter[str] = field(factory=Counter)  # failed readings since the start, by source
    _kept: KeptOpen = field(init=False)
    _shapers: Shapers = field(init=False)
    _paths: dict[str, tuple[str, ...]] = field(init=False, factory=dict)  # by attempt
    _last: dict[str, Reading] = field(init=False, factory=dict)
    # What attempts had used in the end that ended since the snapshot whose jobs are being read; None: none are.
    _gone: dict[str, Reading] | None = field(init=False, default=None)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)  # no file is closed while it is read

    def __attrs_post_init__(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._kept = KeptOpen(max(_LEAST, soft - _RESERVED))
        self._shapers = Shapers(self.driver, self.errors)

    def begin(self) -> None:
        """A snapshot is taken, whose jobs will be read."""
        self._gone = {}

    def read(self, jobs: Sequence[JobNow]) -> dict[str, Reading]:
        """By attempt. Blocks."""
        links = self._links() if any(job.link for job in jobs) else {}
        drops = self._shapers.read(jobs, links)
        found = {}
        for job in jobs:
            sample, whole = self._sample(job.attempt)
            before = (self._gone or {}).get(job.attempt) or self._last.get(job.attempt) or Reading()
            through = links.get(job.link) if job.link else None
            dropped = drops.get(job.attempt, Drops())
            found[job.attempt] = Reading(
                sample=sample if whole else merged(sample, before.sample),
                traffic=before.traffic if through is None else through,
                drops=Drops(*(old if new is None else new for old, new in zip(before.drops, dropped, strict=True))),
            )
        with self._lock:
            self._gone = None
            self._last = found
            for attempt in self._paths.keys() - found.keys():
                self._kept.close(self._paths.pop(attempt))
        self._shapers.keep(found)
        return found

    def knows(self, job: JobNow) -> bool:
        """The job has been read before."""
        return job.attempt in self._last

    def last_cpu(self, attempt: str) -> float | None:
        """CPU seconds of the last reading."""
        reading = self._last.get(attempt)
        return None if reading is None else reading.sample.cpu

    def end(self, attempt: str, usage: Usage, texts: Mapping[str, str]) -> Reading:
        """The attempt is over: what it used in all, and nothing that it holds. `texts`: of its last reading."""
        with self._lock:
            before = self._last.pop(attempt, Reading())
            paths = self._paths.pop(attempt, None) or self.driver.sample_files(attempt)
            self._kept.close(paths)
        sample = merged(self.driver.sample(paths, [texts.get(path) for path in paths]), before.sample)
        through = before.traffic
        if usage.net_sent_bytes is not None and usage.net_received_bytes is not None:
            through = Counters(usage.net_sent_bytes, usage.net_received_bytes)
        reading = Reading(sample._replace(memory=None, working_set=None, tasks=None), through, before.drops)
        if self._gone is not None:
            self._gone[attempt] = reading
        return reading

    def pressure(self) -> dict[Labels, float]:
        """Stalls of the machine, as in `Sample`; nothing where the kernel does not tell."""
        found: dict[Labels, float] = {}
        for one in RESOURCES:
            try:
                found.update(pressure(one, self._kept.read(f"/proc/pressure/{one}")))
            except OSError:
                self.errors["pressure"] += 1
        return found

    def _sample(self, attempt: str) -> tuple[Sample, bool]:
        """Whether it is all that there is to know: not where a file cannot be read, or none is there any more."""
        whole = True
        with self._lock:
            paths = self._paths.get(attempt)
            if paths is None:
                paths = self._paths[attempt] = self.driver.sample_files(attempt)
            texts: list[str | None] = []
            for path in paths:
                try:
                    texts.append(self._kept.read(path))
                except OSError:
                    texts.append(None)
                    self.errors["cgroup"] += 1
                    whole = False
        if not any(text is not None for text in texts):
            return Sample(), False
        return self.driver.sample(paths, texts), whole

    def _links(self) -> Mapping[str, Counters]:
        try:
            return traffic.links()
        except (OSError, ValueError):
            self.errors["link"] += 1
            return {}
