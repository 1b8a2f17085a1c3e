"""Every change of a schedule as data: what is journalled, and what a journal is replayed through.

1. `apply_change` is the only way from a change to the schedule, for the living loop and for replay alike: so what is in
   a journal can be applied again, and leads to the same schedule.
2. Each change names one job, but those of the whole node.
"""

from __future__ import annotations

from attrs import frozen

from batchns.core.job import Cause, FreezeCause, Job
from batchns.core.placement import Placement
from batchns.core.schedule import Schedule
from batchns.model.lifecycle import Event


@frozen
class Submitted:
    """New PENDING jobs, all of one submission."""

    jobs: tuple[Job, ...]


@frozen
class Launched:
    job: str
    placement: Placement


@frozen
class Started:
    job: str


@frozen
class FreezeAsked:
    """Its owner wants it frozen until `Released`; `Freezing` follows where it runs."""

    job: str


@frozen
class Freezing:
    job: str
    cause: FreezeCause
    by: str = ""
    thaw_by: float | None = None


@frozen
class FreezeEnded:
    """`confirmed`: by the kernel; else it was rolled back."""

    job: str
    confirmed: bool


@frozen
class Reclaiming:
    job: str


@frozen
class Reclaimed:
    """`held`: bytes; None: nothing could be had."""

    job: str
    held: int | None


@frozen
class Thawing:
    job: str
    placement: Placement | None = None


@frozen
class Thawed:
    job: str


@frozen
class ThawFailed:
    """`why`: for whoever asks why the job does not go on."""

    job: str
    why: str = ""


@frozen
class Warned:
    job: str


@frozen
class Stopped:
    """Asked to end. `why`: what the one said who asked."""

    job: str
    cause: Cause
    by: str = ""
    why: str = ""


@frozen
class Killed:
    job: str


@frozen
class Finished:
    """An attempt's end. `retry` False: it would end the same way again."""

    job: str
    event: Event
    retry: bool = True


@frozen
class Requeued:
    job: str


@frozen
class Joined:
    job: str


@frozen
class Held:
    job: str


@frozen
class Released:
    job: str


@frozen
class Prioritised:
    """`priority`: 0 to 100, as a job file has it."""

    job: str
    priority: int


@frozen
class Closed:
    """The node starts nothing any more; what runs goes on."""

    detail: str


@frozen
class Opened:
    """The node starts jobs again."""


Change = (
    Submitted
    | Launched
    | Started
    | FreezeAsked
    | Freezing
    | FreezeEnded
    | Reclaiming
    | Reclaimed
    | Thawing
    | Thawed
    | ThawFailed
    | Warned
    | Stopped
    | Killed
    | Finished
    | Requeued
    | Joined
    | Held
    | Released
    | Prioritised
    | Closed
    | Opened
)


def apply_change(schedule: Schedule, change: Change, now: float) -> list[str]:
    """Change the schedule. Returns the jobs that wait for nothing any more because of it.

    Raises:
        IllegalEvent: the lifecycle has no such transition; nothing has changed.
    """
    match change:
        case Submitted(jobs):
            schedule.submit(jobs)
        case Launched(job, placement):
            schedule.launch(job, placement, now)
        case Started(job):
            return schedule.started(job, now)
        case FreezeAsked(job):
            schedule.freeze(job, now)
        case Freezing(job, cause, by, thaw_by):
            schedule.freezing(job, now, cause, by=by, thaw_by=thaw_by)
        case FreezeEnded(job, confirmed):
            schedule.frozen(job, now, confirmed=confirmed)
        case Reclaiming(job):
            schedule.reclaiming(job)
        case Reclaimed(job, held):
            schedule.reclaimed(job, held, now)
        case Thawing(job, placement):
            schedule.thawing(job, placement, now)
        case Thawed(job):
            schedule.thawed(job, now)
        case ThawFailed(job, why):
            schedule.thaw_failed(job, why)
        case Warned(job):
            schedule.warn(job)
        case Stopped(job, cause, by, _):
            schedule.stop(job, cause, now, by=by)
        case Killed(job):
            schedule.killed(job)
        case Finished(job, event, retry):
            return schedule.finish(job, event, now, retry=retry)
        case Requeued(job):
            schedule.requeue(job, now)
        case Joined(job):
            schedule.join(job)
        case Held(job):
            schedule.hold(job)
        case Released(job):
            schedule.release(job)
        case Prioritised(job, priority):
            schedule.prioritise(job, priority)
        case Closed(detail):
            schedule.close(detail)
        case Opened():
            schedule.open()
    return []
