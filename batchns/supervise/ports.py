"""What the supervisor needs of its neighbours, and no more: the seams at which tests put fakes."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

import trio

from batchns.core.changes import Change
from batchns.core.job import Job
from batchns.errors import HostError
from batchns.launch.build import Slot
from batchns.launch.client import Ended, Started
from batchns.launch.plan import Plan
from batchns.model.result import Usage
from batchns.store.interface import Entry, Json, Submission
from batchns.supervise.account import Account

T = TypeVar("T")
THREADS = 8  # blocking calls into the kernel at a time: freezes, thaws and kills


class Launching(Protocol):
    """`launch.client.Launcher`, whose documentation holds here."""

    async def launch(self, plan: Plan, stdin: int, stdout: int, stderr: int) -> Started: ...

    async def wait(self, attempt: str) -> Ended: ...

    async def signal(self, attempt: str, signum: int) -> None: ...


class Keeping(Protocol):
    """What `launch.keeper.KeptLauncher` can do besides, whose documentation holds here."""

    async def recall(self, attempt: str) -> Started: ...

    async def forget(self, attempt: str) -> None: ...


class Runs(Protocol):
    """`supervise.runfolder.RunFolder`, whose documentation holds here."""

    def job_ids(self, count: int) -> int: ...

    def acquire_slot(self) -> Slot: ...

    def release_slot(self, slot: Slot) -> None: ...

    def record_path(self, attempt_name: str) -> str: ...

    def attempt_name(self, serial: int) -> str: ...


class Recorder(Protocol):
    """Makes changes durable, in their order."""

    @property
    def pending(self) -> bool:
        """Something has been noted that is not durable yet."""

    def note(self, entry: Entry) -> None: ...

    async def commit(
        self, submissions: Sequence[Submission] = (), notes: Mapping[str, Json] = MappingProxyType({})
    ) -> HostError | None:
        """Make `submissions`, their `notes` and all that was noted durable.

        An error: nothing was, and `submissions` are forgotten; what was noted before is kept for the next time.
        """


class Chronicling(Protocol):
    """Keeps what became of jobs."""

    def ended(self, job: Job, account: Account) -> None:
        """An attempt is over."""

    def concluded(self, job: Job, account: Account) -> None:
        """The job is over for good, and its account has the result."""


class Metering(Protocol):
    """Counts what happens. Called by the loop's own task, which waits for it. Nothing of a replayed journal is told."""

    def submitted(self, jobs: Sequence[Job]) -> None:
        """New jobs are in the queue."""

    def changed(self, change: Change, before: Job, after: Job) -> None:
        """A change has been applied to a job."""

    def started(self, job: Job, phases: Mapping[str, float]) -> None:
        """The attempt's command runs. `phases`: seconds of its launch."""

    def confirmed(self, action: str, seconds: float) -> None:
        """The kernel took so long for a "freeze" or a "thaw"."""

    def failed(self, action: str, job: Job) -> None:
        """The kernel has not confirmed a "freeze" of the job, which runs on, or a "thaw", which is tried again."""

    def decided(self, seconds: float) -> None:
        """A turn's decisions took so long."""

    def ended(self, attempt: str, job: Job, usage: Usage, texts: Mapping[str, str]) -> None:
        """The attempt is over, and used so much. `texts`: of its cgroups' files, read once more at the end."""

    def concluded(self, job: Job) -> None:
        """The job is over for good."""


class Unmetered:
    """Nobody counts."""

    def submitted(self, jobs: Sequence[Job]) -> None:
        pass

    def changed(self, change: Change, before: Job, after: Job) -> None:
        pass

    def started(self, job: Job, phases: Mapping[str, float]) -> None:
        pass

    def confirmed(self, action: str, seconds: float) -> None:
        pass

    def failed(self, action: str, job: Job) -> None:
        pass

    def decided(self, seconds: float) -> None:
        pass

    def ended(self, attempt: str, job: Job, usage: Usage, texts: Mapping[str, str]) -> None:
        pass

    def concluded(self, job: Job) -> None:
        pass


class Blocking(Protocol):
    """Runs a function that blocks, without holding up the event loop.

    `late` None: it ends within a bound of its own, and is waited for even when its caller is cancelled. Else it may
    never end, as with a file system whose server does not answer; a cancelled caller goes on at once, and a value that
    comes after all is given to `late`, in the thread.
    """

    async def __call__(self, function: Callable[[], T], *, late: Callable[[T], None] | None = None) -> T: ...


class _Abandonable(Generic[T]):
    """A call whose value goes to exactly one of two: its caller, or `late`."""

    def __init__(self, function: Callable[[], T], late: Callable[[T], None]) -> None:
        self._function = function
        self._late = late
        self._lock = threading.Lock()
        self._abandoned = False
        self._values: list[T] = []

    def __call__(self) -> None:
        """In the thread."""
        value = self._function()
        with self._lock:
            if not self._abandoned:
                self._values.append(value)
                return
        self._late(value)

    def take(self) -> T:
        return self._values.pop()

    def abandon(self) -> None:
        """Nobody waits any more."""
        with self._lock:
            self._abandoned = True
            values, self._values = self._values, []
        for value in values:
            self._late(value)


def threads() -> Blocking:
    """Blocking calls in threads.

    Those that end by themselves run `THREADS` at a time. The others have no such bound: one that hangs must not keep
    the next from its thread, and there are never more than running jobs.
    """
    limiter = trio.CapacityLimiter(THREADS)
    unlimited = trio.CapacityLimiter(math.inf)

    async def run(function: Callable[[], T], *, late: Callable[[T], None] | None = None) -> T:
        if late is None:
            return await trio.to_thread.run_sync(function, limiter=limiter)
        call = _Abandonable(function, late)
        try:
            await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=unlimited)
            return call.take()
        finally:
            call.abandon()

    return run
