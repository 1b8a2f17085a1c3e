"""One job as the policy sees it: frozen, replaced by `Schedule` at every change."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

from attrs import field, fields, frozen

from batchns.core.demand import Bounds, Demand
from batchns.core.placement import Placement
from batchns.model.job import Condition, JobSpec, PreemptMode
from batchns.model.lifecycle import State

DAY = 86400.0
_GOING = 1.0  # seconds that one which has been killed is still there for
Order = tuple[int, int, int, int]
ACTIVE = frozenset({State.STARTING, State.RUNNING, State.SUSPENDING, State.SUSPENDED, State.COMPLETING})

# A retry may help after these. Not after TIMEOUT (it would take as long again) and never against the user's own
# CANCELLED. OUT_OF_MEMORY is among them: what a job needs often depends on its input's order or on its neighbours.
RETRYABLE = frozenset({State.FAILED, State.OUT_OF_MEMORY, State.NODE_FAIL})


class Ledger(NamedTuple):
    """Where a job's time went, in seconds; the three add up to the time since it was submitted.

    Queued: PENDING. Frozen: SUSPENDED. Running: every other state that is not final, since the job holds its place.
    """

    since: float  # the moment up to which the accounts are kept
    queued: float = 0.0
    running: float = 0.0
    frozen: float = 0.0

    def at(self, state: State, now: float) -> Ledger:
        """The ledger at `now` of a job that has been in `state` since the last entry."""
        since, queued, running, frozen = self
        spent = now - since
        if state is State.PENDING:
            return Ledger(now, queued + spent, running, frozen)
        if state is State.SUSPENDED:
            return Ledger(now, queued, running, frozen + spent)
        if state in ACTIVE:
            return Ledger(now, queued, running + spent, frozen)
        return Ledger(now, queued, running, frozen)


class Cause(Enum):
    """Why a job was asked to end."""

    TIME_LIMIT = "time limit"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"  # its place is needed; what it is to become stands in its preempt mode
    REQUEUED = "requeued"  # somebody asked for another attempt of it
    REFUSED = "refused"  # a limit that it insists on turned out not to be in force


@frozen
class Stopping:
    """The job was asked to end. `kill_at`: the moment its grace is over; None once it has been killed."""

    cause: Cause
    kill_at: float | None


class FreezeCause(Enum):
    """Why a job is frozen, and so who lets it go on."""

    PAUSE = "pause"  # everything stands still, and goes on together: it keeps its place
    PREEMPTED = "preempted"  # its CPUs and bandwidth are lent to another job; it comes back through the queue
    NEIGHBOUR = "neighbour"  # the machine is busy with what is not batchns's; it comes back through the queue
    OWNER = "owner"  # somebody asked for it, and has to ask for its thaw


LENDING = frozenset({FreezeCause.PREEMPTED, FreezeCause.NEIGHBOUR, FreezeCause.OWNER})


@frozen
class Frozen:
    """A job's freeze. `thaw_by`: the moment by which it has its CPUs back; None: nobody promised one."""

    cause: FreezeCause
    since: float
    thaw_by: float | None = None
    by: str = ""  # the job that it made room for


@frozen
class Edge:
    """A dependency with what it points at: all tasks of `arrays` together, or task `index` of each.

    A SINGLETON points at nothing; an AFTERCORR at the task that has the index of the one that waits.
    """

    condition: Condition
    name: str  # as it was written: a job's name, or an id
    arrays: tuple[str, ...] = ()
    index: int | None = None


@frozen(kw_only=True)
class Job:
    """`id` is "7", or "7_3" for task 3 of array 7. Seconds and moments are of the schedule's clock."""

    id: str
    array_id: str
    index: int | None
    spec: JobSpec = field(repr=False)
    demand: Demand = field(repr=False)
    bounds: Bounds = field(repr=False)
    order: Order  # smaller goes first: queue priority, job priority, submission, array index
    ledger: Ledger
    user: str = ""  # whose job it is, for limits and fair share
    mode: PreemptMode = PreemptMode.OFF  # the most that may be done to it for another job
    estimate: float = DAY  # seconds it is expected to run; never more than `span`
    span: float = DAY  # seconds after which it is over for certain; without a time limit, for all that is known
    state: State = State.PENDING
    attempt: int = 1
    placement: Placement | None = None  # set from launch to end; SUSPENDED: where it was, and is lent to others
    stopping: Stopping | None = None  # set in COMPLETING
    run_base: float | None = None  # running seconds when this attempt's command started; None: never started
    not_before: float | None = None  # PENDING: does not compete before this moment
    deadline: float | None = None  # to be over by this moment
    edges: tuple[Edge, ...] = ()  # its dependencies
    held: bool = False  # as soon as it is PENDING, it does not compete before it is released
    warned: bool = False  # this attempt has been warned of its time limit
    frozen: Frozen | None = None  # set in SUSPENDING and SUSPENDED; in COMPLETING where it has lent its CPUs
    requeues: int = 0  # attempts that ended for another job, or because somebody asked: no retry is used up by them
    freezes: int = 0  # how often it was frozen for another job
    unfreezable: bool = False  # a freeze for another job has failed in this attempt: that is not tried again
    lent: float = 0.0  # seconds that it was frozen for other jobs, up to its last thaw
    stretch: float = 0.0  # running seconds when it was last started or thawed
    held_memory: int | None = None  # frozen, and bounded to so many bytes: the rest of its memory is free for others
    trouble: str = ""  # SUSPENDED: why its last thaw failed

    @property
    def priority(self) -> int:
        """0 to 100, as a job file has it: that of its spec, unless it was changed since."""
        return -self.order[1]

    @property
    def throttle(self) -> int | None:
        """How many tasks of its array may be active at a time."""
        return self.spec.array.throttle if self.spec.array else None

    @property
    def retries(self) -> bool:
        """Whether the end that it has come to is followed by another attempt."""
        return self.state in RETRYABLE and self.attempt - self.requeues <= self.spec.max_retries

    @property
    def lends(self) -> bool:
        """Its CPUs and bandwidth are free for others: it is frozen, or was when it was asked to end."""
        return (
            self.frozen is not None
            and self.frozen.cause in LENDING
            and self.state in (State.SUSPENDED, State.COMPLETING)
        )

    def done(self, now: float) -> float:
        """Seconds that this attempt has run."""
        if self.run_base is None or self.state is State.STARTING or self.state not in ACTIVE:
            return 0.0
        running = self.ledger.running
        if self.state is not State.SUSPENDED:
            running += now - self.ledger.since
        return running - self.run_base

    def lent_at(self, now: float) -> float:
        """Seconds that it was frozen for other jobs."""
        if self.frozen is None or self.frozen.cause is not FreezeCause.PREEMPTED or self.state is not State.SUSPENDED:
            return self.lent
        return self.lent + now - self.frozen.since

    def expected_total(self, now: float) -> float:
        """Seconds that it is expected to run in all: its estimate, doubled whenever that has turned out too short."""
        done, total = self.done(now), self.estimate
        while total <= done and total < self.span:
            total = min(self.span, max(2 * total, done + 60.0))
        return total

    def outlives(self, now: float) -> float | None:
        """When the running job will have run for longer than it is expected to; None: never, before its limit."""
        total = self.expected_total(now)
        return now + total - self.done(now) if total < self.span else None

    def over(self, now: float) -> float:
        """When it is gone for certain, its grace and all, as far as promises go.

        `now` without a time limit: nothing is known of it, and nobody could be promised anything beside it.
        """
        if self.stopping is not None:
            return self.expected_end(now)
        return now if self.bounds.time_limit is None else self.expected_end(now) + self.bounds.grace_time

    @property
    def last_start(self) -> float | None:
        """The last moment at which the pending job is still in time for its deadline."""
        if self.deadline is None:
            return None
        return self.deadline - (self.bounds.time_limit or 0.0)

    def waited(self, now: float) -> float:
        """Seconds since it was submitted in which it did not run."""
        waited = self.ledger.queued + self.ledger.frozen
        return waited + now - self.ledger.since if self.state in (State.PENDING, State.SUSPENDED) else waited

    def expected_end(self, now: float) -> float:
        """When it is over at the latest, as far as is known, if it runs on: always after `now`.

        A job without a time limit that has outlived what was assumed is taken to run as long again. One that was asked
        to end is gone with its grace.
        """
        if self.stopping is not None and self.state is State.COMPLETING:
            kill_at = self.stopping.kill_at
            return kill_at if kill_at is not None and kill_at > now else now + _GOING
        done = self.done(now)
        return now + (self.span - done if done < self.span else max(done, 60.0))

    def due(self) -> float | None:
        """The moment when the passing of time alone calls for an action on an active job; None: never."""
        if self.state is State.COMPLETING:
            return self.stopping.kill_at if self.stopping else None
        if self.state not in (State.RUNNING, State.SUSPENDING):
            return self.deadline
        limit = self._limit()
        moments = [moment for moment in (limit, self.deadline) if moment is not None]
        if limit is not None and self.spec.warn is not None and not self.warned:
            moments.append(limit - self.spec.warn.before)
        return min(moments, default=None)

    def limit_reached(self, now: float) -> bool:
        """Whether the running job is at its time limit."""
        limit = self._limit()
        return limit is not None and limit <= now

    def warning_due(self, now: float) -> bool:
        """Whether the running job is to be warned, and not stopped yet."""
        limit = self._limit()
        if limit is None or self.spec.warn is None or self.warned or limit <= now:
            return False
        late = self.deadline is not None and self.deadline <= now
        return not late and limit - self.spec.warn.before <= now

    def _limit(self) -> float | None:
        """When the running job reaches its time limit."""
        if self.bounds.time_limit is None or self.state not in (State.RUNNING, State.SUSPENDING):
            return None
        return self.ledger.since + self.bounds.time_limit - (self.ledger.running - (self.run_base or 0.0))


def changed(job: Job, changes: dict[str, Any]) -> Job:
    """A copy with `changes`: what `attrs.evolve` does, in a quarter of its time; every event makes one."""
    new = _new(Job)
    for name, (get, put) in _SLOTS.items():
        put(new, changes[name] if name in changes else get(job))
    return new


_new = object.__new__
_SLOTS = {
    attribute.name: (getattr(Job, attribute.name).__get__, getattr(Job, attribute.name).__set__)
    for attribute in fields(Job)
}
