"""The jobs that could start if there were room, in lanes of jobs that are alike.

1. Jobs of one lane have the same demand (and, where their array has a throttle, the same array): where the first of
   a lane does not fit, no other of it does. A decision looks at lanes, not at ten thousand jobs.
2. A lane is sorted by the jobs' order; reading it changes nothing.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from attrs import frozen

from batchns.core.demand import Demand
from batchns.core.job import Job

Entry = tuple[tuple[int, int, int, int], str]  # (order, job id)


@frozen(cache_hash=True)
class Lane:
    demand: Demand
    array: str | None = None  # set where the array has a throttle
    throttle: int | None = None


def lane_of(job: Job) -> Lane:
    if job.throttle is None:
        return Lane(job.demand)
    return Lane(job.demand, job.array_id, job.throttle)


class Ready:
    """Waiting jobs by lane."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, list[Entry]] = {}

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def add(self, job: Job) -> None:
        insort(self._lanes.setdefault(lane_of(job), []), (job.order, job.id))

    def remove(self, job: Job) -> None:
        """Take the job out; one that is not in is no error."""
        lane = lane_of(job)
        entries = self._lanes.get(lane, [])
        index = bisect_left(entries, (job.order, job.id))
        if index < len(entries) and entries[index][1] == job.id:
            del entries[index]
        if not entries:
            self._lanes.pop(lane, None)

    def lanes(self) -> Iterator[tuple[Lane, list[Entry]]]:
        """Every lane with its entries, which are not to be changed."""
        return iter(self._lanes.items())
