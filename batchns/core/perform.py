"""Actions performed on the schedule alone: for looking ahead, for simulations, for tests."""

from __future__ import annotations

from batchns.core.actions import Action, Cancel, Freeze, Join, Kill, Launch, Reclaim, Requeue, Stop, Thaw, Warn
from batchns.core.schedule import Schedule
from batchns.model.lifecycle import Event


def perform(schedule: Schedule, action: Action, now: float) -> None:
    """What is reported of the action by a machine that does at once, and without fail, what it is asked to.

    A `Stop` is heard; the end that follows is the caller's to report.
    """
    match action:
        case Launch(job, placement):
            schedule.launch(job, placement, now)
            schedule.started(job, now)
        case Cancel(job, _):
            schedule.finish(job, Event.CANCEL, now)
        case Requeue(job):
            schedule.requeue(job, now)
        case Join(job):
            schedule.join(job)
        case Warn(job):
            schedule.warn(job)
        case Stop(job, cause, by):
            schedule.stop(job, cause, now, by=by)
        case Kill(job):
            schedule.killed(job)
        case Freeze(job, cause, by, thaw_by):
            schedule.freezing(job, now, cause, by=by, thaw_by=thaw_by)
            schedule.frozen(job, now, confirmed=True)
        case Thaw(job, placement):
            schedule.thawing(job, placement, now)
            schedule.thawed(job, now)
        case Reclaim(job):
            schedule.reclaiming(job)
            schedule.reclaimed(job, None, now)
