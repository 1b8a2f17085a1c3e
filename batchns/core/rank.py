"""Who goes first: what is compared between jobs that wait, and between those and the ones that run.

1. Queue priority, then job priority, then (where it is on) who has used less of the node for its share, then age, or
   where the order is by length, what is sooner over.
2. A frozen job whose time to go on has come goes before everything; those are few, and looked at by themselves.
3. Aging: a job that has waited its own length divides what remains of it by 1 + `aging`. So a long one is passed by
   short ones for a while, and not for ever.
"""

from __future__ import annotations

from typing import Any

from batchns.core.job import Job
from batchns.core.ready import Entry, Lane
from batchns.core.schedule import Schedule
from batchns.model.config import Order
from batchns.model.lifecycle import State

Key = tuple[Any, ...]
_LEAST = 60.0  # seconds: below that no job is shorter than another, where waiting is measured by length
_OVERDUE = -1000  # before any queue's priority


class Ranking:
    """The order at one moment."""

    def __init__(self, schedule: Schedule, now: float) -> None:
        self._schedule = schedule
        self._now = now
        self._by_length = schedule.settings.order is Order.SHORTEST
        self._aging = schedule.settings.aging
        self._fair = schedule.config.fair_share.enabled
        self._used: dict[str, float] = {}

    def of_entry(self, lane: Lane, entry: Entry) -> Key:
        """Of a job that competes. What is not compared by length costs no look at the job itself."""
        if self._by_length:
            if entry is not lane.entries[0]:
                return self._plain(self._schedule[entry[1]])
            order = entry[0]
            return (order[0], order[1], self.used_by(lane.key.user), self.of_lane(lane), order[2], order[3])
        order = entry[0]
        return (order[0], order[1], self.used_by(lane.key.user), order[2], order[3])

    def of(self, job: Job) -> Key:
        """Of any job, in whatever state: a frozen one whose time to go on has come is before all others."""
        if job.lends and job.frozen is not None and job.frozen.thaw_by is not None and job.frozen.thaw_by <= self._now:
            return (_OVERDUE, 0, 0.0, job.frozen.thaw_by, *job.order[2:])
        return self._plain(job)

    def _plain(self, job: Job) -> Key:
        order = job.order
        if not self._by_length:
            return (order[0], order[1], self.used_by(job.user), order[2], order[3])
        return (order[0], order[1], self.used_by(job.user), self.remaining(job), order[2], order[3])

    def remaining(self, job: Job) -> float:
        """Seconds that the job still needs, made shorter by how long it has waited."""
        if job.state is State.PENDING:  # most are: nothing of it is done
            total, ledger = job.estimate, job.ledger
            born = ledger.since - ledger.queued - ledger.frozen
            return max(total, 1.0) / (1.0 + self._aging / (total + _LEAST) * (self._now - born))
        total = job.expected_total(self._now)
        rest = max(total - job.done(self._now), 1.0)
        return rest / (1.0 + self._aging / (total + _LEAST) * job.waited(self._now))

    def of_lane(self, lane: Lane) -> float:
        """`remaining` of its first job. Whoever waits is looked up once: nothing changes in it but its age."""
        aging = lane.aging
        if aging is None:
            job = self._schedule[lane.entries[0][1]]
            total, ledger = job.expected_total(self._now), job.ledger
            rest = max(total - job.done(self._now), 1.0)
            born = ledger.since - ledger.queued - ledger.frozen
            aging = lane.aging = (rest, self._aging / (total + _LEAST), born)
        rest, weight, born = aging
        return rest / (1.0 + weight * (self._now - born))

    def used_by(self, user: str) -> float:
        """What the user has used for its share; 0 where that does not count."""
        if not self._fair:
            return 0.0
        used = self._used.get(user)
        if used is None:
            used = self._used[user] = self._schedule.shares.used(user, self._now)
        return used
