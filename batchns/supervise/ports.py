"""What the supervisor needs of its neighbours, and no more: the seams at which tests put fakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

from batchns.launch.build import Slot
from batchns.launch.client import Ended, Started
from batchns.launch.plan import Plan

T = TypeVar("T")
THREADS = 8  # blocking calls into the kernel at a time: freezes, thaws and kills


class Launching(Protocol):
    """`launch.client.Launcher`, whose documentation holds here."""

    async def launch(self, plan: Plan, stdin: int, stdout: int, stderr: int) -> Started: ...

    async def wait(self, attempt: str) -> Ended: ...

    async def signal(self, attempt: str, signum: int) -> None: ...


class Runs(Protocol):
    """`supervise.runfolder.RunFolder`, whose documentation holds here."""

    def job_ids(self, count: int) -> int: ...

    def acquire_slot(self) -> Slot: ...

    def release_slot(self, slot: Slot) -> None: ...

    def record_path(self, attempt_name: str) -> str: ...

    def attempt_name(self, serial: int) -> str: ...


class Blocking(Protocol):
    """Runs a function that blocks, without holding up the event loop."""

    async def __call__(self, function: Callable[[], T]) -> T: ...


def threads() -> Blocking:
    """Blocking calls in threads, `THREADS` at a time. A call is waited for even when its caller is cancelled."""
    limiter = trio.CapacityLimiter(THREADS)

    async def run(function: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(function, limiter=limiter)

    return run
