"""A job's states and every transition between them, in one table.

`apply(state, event)` is the only way from one state to the next. An illegal event raises `IllegalEvent` and
changes nothing. State names are Slurm's, because users and tools know them.
"""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType

from batchns.errors import BatchnsError


class State(Enum):
    PENDING = "PENDING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    SUSPENDING = "SUSPENDING"
    SUSPENDED = "SUSPENDED"
    COMPLETING = "COMPLETING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NODE_FAIL = "NODE_FAIL"

    @property
    def final(self) -> bool:
        """No event but `REQUEUE` leaves this state."""
        return self in FINAL


FINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.TIMEOUT, State.OUT_OF_MEMORY, State.NODE_FAIL})


class Event(Enum):
    LAUNCH = "launch"  # the decision to start it
    STARTED = "started"  # the command has been executed
    LAUNCH_FAILED = "launch failed"
    FREEZE = "freeze"  # the decision to freeze it
    FROZEN = "frozen"  # the kernel confirmed
    FREEZE_FAILED = "freeze failed"  # rolled back
    THAWED = "thawed"
    STOP = "stop"  # asked to end: cancel or time limit
    EXITED_OK = "exited with 0"
    EXITED_BAD = "exited otherwise"
    OOM = "out of memory"
    TIMED_OUT = "time limit"
    CANCEL = "cancel"
    LOST = "lost"  # the node went down under it
    REQUEUE = "requeue"  # another attempt


class IllegalEvent(BatchnsError):
    """An event that the table does not allow in this state. Nothing has changed."""

    def __init__(self, job: str, state: State, event: Event) -> None:
        super().__init__(f"job {job}: event '{event.value}' is illegal in state {state.value}")
        self.job = job
        self.state = state
        self.event = event


_ENDS = {
    Event.EXITED_OK: State.COMPLETED,
    Event.EXITED_BAD: State.FAILED,
    Event.OOM: State.OUT_OF_MEMORY,
    Event.LOST: State.NODE_FAIL,
}

TRANSITIONS: MappingProxyType[State, MappingProxyType[Event, State]] = MappingProxyType(
    {
        state: MappingProxyType(row)
        for state, row in {
            State.PENDING: {Event.LAUNCH: State.STARTING, Event.CANCEL: State.CANCELLED},
            State.STARTING: {
                Event.STARTED: State.RUNNING,
                Event.LAUNCH_FAILED: State.FAILED,
                Event.STOP: State.COMPLETING,
                Event.LOST: State.NODE_FAIL,
            },
            State.RUNNING: {
                **_ENDS,
                Event.FREEZE: State.SUSPENDING,
                Event.STOP: State.COMPLETING,
            },
            State.SUSPENDING: {
                **_ENDS,
                Event.FROZEN: State.SUSPENDED,
                Event.FREEZE_FAILED: State.RUNNING,
                Event.STOP: State.COMPLETING,
            },
            State.SUSPENDED: {
                **_ENDS,
                Event.THAWED: State.RUNNING,
                Event.STOP: State.COMPLETING,
            },
            State.COMPLETING: {
                **_ENDS,
                Event.STARTED: State.COMPLETING,
                Event.LAUNCH_FAILED: State.FAILED,
                Event.TIMED_OUT: State.TIMEOUT,
                Event.CANCEL: State.CANCELLED,
                Event.STOP: State.COMPLETING,
            },
            **{state: {Event.REQUEUE: State.PENDING} for state in FINAL},
        }.items()
    }
)


def apply(job: str, state: State, event: Event) -> State:
    """The state after `event`.

    Raises:
        IllegalEvent: the table has no such transition; nothing has changed.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalEvent(job, state, event) from None
