"""What the daemon can be asked for, apart from how the question comes: the seam between HTTP and the scheduler.

1. Whoever asks is a `Peer`, told by the kernel and never by the request; what they may see and do is checked here.
2. What is refused raises `Refused`; nothing has changed then.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from attrs import frozen

from batchns.errors import UserError
from batchns.wire import types as wire


@frozen(kw_only=True)
class Peer:
    """Who asks. `admin`: root, or one of the administrators that batchns.toml names."""

    uid: int
    gid: int
    user: str
    admin: bool = False
    groups: tuple[int, ...] = ()


class Refused(UserError):
    """A request that is not done. `code`: of `wire.Failure`, which says the HTTP status, too.

    invalid (400), forbidden (403), not_found (404), conflict (409), too_large (413), command_not_found and
    command_not_executable (422), full (507), unavailable (503).
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.code = code
        self.message = message
        self.hint = hint


@frozen(kw_only=True)
class JobQuery:
    """Jobs that the daemon knows of: those that are not over, and those that ended lately where `ended` is set.

    `select`: selectors as of `wire.ActRequest`; empty: all. `after`: cursor of the page before.
    """

    select: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    user: str | None = None
    queue: str | None = None
    ended: bool = False
    limit: int = 1000
    after: str = ""


@frozen(kw_only=True)
class HistoryQuery:
    """As of `store.interface.HistoryQuery`, of one user (None: the peer; "*": everybody, for administrators)."""

    user: str | None = None
    since: float | None = None
    until: float | None = None
    names: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    queue: str | None = None
    limit: int = 100
    after: str = ""


@frozen(kw_only=True)
class RowsPage:
    """Rows as JSON texts of `wire.JobRow`, so that what did not change is not encoded again."""

    rows: Sequence[bytes]
    next: str = ""


@frozen(kw_only=True)
class StateEvent:
    """A job has changed. `row`: JSON of `wire.JobRow`. `number`: grows by one with each event of the daemon's life."""

    number: int
    job_id: str
    row: bytes


class Execution(Protocol):
    """A process in a job, for as long as somebody listens."""

    async def read(self) -> tuple[str, bytes] | None:
        """The next piece of ("stdout" or "stderr"); with a terminal all is stdout. None: it has ended, see `wait`."""

    async def write(self, data: bytes) -> None:
        """To its stdin; b"" closes it."""

    async def signal(self, number: int) -> None: ...

    def resize(self, rows: int, columns: int) -> None: ...

    async def wait(self) -> tuple[int | None, int | None]:
        """(exit code, signal), one of them None; both None where it was killed with the job."""


class Service(Protocol):
    def may_monitor(self, peer: Peer) -> None:
        """Raises Refused: metrics are not for them."""

    async def you(self, peer: Peer) -> wire.You: ...

    async def submit(self, peer: Peer, request: wire.SubmitRequest) -> wire.Submitted:
        """Durable when it returns. A `key` that this user has given lately gets the first answer again, also after a
        restart, and nothing is submitted.
        """

    async def jobs(self, peer: Peer, query: JobQuery) -> RowsPage: ...

    async def job(self, peer: Peer, job_id: str) -> wire.JobDetail:
        """Over or not."""

    async def why(self, peer: Peer, job_id: str) -> wire.Why: ...

    async def act(self, peer: Peer, request: wire.ActRequest) -> wire.ActAnswer: ...

    async def history(self, peer: Peer, query: HistoryQuery) -> RowsPage: ...

    async def usage(self, peer: Peer, query: HistoryQuery) -> wire.UsageAnswer: ...

    async def node(self, peer: Peer) -> wire.NodeInfo: ...

    async def queues(self, peer: Peer) -> wire.QueuesAnswer: ...

    async def drain(self, peer: Peer, request: wire.DrainRequest) -> wire.NodeInfo: ...

    async def resume(self, peer: Peer) -> wire.NodeInfo: ...

    def events(
        self, peer: Peer, select: Sequence[str], after: int | None
    ) -> AbstractAsyncContextManager[AsyncIterator[StateEvent | None]]:
        """State changes of jobs that the peer may see, from the one that follows `after` on; None: from now on.

        The first item is None where events after `after` are no longer known: the reader must look anew.
        """

    def logs(
        self, peer: Peer, job_id: str, stream: str, *, attempt: int | None, tail: int | None, follow: bool, start: int
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """What the job wrote to "stdout" or "stderr". `tail`: its last so many lines; `start`: from this byte of the
        first file on. `follow`: until the job is over, across attempts. Opened with the rights of the job's owner.

        What is iterated may have `begins`: the byte at which it begins.
        """

    def execute(self, peer: Peer, job_id: str, request: wire.ExecRequest) -> AbstractAsyncContextManager[Execution]: ...
