"""What frozen jobs were promised: each has its CPUs back by a moment, whatever happens meanwhile.

A job that is frozen for another one gets a moment `thaw_by` at which it goes on at the latest, within what is left of
the time that it may be frozen. From then on there is always a plan that keeps every promise:

1. Running jobs are over by their time limit.
2. A frozen job runs from its `thaw_by` on for as long as it may still take, should it not have gone on before.
3. Nobody is started, thawed or frozen where that sum would ever be more than the node has.

Only moments at which a frozen job goes on need a look: between them what is used can but fall. What counts is what a
freeze lends: CPUs (in millionths, so that shares add up), and bandwidth where the node counts it.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from attrs import frozen

from batchns.core.demand import Demand
from batchns.core.node import NodeCapacity
from batchns.core.reasons import FULL

Lent = tuple[int, int, int]  # millionths of CPUs, egress, ingress


def lent(demand: Demand) -> Lent:
    return (demand.whole * FULL or demand.share, demand.egress, demand.ingress)


@frozen
class Promise:
    """A frozen job: from `start` on for `span` seconds it may need `what`."""

    start: float
    span: float
    what: Lent


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
        )
        self._running = {job: (end, what) for job, end, what in running}
        self._frozen = dict(frozen)

    def start(self, job: str, end: float, what: Lent) -> bool:
        """The job runs from now until `end`; False, and nothing has changed, where that would break a promise."""
        before = self._frozen.pop(job, None)
        self._running[job] = (end, what)
        if self.kept():
            return True
        del self._running[job]
        if before is not None:
            self._frozen[job] = before
        return False

    def freeze(self, job: str, span: float, latest: float) -> float | None:
        """The job is frozen and may need `span` seconds more: the moment by which it goes on, at most `latest`.

        None, and nothing has changed, where there is no such moment. It is the last one that there is: whoever waits
        for the job's CPUs has them longest.
        """
        end, what = self._running.pop(job)
        start = self._last_start(what, span, latest)
        if start is None:
            self._running[job] = (end, what)
            return None
        self._frozen[job] = Promise(start, span, what)
        return start

    def force(self, job: str, end: float, what: Lent) -> None:
        """Take for granted that the job runs until `end`: whoever asks looks at `kept` once all is chosen."""
        self._frozen.pop(job, None)
        self._running[job] = (end, what)

    def snapshot(self) -> tuple[dict[str, tuple[float, Lent]], dict[str, Promise]]:
        """For `restore`."""
        return self._running.copy(), self._frozen.copy()

    def restore(self, before: tuple[dict[str, tuple[float, Lent]], dict[str, Promise]]) -> None:
        """As it was at the snapshot."""
        self._running, self._frozen = before

    def kept(self) -> bool:
        """Whether all promises can be kept if from now on nothing but them happens."""
        if not self._frozen:
            return True
        used = [0, 0, 0]
        changes: list[tuple[float, int, Lent]] = []  # ends before starts of the same moment
        for end, what in self._running.values():
            _add(used, what, 1)
            changes.append((end, 0, what))
        for promise in self._frozen.values():
            changes.append((promise.start, 1, promise.what))
            changes.append((promise.start + promise.span, 0, promise.what))
        changes.sort()
        for _, starts, what in changes:
            _add(used, what, 1 if starts else -1)
            if starts and not self._within(used):
                return False
        return True

    def _last_start(self, what: Lent, span: float, latest: float) -> float | None:
        """The last moment in (now, latest] from which `what` is free for `span` seconds."""
        moments, levels = self._levels()
        blocked = [
            (moments[index], moments[index + 1] if index + 1 < len(moments) else inf)
            for index, used in enumerate(levels)
            if not self._within([one + more for one, more in zip(used, what, strict=True)])
        ]
        start = latest
        for begins, ends in reversed(blocked):  # each moves it further back, past those that were looked at before
            if begins < start + span and ends > start:
                start = begins - span
        return start if start > self._now else None

    def _levels(self) -> tuple[list[float], list[list[int]]]:
        """What is used from each moment to the next."""
        used = [0, 0, 0]
        changes: list[tuple[float, int, Lent]] = []
        for end, what in self._running.values():
            _add(used, what, 1)
            changes.append((end, -1, what))
        for promise in self._frozen.values():
            changes.append((promise.start, 1, promise.what))
            changes.append((promise.start + promise.span, -1, promise.what))
        changes.sort()
        moments, levels = [self._now], [used.copy()]
        for moment, sign, what in changes:
            _add(used, what, sign)
            if moment > moments[-1]:
                moments.append(moment)
                levels.append(used.copy())
            else:
                levels[-1] = used.copy()
        return moments, levels

    def _within(self, used: list[int]) -> bool:
        return all(one <= most for one, most in zip(used, self._most, strict=True))


def _add(used: list[int], what: Lent, sign: int) -> None:
    used[0] += sign * what[0]
    used[1] += sign * what[1]
    used[2] += sign * what[2]
