"""What the store takes and gives: frozen classes, no I/O.

1. A `Batch` is durable as a whole or not at all.
2. What was committed comes back from `load` in the same order, as far as it concerns jobs that are not over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from attrs import field, frozen

from batchns.core.changes import Change
from batchns.core.job import Job
from batchns.errors import HostError
from batchns.model.lifecycle import State
from batchns.model.result import JobResult

Json = Any  # what json.dumps takes: None, bool, int, float, str, lists and mappings of such


class StoreError(HostError):
    """The store could not do it: the disk is full, fails, cannot be written, or the file is damaged.

    Nothing of a batch that was refused with it is kept, and the store works again as soon as the disk does.
    """


class Damaged(StoreError):
    """What is in the file is no whole store. The hint is for the daemon's own file, not for a copy."""


@frozen(kw_only=True)
class Submission:
    """Jobs that were submitted together, PENDING since `at`. `at`: the schedule's clock, seconds since the epoch."""

    at: float
    jobs: tuple[Job, ...]  # of `core.admit.expand`
    uid: int  # the submitter's
    user: str
    anchors: Mapping[str, str] = field(factory=dict)  # of `supervise.outputs.Outputs.anchor`


@frozen(kw_only=True)
class Entry:
    """One change, and what those above the policy need to go on from it after a restart (`data`, which comes back as
    JSON has it: tuples as lists).
    """

    at: float
    change: Change  # never `Submitted`
    data: Mapping[str, Json] = field(factory=dict)


@frozen(kw_only=True)
class Ending:
    """A job that is over for good: what history keeps of it. Times are seconds since the epoch."""

    job_id: str
    result: JobResult
    uid: int
    user: str
    queue: str
    submitted: float
    started: float | None  # of the last attempt; None: it never ran
    ended: float
    cpus: float  # asked for
    memory: int | None = None
    time_limit: float | None = None


@frozen(kw_only=True)
class Batch:
    """`notes`: named values that replace what they were; None removes one."""

    submissions: tuple[Submission, ...] = ()
    entries: tuple[Entry, ...] = ()
    endings: tuple[Ending, ...] = ()
    notes: Mapping[str, Json] = field(factory=dict)


@frozen(kw_only=True)
class Loaded:
    """`log`: in the order in which it was committed: whatever concerns jobs that are not over, and the jobs that those
    depend on, and the node. Of an array all tasks come, over or not. The jobs of a submission are in the order of their
    ids. `last`: the moment of the last entry of all, 0.0 in a new store.
    """

    log: tuple[Submission | Entry, ...] = ()
    notes: Mapping[str, Json] = field(factory=dict)
    last: float = 0.0


@frozen(kw_only=True)
class Stored:
    """A job as history has it, over or not. `ending` None: it is not over."""

    submission: Submission  # with this job alone
    entries: tuple[Entry, ...]
    ending: Ending | None


@frozen(kw_only=True)
class HistoryQuery:
    """`uid` None: everybody's. `after`: the cursor of the page before. The newest end first."""

    uid: int | None = None
    since: float | None = None  # ended at or after
    until: float | None = None  # ended before
    names: tuple[str, ...] = ()
    states: tuple[State, ...] = ()
    queue: str | None = None
    limit: int = 100
    after: str = ""


@frozen(kw_only=True)
class HistoryPage:
    """`next`: the cursor of the page that follows; "" at the end."""

    endings: tuple[Ending, ...]
    next: str = ""


class Journal(Protocol):
    """`store.store.Store`, whose documentation holds here. Every method but `job_ids` blocks: call it in a thread."""

    def commit(self, batch: Batch) -> int: ...

    def job_ids(self, count: int) -> int: ...

    def load(self) -> Loaded: ...

    def job(self, job_id: str) -> Stored | None: ...

    def history(self, query: HistoryQuery) -> HistoryPage: ...
