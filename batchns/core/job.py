"""One job as the policy sees it: frozen, replaced by `Schedule` at every change."""

from __future__ import annotations

from enum import Enum

from attrs import evolve, field, frozen

from batchns.core.demand import Bounds, Demand
from batchns.core.placement import Placement
from batchns.model.job import JobSpec
from batchns.model.lifecycle import State

ACTIVE = frozenset({State.STARTING, State.RUNNING, State.SUSPENDING, State.SUSPENDED, State.COMPLETING})

# A retry may help after these. Not after TIMEOUT (it would take as long again) and never against the user's own
# CANCELLED. OUT_OF_MEMORY is among them: what a job needs often depends on its input's order or on its neighbours.
RETRYABLE = frozenset({State.FAILED, State.OUT_OF_MEMORY, State.NODE_FAIL})


@frozen
class Ledger:
    """Where a job's time went, in seconds; the three add up to the time since it was submitted.

    Queued: PENDING. Frozen: SUSPENDED. Running: every other state that is not final, since the job holds its place.
    """

    since: float  # the moment up to which the accounts are kept
    queued: float = 0.0
    running: float = 0.0
    frozen: float = 0.0

    def at(self, state: State, now: float) -> Ledger:
        """The ledger at `now` of a job that has been in `state` since the last entry."""
        spent = now - self.since
        if state is State.PENDING:
            return evolve(self, since=now, queued=self.queued + spent)
        if state is State.SUSPENDED:
            return evolve(self, since=now, frozen=self.frozen + spent)
        if state in ACTIVE:
            return evolve(self, since=now, running=self.running + spent)
        return evolve(self, since=now)


class Cause(Enum):
    """Why a job was asked to end."""

    TIME_LIMIT = "time limit"
    CANCELLED = "cancelled"
    REFUSED = "refused"  # a limit that it insists on turned out not to be in force


@frozen
class Stopping:
    """The job was asked to end. `kill_at`: the moment its grace is over; None once it has been killed."""

    cause: Cause
    kill_at: float | None


@frozen(kw_only=True)
class Job:
    """`id` is "7", or "7_3" for task 3 of array 7."""

    id: str
    array_id: str
    index: int | None
    spec: JobSpec = field(repr=False)
    demand: Demand = field(repr=False)
    bounds: Bounds = field(repr=False)
    order: tuple[int, int, int, int]  # smaller goes first: queue priority, job priority, submission, array index
    ledger: Ledger
    state: State = State.PENDING
    attempt: int = 1
    placement: Placement | None = None  # set from launch to end
    stopping: Stopping | None = None  # set in COMPLETING
    run_base: float | None = None  # running seconds when this attempt's command started; None: never started

    @property
    def throttle(self) -> int | None:
        """How many tasks of its array may be active at a time."""
        return self.spec.array.throttle if self.spec.array else None

    @property
    def retries(self) -> bool:
        """Whether the end that it has come to is followed by another attempt."""
        return self.state in RETRYABLE and self.attempt <= self.spec.max_retries

    def deadline(self) -> float | None:
        """The moment when the passing of time alone calls for an action; None: never."""
        if self.state is State.COMPLETING:
            return self.stopping.kill_at if self.stopping else None
        if self.state in (State.RUNNING, State.SUSPENDING) and self.bounds.time_limit is not None:
            return self.ledger.since + self.bounds.time_limit - (self.ledger.running - (self.run_base or 0.0))
        return None
