"""What there is at a moment, as plain data that a thread can make text of while the loop goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from attrs import define, field, frozen

from batchns.core.job import ACTIVE, Job
from batchns.core.preempt import frozen_memory, most_frozen_memory
from batchns.core.reasons import FULL
from batchns.core.starts import startable
from batchns.kernel.network.addresses import host_name
from batchns.metrics.contract import DIRECTIONS
from batchns.metrics.meters import Counted, Labels, Meters
from batchns.model.config import Config
from batchns.model.job import NetworkMode
from batchns.model.lifecycle import State
from batchns.model.result import LimitReading
from batchns.supervise.account import Account
from batchns.supervise.attempt import Attempt
from batchns.supervise.books import Books

Gauges = dict[str, dict[Labels, float]]
_LOOK = 100  # jobs that are looked at to see whether any only waits for a decision: a bound on what that costs
LIVE = tuple(state.value for state in State if state is State.PENDING or state in ACTIVE)


class JobNow(NamedTuple):
    """A job whose command runs or, with `over`, has ended a moment ago. Seconds; bytes per second.

    `link`: the host's end of its own link, "" where it has none.
    """

    job_id: str
    attempt: str
    name: str
    user: str
    queue: str
    cpus: float
    started: float  # since the epoch
    frozen: bool
    frozen_seconds: float
    allocated: float  # CPU seconds that this attempt has had, since these counts began
    egress: float | None = None
    ingress: float | None = None
    link: str = ""
    over: bool = False
    adopted: bool = False  # it ran before these counts began


@frozen
class Snapshot:
    """`cgroup_mode`, `gauges` and `counted` are of the moment at which it was taken, as `live` is."""

    cgroup_mode: str
    gauges: Mapping[str, Mapping[Labels, float]]
    counted: Counted
    live: Sequence[JobNow]


@define(kw_only=True, eq=False)
class Taker:
    """Takes snapshots, on the loop's task. `wall`: a moment of the books' clock, since the epoch.

    `links`: whether jobs have links of their own.
    """

    books: Books
    meters: Meters
    config: Callable[[], Config]
    cgroup_mode: str
    links: bool
    had: Mapping[str, float]  # see `Counting`
    wall: Callable[[float], float] = lambda moment: moment
    _cards: dict[str, JobNow] = field(init=False, factory=dict)  # by attempt: what does not change

    def take(self) -> Snapshot:
        now = self.books.clock()
        live = [self.job(self.books.schedule[job_id], attempt, now) for job_id, attempt in self._running()]
        self._cards = {one.attempt: one for one in live}
        return Snapshot(
            cgroup_mode=self.cgroup_mode, gauges=self._gauges(now), counted=self.meters.counted(), live=live
        )

    def _running(self) -> list[tuple[str, Attempt]]:
        return [(job_id, attempt) for job_id, attempt in self.books.attempts.items() if attempt.started is not None]

    def job(self, job: Job, attempt: Attempt, now: float) -> JobNow:
        """What is known of the job without asking the kernel."""
        account = self.books.accounts[job.id]
        known = self._cards.get(attempt.name)
        ledger = job.ledger.at(job.state, now)
        frozen = job.state is State.SUSPENDED
        had = self.had.get(job.id)
        allocated = max(0.0, job.done(now) * job.demand.cpus - (had or 0.0))
        if known is None:
            known = self._card(job, attempt.name, account)
        return JobNow(
            known.job_id,
            known.attempt,
            known.name,
            known.user,
            known.queue,
            known.cpus,
            known.started,
            frozen,
            ledger.frozen,
            allocated,
            known.egress,
            known.ingress,
            known.link,
            adopted=had is not None,
        )

    def last(self, job: Job, name: str) -> JobNow:
        """Of a job whose attempt `name` has just ended."""
        known = self._cards.pop(name, None) or self._card(job, name, self.books.accounts[job.id])
        return known._replace(frozen=False, frozen_seconds=job.ledger.frozen, allocated=0.0, over=True)

    def _card(self, job: Job, attempt: str, account: Account) -> JobNow:
        private = self.links and job.spec.network.mode is NetworkMode.PRIVATE
        egress, ingress = (_rate(account.limits.get(direction)) for direction in DIRECTIONS)
        return JobNow(
            job_id=job.id,
            attempt=attempt,
            name=job.spec.name,
            user=job.user,
            queue=job.spec.queue,
            cpus=job.demand.cpus,
            started=self.wall(account.started or 0.0),
            frozen=False,
            frozen_seconds=0.0,
            allocated=0.0,
            egress=egress,
            ingress=ingress,
            link=host_name(attempt) if private else "",
        )

    def _gauges(self, now: float) -> Gauges:
        schedule, config = self.books.schedule, self.config()
        capacity, room = schedule.capacity, schedule.room()
        gauges: Gauges = {
            "batchns_jobs": self._states(config),
            "batchns_jobs_eligible": _by_queue(config, schedule.ready.waiting()),
            "batchns_jobs_startable": _by_queue(config, startable(schedule, now, _LOOK)),
            "batchns_node_open": {(): int(schedule.closed is None and schedule.draining is None)},
            "batchns_capacity_cpus": {(): len(capacity.cpus)},
            "batchns_allocated_cpus": {(): sum(room.load(cpu) for cpu in capacity.cpus) / FULL},
            "batchns_capacity_memory_bytes": {(): capacity.memory},
            "batchns_allocated_memory_bytes": {(): capacity.memory - room.memory},
            "batchns_frozen_memory_reserved_bytes": {(): frozen_memory(schedule)},
            "batchns_frozen_memory_limit_bytes": {(): most_frozen_memory(schedule)},
        }
        for direction in DIRECTIONS:
            most: int | None = getattr(capacity, direction)
            if most is not None:
                free: int = getattr(room, direction)
                gauges.setdefault("batchns_capacity_network_bytes_per_second", {})[direction,] = most / 8
                gauges.setdefault("batchns_allocated_network_bytes_per_second", {})[direction,] = (most - free) / 8
        weights, used = schedule.shares.standing(now)
        for name, of in (("batchns_user_share_ratio", weights), ("batchns_user_usage_ratio", used)):
            whole = sum(of.values())
            if whole:
                gauges[name] = {(user,): value / whole for user, value in of.items()}
        return gauges

    def _states(self, config: Config) -> dict[Labels, float]:
        schedule = self.books.schedule
        found: dict[Labels, float] = {(queue, state): 0 for queue in config.queues for state in LIVE}
        found |= {(queue, State.PENDING.value): count for queue, count in schedule.waiting.items()}
        for job_id in schedule.active:
            job = schedule[job_id]
            labels = (job.spec.queue, job.state.value)
            found[labels] = found.get(labels, 0) + 1
        return found


def _by_queue(config: Config, counts: Mapping[str, int]) -> dict[Labels, float]:
    found: dict[Labels, float] = {(queue,): 0 for queue in config.queues}
    return found | {(queue,): count for queue, count in counts.items()}


def _rate(reading: LimitReading | None) -> float | None:
    return reading.value / 8 if reading is not None and isinstance(reading.value, int) else None
