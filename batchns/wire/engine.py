"""What the command line asks of whoever runs jobs: this machine's daemon, or a cluster.

1. One small interface, with the daemon's words: `client.sync.Client` and `slurm.engine.Slurm` have it.
2. What one of them cannot do it refuses, with what to do instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol, TypeVar

from batchns.errors import BatchnsError, HostError, UserError
from batchns.wire import types as wire

T_co = TypeVar("T_co", covariant=True)


class Refusal(UserError):
    """No. `code`: as of `wire.Failure`; `message`, `hint`: what to tell."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.code = code
        self.message = message


class Unreachable(HostError):
    """Nobody answers, or the answer broke off: it may be well to ask again."""


def passes(error: BatchnsError) -> bool:
    """Asked again in a moment, it may answer: it is started anew, or has no room for one more connection."""
    return isinstance(error, Unreachable) or (isinstance(error, Refusal) and error.code == "unavailable")


class Reset:
    """Among events: some are missing, because they are no longer known. Look anew at the jobs that matter."""


Event = tuple[str, wire.JobRow] | Reset


class Pieces(Protocol[T_co]):
    """An answer that goes on. Use it in a `with`."""

    def __iter__(self) -> Iterator[T_co]: ...

    def __next__(self) -> T_co: ...

    def __enter__(self) -> Pieces[T_co]: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Engine(Protocol):
    """Every method raises `Refusal`, or `Unreachable`; see `client.sync.Client` for what each of them does."""

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def close(self) -> None:
        """Let go of what is held open; it can still be used."""

    def submit(self, request: wire.SubmitRequest) -> wire.Submitted: ...

    def jobs(
        self,
        select: Sequence[str] = (),
        *,
        states: Sequence[str] = (),
        user: str | None = None,
        queue: str | None = None,
        ended: bool = False,
        page: int = 1000,
    ) -> Iterator[wire.JobRow]: ...

    def job(self, job_id: str) -> wire.JobDetail: ...

    def why(self, job_id: str) -> wire.Why: ...

    def act(self, request: wire.ActRequest) -> wire.ActAnswer: ...

    def history(
        self,
        *,
        user: str | None = None,
        since: float | None = None,
        until: float | None = None,
        names: Sequence[str] = (),
        states: Sequence[str] = (),
        queue: str | None = None,
        page: int = 1000,
    ) -> Iterator[wire.JobRow]: ...

    def logs(
        self,
        job_id: str,
        stream: str = "stdout",
        *,
        attempt: int | None = None,
        tail: int | None = None,
        follow: bool = False,
    ) -> Pieces[bytes]: ...

    def events(self, select: Sequence[str] = (), *, after: str | None = None) -> Pieces[Event]: ...
