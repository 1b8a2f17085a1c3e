"""What the supervisor's loop hears of. Everything that happens reaches the schedule through one of these."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import outcome
import trio
from attrs import frozen

from batchns.errors import BatchnsError
from batchns.launch.client import Ended, Started
from batchns.model.result import LimitReading
from batchns.store.interface import Json, Submission
from batchns.supervise.attempt import Attempt

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A queue that may be posted to from any task at any time, also when nobody reads any more."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._readers = trio.lowlevel.ParkingLot()

    def __bool__(self) -> bool:
        return bool(self._items)

    def post(self, item: T) -> None:
        self._items.append(item)
        self._readers.unpark()

    async def get(self) -> T:
        """The oldest item, as soon as there is one."""
        while not self._items:
            await self._readers.park()
        return self._items.popleft()

    def get_nowait(self) -> T:
        """The oldest item; there must be one."""
        return self._items.popleft()


@frozen
class HasStarted:
    attempt: Attempt
    started: Started


@frozen
class LaunchFailed:
    """The command never ran, and nothing is left of the attempt."""

    attempt: Attempt
    error: BatchnsError


@frozen
class LaunchHangs:
    """The command does not run yet, and has had its time to come to that."""

    attempt: Attempt


@frozen
class HasEnded:
    attempt: Attempt
    ended: Ended


@frozen
class Lost:
    """The launcher is gone, and cannot tell how the attempt ended."""

    attempt: Attempt
    error: BatchnsError


@frozen
class Unkillable:
    """The attempt was killed, and its end was waited for within every bound. `empty`: no process is left of it."""

    attempt: Attempt
    empty: bool


@frozen
class FreezeAnswer:
    """`seconds`: from the write until the kernel confirmed. `gone`: it was not, as the attempt's cgroups are gone."""

    attempt: Attempt
    confirmed: bool
    seconds: float = 0.0
    gone: bool = False


@frozen
class ThawAnswer:
    """`moved`: the CPUs that it runs on from now on, as the kernel has them; None where they have not been changed.

    `why` it stays frozen, where it does. `seconds`: from the write until the kernel confirmed.
    """

    attempt: Attempt
    confirmed: bool
    moved: LimitReading | None = None
    why: str = ""
    seconds: float = 0.0


@frozen
class SqueezeAnswer:
    """`held`: the bytes that the frozen job is bounded to; None where nothing could be had of it."""

    attempt: Attempt
    held: int | None


@frozen
class Neighbours:
    """The machine is busy with what is not batchns's (`busy`), or no longer."""

    busy: bool


@frozen
class Interrupt:
    """Someone wants everything to end. `kill`: now."""

    detail: str
    kill: bool


@frozen
class Pause:
    """Freeze everything (`on`), or go on."""

    on: bool


class Reply(Generic[T]):
    """What becomes of a question: one value, or one error, for one who waits."""

    def __init__(self) -> None:
        self._arrived = trio.Event()
        self._outcome: outcome.Value[T] | outcome.Error | None = None

    def give(self, value: T) -> None:
        self._outcome = outcome.Value(value)
        self._arrived.set()

    def fail(self, error: BatchnsError) -> None:
        self._outcome = outcome.Error(error)
        self._arrived.set()

    async def get(self) -> T:
        """Raises the error."""
        await self._arrived.wait()
        assert self._outcome is not None
        return self._outcome.unwrap()


@frozen(eq=False)
class Arrive:
    """New jobs, admitted. Answered when they have been recorded, with `notes`, and are in the queue."""

    submission: Submission
    notes: Mapping[str, Json]
    reply: Reply[None]


@frozen(eq=False)
class Ask:
    """Something to be done by the loop's own task: `act` changes books, at once; what it raises is its answer.

    Answered when the turn has been recorded.
    """

    act: Callable[[], Any]
    reply: Reply[Any]


@frozen
class Wake:
    """Look whether there is something to decide."""


Answer = (
    HasStarted | LaunchFailed | LaunchHangs | HasEnded | Lost | Unkillable | FreezeAnswer | ThawAnswer | SqueezeAnswer
)
Event = Answer | Neighbours | Interrupt | Pause | Arrive | Ask | Wake
