"""What will be free when: reservations for jobs that wait, and whether another one would delay them.

1. Free are counted things: exclusive CPUs, memory, bandwidth, named resources, places. A CPU that is shared comes back
   with the last of the jobs that share it, so the count of whole CPUs is exact whatever runs.
2. Running jobs are over by their time limit. They may end earlier, never later: a reservation only ever comes sooner.
3. EASY backfilling (Lifka, JSSPP 1995; Mu'alem and Feitelson, IEEE TPDS 2001) is the case of one reservation, and the
   common one: `Shadow` looks no further ahead than that. `Profile` is the general case, up to conservative backfilling.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from operator import add

from batchns.core.demand import Demand
from batchns.core.node import NodeCapacity
from batchns.core.placement import Room

Vector = list[int]
_KEPT = 4096  # demands whose vector is known


class Measure:
    """Demands and rooms of one node as vectors: CPUs, memory, places, egress, ingress, named resources."""

    def __init__(self, capacity: NodeCapacity) -> None:
        self._names = tuple(sorted(capacity.named))
        self._vectors: dict[Demand, Vector] = {}

    def demand(self, demand: Demand) -> Vector:
        """A share of a CPU counts as one, as long as nobody knows which CPU it will share. Not to be changed."""
        vector = self._vectors.get(demand)
        if vector is None:
            named = dict(demand.named)
            vector = [demand.whole or 1, demand.memory, demand.jobs, demand.egress, demand.ingress]
            vector += [named.get(name, 0) for name in self._names]
            if len(self._vectors) >= _KEPT:
                self._vectors.clear()
            self._vectors[demand] = vector
        return vector

    def room(self, room: Room) -> Vector:
        return [
            room.idle,
            room.memory,
            room.jobs,
            room.egress,
            room.ingress,
            *(room.named.get(name, 0) for name in self._names),
        ]

    def release(self, demand: Demand, cpus: int) -> Vector:
        """What comes back with a job's end. `cpus`: those that nobody shares any longer then."""
        return [cpus, *self.demand(demand)[1:]]


Release = tuple[float, Vector]  # (moment, what comes back)


def covers(free: Sequence[int], wanted: Sequence[int]) -> bool:
    """Less than nothing may be free, where a node has become smaller: who wants nothing of it is not kept by that."""
    for have, want in zip(free, wanted, strict=True):  # noqa: SIM110 - a generator takes twice as long, and this is hot
        if want > have and want > 0:
            return False
    return True


class Shadow:
    """One reservation: for `wanted`, at the first moment when running jobs have left enough.

    `start`: that moment (inf: never). What is free then beside it may be used by jobs that run on past it.
    """

    def __init__(self, free: Vector, releases: Iterable[Release], wanted: Vector) -> None:
        spare = free
        self.start = inf
        for moment, back in releases:
            if moment > self.start:
                break
            spare = list(map(add, spare, back))
            if self.start == inf and covers(spare, wanted):
                self.start = moment
        self._spare = [have - want for have, want in zip(spare, wanted, strict=True)]

    def admits(self, wanted: Vector, end: float) -> bool:
        """Whether a job that starts now, and is over by `end`, leaves the reservation where it is."""
        return end <= self.start or covers(self._spare, wanted)

    def take(self, wanted: Vector, end: float) -> None:
        """That job starts."""
        if end > self.start:
            self._spare = [have - want for have, want in zip(self._spare, wanted, strict=True)]


class Profile:
    """Any number of reservations. `releases` ascending, none before `now`."""

    def __init__(self, now: float, free: Vector, releases: Iterable[Release]) -> None:
        self._moments = [now]
        self._free = [free.copy()]  # from the moment of the same index to the next one
        for moment, back in releases:
            if moment > self._moments[-1]:
                self._moments.append(moment)
                self._free.append(self._free[-1].copy())
            for index, amount in enumerate(back):
                self._free[-1][index] += amount

    def reserve(self, wanted: Vector, span: float, earliest: float = -inf) -> float:
        """Reserve at the first moment from which `wanted` is free for `span` seconds; inf: there is none."""
        moments, free = self._moments, self._free
        first = self._cut(earliest) if earliest > moments[0] else 0
        while first < len(moments):
            end = moments[first] + span
            index = first
            while index < len(moments) and moments[index] < end:
                if not covers(free[index], wanted):
                    break
                index += 1
            else:
                start = moments[first]
                self._take(wanted, start, end)
                return start
            first = index + 1
        return inf

    def admits(self, wanted: Vector, end: float, shared_until: float = -inf) -> bool:
        """Whether it is free from now until `end`, beside all reservations.

        `shared_until`: until then its CPU is in use by others anyway.
        """
        for moment, free in zip(self._moments, self._free, strict=True):
            if moment >= end:
                return True
            if not covers(free[1:], wanted[1:]) or (moment >= shared_until and wanted[0] > free[0]):
                return False
        return True

    def take(self, wanted: Vector, end: float, shared_until: float = -inf) -> None:
        """A job starts now and is over by `end`."""
        now = self._moments[0]
        if shared_until > now:
            self._take([0, *wanted[1:]], now, end)
            if end > shared_until:
                self._take([wanted[0], *([0] * (len(wanted) - 1))], shared_until, end)
        else:
            self._take(wanted, now, end)

    def _take(self, wanted: Vector, start: float, end: float) -> None:
        first, last = self._cut(start), self._cut(end)
        for index in range(first, last):
            free = self._free[index]
            for which, amount in enumerate(wanted):
                free[which] -= amount

    def _cut(self, moment: float) -> int:
        """The index of the interval that begins at `moment`; it is made where there is none."""
        if moment == inf:
            return len(self._moments)
        low, high = 0, len(self._moments)
        while low < high:
            middle = (low + high) // 2
            if self._moments[middle] < moment:
                low = middle + 1
            else:
                high = middle
        if low == len(self._moments) or self._moments[low] != moment:
            self._moments.insert(low, moment)
            self._free.insert(low, self._free[low - 1].copy())
        return low
