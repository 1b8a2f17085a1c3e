"""Reservations of one decision: when those in front get their places, and who may start before without delay."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from math import inf

from batchns.core.demand import Demand
from batchns.core.job import Job
from batchns.core.placement import Placement, Room
from batchns.core.profile import Measure, Profile, Release, Shadow

Use = tuple[float, Demand, Placement]  # who uses its place until when


class Reservations:
    """Made one after the other with `reserve`; `single`: there will be no second one.

    `uses`: what runs, by its end, ascending; `shared`: there are shares of a CPU among them. CPUs that a waiting job
    insists on are kept from whoever would still be on them at its time.
    """

    def __init__(
        self, now: float, measure: Measure, room: Room, uses: Iterable[Use], *, single: bool, shared: bool
    ) -> None:
        self._measure = measure
        self._now = now
        self._free = measure.room(room)
        self._uses: Iterable[Use] = list(uses) if shared or not single else uses
        self._shared = shared
        self._last_on = _last_on(self._uses) if shared else {}
        self._pinned: list[tuple[float, frozenset[int]]] = []
        self._look: Shadow | Profile | None = None
        self._single = single

    def reserve(self, demand: Demand, span: float) -> float:
        """The moment from which the job has its place for `span` seconds; inf where there is none."""
        if demand.cpuset and not self._last_on:
            self._uses = list(self._uses)
            self._last_on = _last_on(self._uses)
        held = max((self._last_on.get(cpu, self._now) for cpu in demand.cpuset), default=self._now)
        wanted = self._measure.demand(demand)
        if self._single:
            self._look = Shadow(self._free, _from(self._releases(), held), wanted)
            start = self._look.start
        else:
            if self._look is None:
                self._look = Profile(self._now, self._free, self._releases())
            assert isinstance(self._look, Profile)
            start = self._look.reserve(wanted, span, held)
        if demand.cpuset:
            self._pinned.append((start, frozenset(demand.cpuset)))
        return start

    def _releases(self) -> Iterator[Release]:
        if self._shared:
            return _releases(self._measure, list(self._uses))
        return ((end, self._measure.demand(demand)) for end, demand, _ in self._uses)

    @property
    def window(self) -> float:
        """Whoever is over by then is admitted for certain; -inf where there is no such moment."""
        return self._look.start if isinstance(self._look, Shadow) else -inf

    def admits(self, demand: Demand, placement: Placement, end: float) -> bool:
        """Whether a job that starts now at `placement`, and is over by `end`, delays none of them."""
        if any(end > start and not cpus.isdisjoint(placement.cpus) for start, cpus in self._pinned):
            return False
        if isinstance(self._look, Shadow):
            return self._look.admits(self._measure.demand(demand), end)
        assert self._look is not None
        return self._look.admits(self._measure.demand(demand), end, self._shared_until(demand, placement))

    def may_stay(self, demand: Demand) -> bool:
        """Whether a job could run on past the reservation, as far as counts go."""
        return self._look is None or self._look.admits(self._measure.demand(demand), inf)

    def take(self, demand: Demand, placement: Placement, end: float) -> None:
        """It starts."""
        if isinstance(self._look, Shadow):
            self._look.take(self._measure.demand(demand), end)
        elif self._look is not None:
            self._look.take(self._measure.demand(demand), end, self._shared_until(demand, placement))
        if self._last_on or demand.share:
            for cpu in placement.cpus:
                self._last_on[cpu] = max(self._last_on.get(cpu, end), end)

    def _shared_until(self, demand: Demand, placement: Placement) -> float:
        """Until then the CPU of a share is in use by others anyway."""
        if demand.whole:
            return self._now
        return min(self._last_on.get(cpu, self._now) for cpu in placement.cpus)


def uses_of(running: Iterable[tuple[float, Job]], started: Iterable[Use]) -> Iterator[Use]:
    """What runs, with what this decision starts, by its end. Often only the first few are looked at."""
    uses = ((end, job.demand, job.placement) for end, job in running if job.placement is not None)
    more = sorted(started, key=_end)
    return heapq.merge(uses, more, key=_end) if more else uses


def _end(use: Use) -> float:
    return use[0]


def _releases(measure: Measure, uses: list[Use]) -> Iterator[Release]:
    """What comes back when. A shared CPU is whole again when the last of those on it is gone."""
    sharing = Counter(cpu for _, demand, placement in uses if not demand.whole for cpu in placement.cpus)
    for end, demand, placement in uses:
        if demand.whole:
            yield end, measure.demand(demand)
            continue
        freed = 0
        for cpu in placement.cpus:
            sharing[cpu] -= 1
            freed += not sharing[cpu]
        yield end, measure.release(demand, freed)


def _from(releases: Iterable[Release], earliest: float) -> Iterator[Release]:
    """The same releases, none before `earliest`."""
    for moment, back in releases:
        yield max(moment, earliest), back


def _last_on(uses: Iterable[Use]) -> dict[int, float]:
    return {cpu: end for end, _, placement in uses for cpu in placement.cpus}
