"""What the supervisor tells an onlooker (the progress display, plain lines, `--json`) about its jobs."""

from __future__ import annotations

from typing import Protocol

from attrs import frozen

from batchns.model.lifecycle import State
from batchns.model.result import JobResult


@frozen(kw_only=True)
class JobView:
    """One job at one moment. Times in seconds up to `now` of the supervisor's clock."""

    job_id: str  # "7", array tasks "7_3"
    name: str
    state: State
    attempt: int = 1
    reason: str = ""  # why it is pending, or how it ended
    queued_seconds: float = 0.0
    running_seconds: float = 0.0
    frozen_seconds: float = 0.0
    cpus: float = 1.0
    memory: int | None = None  # bytes asked for
    time_limit: float | None = None
    result: JobResult | None = None  # set in a final state that no retry follows


class Observer(Protocol):
    """Told of every change, in order, from the supervisor's own task: it must not block."""

    def job_changed(self, view: JobView) -> None: ...
