"""What is known of each job so far, and how it is told: views for an onlooker, results for the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import asdict, define, field

from batchns.core.job import Job
from batchns.model.lifecycle import State
from batchns.model.result import JobResult, LimitReading, Usage
from batchns.supervise.outcome import Outcome
from batchns.supervise.view import JobView


@define
class Account:
    """One attempt's record, and in the end the job's: exit, usage, limits and files are the last attempt's, while the
    ledger (which the job itself carries) is over all attempts.
    """

    submitted: float = 0.0  # the moments are of the loop's clock
    started: float | None = None  # the attempt's command
    asked_to_end: str = ""  # what the one said who asked it to end
    exit_code: int | None = None
    signal: str | None = None
    reason: str = ""
    usage: Usage = field(factory=Usage)
    limits: Mapping[str, LimitReading] = field(factory=dict)
    stdout: str | None = None
    stderr: str | None = None
    result: JobResult | None = None

    def end(self, outcome: Outcome, usage: Usage, files: tuple[str | None, str | None]) -> None:
        """The attempt's outcome. `files`: of its stdout and stderr."""
        self.stdout, self.stderr = files
        self.exit_code, self.signal, self.reason = outcome.exit_code, outcome.signal, outcome.reason
        self.usage = usage

    def data(self) -> dict[str, Any]:
        """The end of the attempt as a journal keeps it; the inverse of `recall_end`."""
        return {
            "exit_code": self.exit_code,
            "signal": self.signal,
            "reason": self.reason,
            "usage": asdict(self.usage, recurse=False),
            "stdout": self.stdout,
            "stderr": self.stderr,
        }

    def recall_start(self, data: Mapping[str, Any], at: float) -> None:
        """What a journal kept of the attempt's start."""
        self.started = at
        self.stdout, self.stderr = data.get("stdout"), data.get("stderr")
        self.limits = {name: LimitReading(**reading) for name, reading in data.get("limits", {}).items()}

    def recall_end(self, data: Mapping[str, Any]) -> None:
        """The inverse of `data`."""
        self.exit_code, self.signal = data.get("exit_code"), data.get("signal")
        self.reason = data.get("reason", "")
        self.usage = Usage(**data.get("usage", {}))
        self.stdout, self.stderr = data.get("stdout", self.stdout), data.get("stderr", self.stderr)

    def conclude(self, job: Job) -> JobResult:
        """The job is over for good: its result, from here on part of every view."""
        ledger = job.ledger
        self.result = JobResult(
            job_id=job.id,
            name=job.spec.name,
            state=job.state,
            exit_code=self.exit_code,
            signal=self.signal,
            reason=self.reason,
            attempts=job.attempt,
            queued_seconds=ledger.queued,
            running_seconds=ledger.running,
            frozen_seconds=ledger.frozen,
            usage=self.usage,
            stdout=self.stdout,
            stderr=self.stderr,
            limits=self.limits,
        )
        return self.result

    def view(self, job: Job, now: float, waits: str) -> JobView:
        """The job at `now`. `waits`: why it is pending or frozen, if it is."""
        ledger = job.ledger.at(job.state, now)
        return JobView(
            job_id=job.id,
            name=job.spec.name,
            state=job.state,
            attempt=job.attempt,
            reason=waits or ("" if job.state is State.PENDING else self.reason or self.asked_to_end),
            queued_seconds=ledger.queued,
            running_seconds=ledger.running,
            frozen_seconds=ledger.frozen,
            cpus=job.demand.cpus,
            memory=job.demand.memory,
            time_limit=job.bounds.time_limit,
            result=self.result,
        )
