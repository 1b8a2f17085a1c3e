"""Moments at which something is due, one for each job."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

_LAST = "\U0010ffff"  # after every job id


class Agenda:
    """Jobs by the moment that is set for them. Setting and dropping is a search and a move of memory."""

    __slots__ = ("_moment_of", "_sorted")

    def __init__(self) -> None:
        self._sorted: list[tuple[float, str]] = []
        self._moment_of: dict[str, float] = {}

    def __iter__(self) -> Iterator[tuple[float, str]]:
        """(moment, job), ascending."""
        return iter(self._sorted)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._moment_of

    def copy(self) -> Agenda:
        other = Agenda()
        other._sorted, other._moment_of = self._sorted.copy(), self._moment_of.copy()
        return other

    @property
    def first(self) -> float | None:
        """The next moment."""
        return self._sorted[0][0] if self._sorted else None

    def following(self, after: float) -> float | None:
        """The first moment later than `after`."""
        place = bisect_right(self._sorted, (after, _LAST)) if self._sorted and self._sorted[0][0] <= after else 0
        return self._sorted[place][0] if place < len(self._sorted) else None

    def set(self, job_id: str, moment: float | None) -> None:
        """From now on this moment is the job's, and no other; None: it has none."""
        before = self._moment_of.get(job_id)
        if before == moment:
            return
        if before is not None:
            del self._sorted[bisect_left(self._sorted, (before, job_id))]
            del self._moment_of[job_id]
        if moment is not None:
            self._moment_of[job_id] = moment
            insort(self._sorted, (moment, job_id))

    def until(self, now: float) -> list[str]:
        """Jobs whose moment has come."""
        return [job_id for _, job_id in self._sorted[: bisect_right(self._sorted, (now, _LAST))]]

    def after(self, now: float) -> list[tuple[float, str]]:
        """(moment, job) of those whose moment is still to come."""
        return self._sorted[bisect_right(self._sorted, (now, _LAST)) :]
