"""How an attempt ended, in a user's words: a pure step from what the launcher reports to an event and a reason."""

from __future__ import annotations

import errno

from attrs import frozen

from batchns.core.job import Cause, Job
from batchns.errors import BatchnsError, StepError, UserError
from batchns.launch.client import Ended
from batchns.model.lifecycle import Event
from batchns.model.result import Usage
from batchns.model.signals import signal_name
from batchns.units import format_duration, format_size


@frozen(kw_only=True)
class Outcome:
    """`retry` False: it would end the same way again."""

    event: Event
    exit_code: int | None = None
    signal: str | None = None  # "SIGKILL"
    reason: str = ""
    retry: bool = True


def of_end(job: Job, ended: Ended, usage: Usage, why: str) -> Outcome:
    """The outcome of a command that ran. `why`: what the one who asked the job to end said, if anyone did.

    | asked to end        | TIMEOUT, CANCELLED, or FAILED for a refusal, however the command took it |
    | exit code 0         | COMPLETED, also when a child of the command was killed for memory |
    | killed for memory   | OUT_OF_MEMORY |
    | else                | FAILED |
    """
    # Without a record init itself was killed, and only SIGKILL can do that.
    no_record = ended.exit_code is None and ended.signal is None
    name = "SIGKILL" if no_record else None if ended.signal is None else signal_name(ended.signal)
    if job.stopping is not None:
        return _asked(job.stopping.cause, job, why, ended.exit_code, name)
    if ended.exit_code == 0:
        return Outcome(event=Event.EXITED_OK, exit_code=0)
    if usage.oom_kills:
        processes = "1 process" if usage.oom_kills == 1 else f"{usage.oom_kills} processes"
        reason = f"memory limit {format_size(job.bounds.memory)}: {processes} killed"
        return Outcome(event=Event.OOM, exit_code=ended.exit_code, signal=name, reason=reason)
    if no_record:
        reason = "killed together with its init"
    else:
        reason = f"exit code {ended.exit_code}" if name is None else f"ended by {name}"
    return Outcome(event=Event.EXITED_BAD, exit_code=ended.exit_code, signal=name, reason=reason)


def of_failed_launch(job: Job, error: BatchnsError, why: str) -> Outcome:
    """The outcome of an attempt whose command never ran. Step "exec" has a shell's exit codes, 127 and 126."""
    if job.stopping is not None and job.stopping.cause is Cause.CANCELLED:
        return Outcome(event=Event.CANCEL, reason=why)
    if job.stopping is not None and job.stopping.cause is Cause.REFUSED:  # it was killed for its launch did not end
        return Outcome(event=Event.LAUNCH_FAILED, reason=why)
    exit_code = None
    if isinstance(error, StepError) and error.step == "exec":
        exit_code = 127 if error.errno == errno.ENOENT else 126
    retry = not isinstance(error, UserError)
    return Outcome(event=Event.LAUNCH_FAILED, exit_code=exit_code, reason=str(error), retry=retry)


def _asked(cause: Cause, job: Job, why: str, exit_code: int | None, name: str | None) -> Outcome:
    match cause:
        case Cause.TIME_LIMIT:
            reason = f"time limit {format_duration(job.bounds.time_limit or 0)} reached"
            return Outcome(event=Event.TIMED_OUT, exit_code=exit_code, signal=name, reason=reason)
        case Cause.DEADLINE:
            return Outcome(event=Event.TIMED_OUT, exit_code=exit_code, signal=name, reason="deadline reached")
        case Cause.PREEMPTED:
            return Outcome(event=Event.CANCEL, exit_code=exit_code, signal=name, reason=why or "preempted")
        case Cause.REQUEUED:
            return Outcome(event=Event.CANCEL, exit_code=exit_code, signal=name, reason=why or "requeued")
        case Cause.CANCELLED:
            return Outcome(event=Event.CANCEL, exit_code=exit_code, signal=name, reason=why)
        case Cause.REFUSED:
            return Outcome(event=Event.EXITED_BAD, exit_code=exit_code, signal=name, reason=why, retry=False)
