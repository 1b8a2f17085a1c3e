"""The order in which lists show jobs: arrays as they were submitted, their tasks by index.

Kept in order, so that a page costs as much as its rows and not as all jobs, and one job as much as one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from attrs import define, field

Place = tuple[int, int]  # array's id, index; -1: no array

FIRST: Place = (0, -2)  # before all


def place_of(job_id: str) -> Place:
    """Raises ValueError: it is no job's id."""
    array_id, _, index = job_id.partition("_")
    return int(array_id), int(index) if index else -1


@define(eq=False)
class Places:
    """Ids of jobs, by their places."""

    _sorted: list[tuple[Place, str]] = field(factory=list)

    @classmethod
    def of(cls, job_ids: Iterable[str]) -> Places:
        return cls(sorted((place_of(job_id), job_id) for job_id in job_ids))

    def add(self, job_id: str) -> None:
        """One that is there stays as it is."""
        entry = (place_of(job_id), job_id)
        if not self._sorted or self._sorted[-1] < entry:
            self._sorted.append(entry)
        elif (found := bisect_left(self._sorted, entry)) == len(self._sorted) or self._sorted[found] != entry:
            insort(self._sorted, entry)

    def remove(self, job_id: str) -> None:
        """One that is not there is no error."""
        entry = (place_of(job_id), job_id)
        found = bisect_left(self._sorted, entry)
        if found < len(self._sorted) and self._sorted[found] == entry:
            del self._sorted[found]

    def between(self, spans: Iterable[tuple[int, int]] | None = None, after: Place = FIRST) -> Iterator[str]:
        """The jobs of arrays whose ids are in `spans` (first, last; None: all), each once, and behind `after`.

        Nothing may be added or removed meanwhile.
        """
        for first, last in [(0, self._last())] if spans is None else merged(spans):
            begin = bisect_left(self._sorted, (max((first, -2), (after[0], after[1] + 1)), ""))
            end = bisect_left(self._sorted, ((last + 1, -2), ""))
            for number in range(begin, end):
                yield self._sorted[number][1]

    def _last(self) -> int:
        return self._sorted[-1][0][0] if self._sorted else 0


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same numbers in spans that do not overlap, ascending."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found
