"""What the supervisor's loop hears of. Everything that happens reaches the schedule through one of these."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import trio
from attrs import frozen

from batchns.errors import BatchnsError
from batchns.launch.client import Ended, Started
from batchns.model.result import LimitReading
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
    attempt: Attempt
    confirmed: bool


@frozen
class ThawAnswer:
    """`moved`: the CPUs that it runs on from now on, as the kernel has them; None where they have not been changed."""

    attempt: Attempt
    confirmed: bool
    moved: LimitReading | None = None


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


Answer = (
    HasStarted | LaunchFailed | LaunchHangs | HasEnded | Lost | Unkillable | FreezeAnswer | ThawAnswer | SqueezeAnswer
)
Event = Answer | Neighbours | Interrupt | Pause
