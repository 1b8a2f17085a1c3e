"""What frozen jobs were promised: each has its CPUs back by a moment, whatever happens meanwhile.

A job that is frozen for another one gets a moment `thaw_by` at which it goes on at the latest, within what is left of
the time that it may be frozen. From then on there is always a plan that keeps every promise:

1. Running jobs are over by their time limit.
2. A frozen job runs from its `thaw_by` on for as long as it may still take, should it not have gone on before.
3. Nobody is started, thawed or frozen where that sum would ever be more than the node has.

Only moments at which a frozen job goes on need a look: between them what is used can but fall. What counts is what a
freeze lends: CPUs (in millionths, so that shares add up) and bandwidth where the node counts it; and memory, for one
that has given memory back needs it again to go on.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from math import inf

from attrs import frozen

from batchns.core.demand import Demand
from batchns.core.node import NodeCapacity
from batchns.core.reasons import FULL

Lent = tuple[int, int, int, int]  # millionths of CPUs, egress, ingress, memory


Change = tuple[float, int, Lent]  # the moment; 1 or -1: more or less is used from then on, by so much


def used(demand: Demand) -> Lent:
    """What a running job of that demand uses."""
    return (demand.whole * FULL or demand.share, demand.egress, demand.ingress, demand.memory)


@frozen
class Promise:
    """A frozen job: from `start` on for `span` seconds it may need `what`, until when it has `kept` bytes besides."""

    start: float
    span: float
    what: Lent
    kept: int

    @classmethod
    def of(cls, demand: Demand, start: float, span: float, kept: int) -> Promise:
        return cls(start, span, (*used(demand)[:3], demand.memory - kept), kept)


Snapshot = tuple[dict[str, tuple[float, Lent]], list[Change], dict[str, Promise]]


class Promises:
    """What runs and what was promised, changed step by step while a decision is made."""

    def __init__(
        self,
        now: float,
        capacity: NodeCapacity,
        running: Iterable[tuple[str, float, Lent]],
        frozen: Iterable[tuple[str, Promise]],
    ) -> None:
        """`running`: (job, the end by its time limit, what it uses)."""
        self._now = now
        self._most = (
            len(capacity.cpus) * FULL,
            capacity.egress if capacity.egress is not None else 1 << 62,
            capacity.ingress if capacity.ingress is not None else 1 << 62,
            capacity.memory,
        )
        self._running = {job: (end, what) for job, end, what in running}
        self._ends: list[Change] = sorted((end, -1, what) for end, what in self._running.values())
        self._frozen = dict(frozen)
        self._before: tuple[list[float], list[Lent]] | None = None  # what is used when, where promises are broken
        # The node has become smaller, or somebody takes longer to end than it should: nobody is to make it worse.
        self._before = None if self.kept() else self._levels()

    def start(self, job: str, end: float, what: Lent) -> bool:
        """The job runs from now until `end`; False, and nothing has changed, where that would break a promise."""
        before = self._frozen.pop(job, None)
        self._run(job, end, what)
        if self.kept():
            return True
        self._rest(job)
        if before is not None:
            self._frozen[job] = before
        return False

    def freeze(self, job: str, span: float, latest: float) -> float | None:
        """The job is frozen and may need `span` seconds more: the moment by which it goes on, at most `latest`.

        None, and nothing has changed, where there is no such moment. It is the last one that there is: whoever waits
        for the job's CPUs has them longest.
        """
        end, what = self._rest(job)
        start = self._last_start(what, span, latest)
        if start is None:
            self._run(job, end, what)
            return None
        self._frozen[job] = Promise(start, span, (*what[:3], 0), what[3])
        return start

    def squeeze(self, job: str, most: int) -> None:
        """The frozen job may have to give back so many bytes; one that nothing was promised to is no error."""
        promise = self._frozen.get(job)
        if promise is not None:
            less = min(most, promise.kept)
            what = (*promise.what[:3], promise.what[3] + less)
            self._frozen[job] = Promise(promise.start, promise.span, what, promise.kept - less)

    def force(self, job: str, end: float, what: Lent) -> None:
        """Take for granted that the job runs until `end`: whoever asks looks at `kept` once all is chosen."""
        self._frozen.pop(job, None)
        self._run(job, end, what)

    def snapshot(self) -> Snapshot:
        """For `restore`."""
        return self._running.copy(), self._ends.copy(), self._frozen.copy()

    def restore(self, before: Snapshot) -> None:
        """As it was at the snapshot."""
        self._running, self._ends, self._frozen = before

    def _run(self, job: str, end: float, what: Lent) -> None:
        if job in self._running:
            self._rest(job)
        self._running[job] = (end, what)
        insort(self._ends, (end, -1, what))

    def _rest(self, job: str) -> tuple[float, Lent]:
        end, what = self._running.pop(job)
        del self._ends[bisect_left(self._ends, (end, -1, what))]
        return end, what

    def kept(self) -> bool:
        """Whether all promises can be kept if from now on nothing but them happens."""
        if not self._frozen:
            return True
        if self._before is not None:
            return self._no_worse(*self._before)
        (cpus, egress, ingress, memory), changes = self._changes()
        most = self._most
        for _, sign, what in changes:  # hot: a thousand changes for each job that is tried
            cpus += sign * what[0]
            egress += sign * what[1]
            ingress += sign * what[2]
            memory += sign * what[3]
            if sign > 0 and (cpus > most[0] or egress > most[1] or ingress > most[2] or memory > most[3]):
                return False
        return True

    def _no_worse(self, known: list[float], before: list[Lent]) -> bool:
        """Whether nowhere more is used than there is, or than was before."""
        moments, levels = self._levels()
        for moment in sorted({*moments, *known}):
            now = levels[bisect_right(moments, moment) - 1]
            then = before[bisect_right(known, moment) - 1]
            if any(used > max(most, was) for used, most, was in zip(now, self._most, then, strict=True)):
                return False
        return True

    def _last_start(self, what: Lent, span: float, latest: float) -> float | None:
        """The last moment in (now, latest] from which `what` is free for `span` seconds."""
        moments, levels = self._levels()
        most = [have - want for have, want in zip(self._most, what, strict=True)]
        start = latest
        for index in range(len(levels) - 1, -1, -1):  # each moves it back, past those looked at before
            level = levels[index]
            if level[0] <= most[0] and level[1] <= most[1] and level[2] <= most[2] and level[3] <= most[3]:
                continue
            begins, ends = moments[index], moments[index + 1] if index + 1 < len(moments) else inf
            if begins < start + span and ends > start:
                start = begins - span
        return start if start > self._now else None

    def _levels(self) -> tuple[list[float], list[Lent]]:
        """What is used from each moment to the next."""
        (cpus, egress, ingress, memory), changes = self._changes()
        moments, levels, last = [self._now], [(cpus, egress, ingress, memory)], self._now
        for moment, sign, what in changes:
            cpus += sign * what[0]
            egress += sign * what[1]
            ingress += sign * what[2]
            memory += sign * what[3]
            if moment > last:
                last = moment
                moments.append(moment)
                levels.append((cpus, egress, ingress, memory))
            else:
                levels[-1] = (cpus, egress, ingress, memory)
        return moments, levels

    def _changes(self) -> tuple[list[int], list[Change]]:
        """What is used now, and what changes when; of one moment the ends first."""
        now = [sum(column) for column in zip(*(what for _, _, what in self._ends), strict=True)] or [0, 0, 0, 0]
        changes = self._ends.copy()
        for promise in self._frozen.values():
            cpus, egress, ingress, memory = promise.what
            now[3] += promise.kept
            changes.append((promise.start, 1, promise.what))
            changes.append((promise.start + promise.span, -1, (cpus, egress, ingress, memory + promise.kept)))
        changes.sort()  # nearly sorted: the ends are
        return now, changes
