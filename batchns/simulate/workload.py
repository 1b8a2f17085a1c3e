"""The jobs to be simulated, however they were written down."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import field, frozen

from batchns.core.demand import Demand


@frozen(kw_only=True, eq=False)
class Workload:
    """One machine and its jobs as columns of equal length, in order of submission (of equal ones: as written).

    `running` is how long each job runs if nobody stops it, `limit` when it is stopped; seconds. `ids` are the jobs'
    names in their source, for output. `dropped` jobs of the source had no run time or no CPUs.
    """

    cpus: int
    memory: int | None = None  # bytes; None: memory is not counted
    ids: Sequence[str] = field(repr=False)
    submitted: Sequence[float] = field(repr=False)
    running: Sequence[float] = field(repr=False)
    limit: Sequence[float | None] = field(repr=False)
    demand: Sequence[Demand] = field(repr=False)
    user: Sequence[str] = field(repr=False)
    queue: Sequence[str] | None = field(default=None, repr=False)  # None: all in the same
    name: Sequence[str] | None = field(default=None, repr=False)  # None: all the same
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.ids)
