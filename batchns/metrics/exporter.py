"""All that is told to Prometheus, as text: a snapshot of the loop's, read and encoded in a thread.

1. One scrape at a time; whoever asks meanwhile, or a moment later, gets the same text.
2. The loop waits for the snapshot and for nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import trio
from attrs import define, evolve, field, frozen

from batchns import __version__
from batchns.core.job import Job
from batchns.kernel.cgroups.interface import Driver
from batchns.metrics import text
from batchns.metrics.counting import Counting
from batchns.metrics.meters import Counted, Labels, Meters
from batchns.metrics.readings import Reading, Readings
from batchns.metrics.snapshot import JobNow, Snapshot, Taker
from batchns.model.config import Config
from batchns.model.result import Usage
from batchns.supervise.books import Books
from batchns.supervise.ports import Blocking

FRESH = 0.5  # seconds for which a text is given again
_CPU, _ALLOCATED = "batchns_user_cpu_seconds_total", "batchns_user_allocated_cpu_seconds_total"


@frozen
class _Lingering:
    job: JobNow
    reading: Reading
    until: float  # trio's clock


@define(kw_only=True, eq=False)
class Exporter:
    """`config`: as it is now. `wall`: a moment of the books' clock, since the epoch."""

    driver: Driver
    blocking: Blocking
    config: Callable[[], Config]
    meters: Meters = field(factory=Meters)
    counting: Counting = field(init=False)
    _readings: Readings = field(init=False)
    _taker: Taker | None = field(init=False, default=None)
    _over: list[_Lingering] = field(init=False, factory=list)
    _one: trio.Lock = field(init=False, factory=trio.Lock)
    _told: dict[str, dict[Labels, float]] = field(init=False, factory=dict)  # totals, as they were served last
    _made: dict[str, tuple[float, bytes]] = field(init=False, factory=dict)  # by content type

    def __attrs_post_init__(self) -> None:
        self._readings = Readings(self.driver)
        self.counting = Counting(meters=self.meters, last_cpu=self._readings.last_cpu, last_of=self._ended)
        self.begin()

    def begin(self) -> None:
        """The queues are known, or others than before."""
        self.counting.begin(self.config().queues)

    def watch(self, books: Books, *, links: bool, wall: Callable[[float], float] = lambda moment: moment) -> None:
        """From now on, `books` are told of; their metering is to be `counting`. What their jobs had so far is not."""
        self._taker = Taker(
            books=books,
            meters=self.meters,
            config=self.config,
            cgroup_mode=self.driver.mode,
            links=links,
            had=self.counting.had,
            wall=wall,
        )
        self.counting.adopt((books.schedule[job_id] for job_id in books.schedule.active), books.clock())
        self.counting.expect(books.schedule)

    async def scrape(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and text. `accept`: of the request."""
        kind = text.format_of(accept)
        async with self._one:
            moment, made = self._made.get(kind, (-FRESH, b""))
            if trio.current_time() - moment > FRESH or not made:
                made = await self._make(kind)
                self._made[kind] = (trio.current_time(), made)
        return kind, made

    async def _make(self, kind: str) -> bytes:
        assert self._taker is not None
        begun = time.perf_counter()
        self._readings.begin()
        snapshot = self._taker.take()
        self.meters.observe("batchns_snapshot_seconds", time.perf_counter() - begun)
        now = trio.current_time()
        self._over = [one for one in self._over if one.until > now]
        made, spent = await self.blocking(partial(self._text, kind, snapshot, tuple(self._over)))
        self.meters.observe("batchns_collect_seconds", spent)
        return made

    def _ended(self, attempt: str, job: Job, usage: Usage, texts: Mapping[str, str]) -> None:
        """In the loop: the attempt keeps its series for a while."""
        reading = self._readings.end(attempt, usage, texts)
        settings = self.config().metrics
        if self._taker is None or not settings.linger or job.run_base is None:
            return
        known = self._taker.last(job, attempt)
        self._over = self._over[-settings.max_jobs :] if settings.max_jobs else []
        self._over.append(_Lingering(known, reading, trio.current_time() + settings.linger))

    # In a thread.

    def _text(self, kind: str, snapshot: Snapshot, over: Iterable[_Lingering]) -> tuple[bytes, float]:
        """The text, and the CPU seconds that it took."""
        begun = time.thread_time()
        settings = self.config().metrics
        most = settings.max_jobs
        live = snapshot.live[:most]
        # What has been part of a total once stays part of it, though fewer jobs have series than before.
        found = self._readings.read([*live, *filter(self._belongs, snapshot.live[most:])])
        rows = [text.Row(job, found[job.attempt]) for job in live]
        running = {job.job_id for job in snapshot.live}
        # Of a job that runs again there is but one series: the one that runs.
        gone = {one.job.job_id: one for one in over if one.job.job_id not in running}
        rows += [text.Row(one.job, one.reading) for one in [*gone.values()][: max(0, most - len(rows))]]
        gauges = dict(snapshot.gauges)
        gauges["batchns_jobs_without_series"] = {(): len(snapshot.live) - len(live)}
        frozen = [found[job.attempt].sample.memory for job in live if job.frozen]
        if None not in frozen:
            gauges["batchns_frozen_memory_bytes"] = {(): sum(filter(None, frozen))}
        made = text.encode(
            kind,
            {"batchns_build_info": (__version__, snapshot.cgroup_mode)},
            gauges,
            self._counted(snapshot, found),
            rows,
            names=settings.names,
        )
        return made, time.thread_time() - begun

    def _belongs(self, job: JobNow) -> bool:
        """It has been part of a total; or what it had used before these counts began is to be known for its end."""
        return self._readings.knows(job) or (job.adopted and job.attempt not in self.counting.first_cpu)

    def _counted(self, snapshot: Snapshot, found: Mapping[str, Reading]) -> Counted:
        """What is over, with what runs added. Fractions that are added in another order make another sum, if only in
        its last digit: what is told does not go back even by that.
        """
        counters = dict(snapshot.counted.counters)
        cpu, allocated = dict(counters.get(_CPU, {})), dict(counters.get(_ALLOCATED, {}))
        for job in snapshot.live:
            user = (job.user, job.queue)
            allocated[user] = allocated.get(user, 0.0) + job.allocated
            used = found[job.attempt].sample.cpu if job.attempt in found else None
            if used is not None:
                before = self.counting.first_cpu.setdefault(job.attempt, used) if job.adopted else 0.0
                cpu[user] = cpu.get(user, 0.0) + max(0.0, used - before)
        for name, of in ((_CPU, cpu), (_ALLOCATED, allocated)):
            told = self._told.get(name, {})
            counters[name] = self._told[name] = {user: max(value, told.get(user, 0.0)) for user, value in of.items()}
        stalls = self._readings.pressure()
        if stalls:
            counters["batchns_pressure_seconds_total"] = stalls
        failed = dict(counters["batchns_collect_errors_total"])
        failed |= {(source,): float(count) for source, count in self._readings.errors.items()}
        counters["batchns_collect_errors_total"] = failed
        return evolve(snapshot.counted, counters=counters)
