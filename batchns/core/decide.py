"""The decision: what is to be done now, from all that is known, as data.

1. `decide` is a function of its arguments: it changes nothing, and the same arguments give the same actions.
2. Its order is the policy: first what must end, what can never run and what comes back; then who starts.
3. Every action, once performed and reported, is not decided again; perform and decide until nothing is left.
"""

from __future__ import annotations

from collections.abc import Iterator

from batchns.core.actions import Action, Cancel, Freeze, Join, Kill, Requeue, Stop, Thaw, Warn
from batchns.core.job import Cause
from batchns.core.reasons import Reason, Why
from batchns.core.schedule import Schedule
from batchns.core.starts import starts
from batchns.model.lifecycle import State


def decide(schedule: Schedule, now: float) -> list[Action]:
    """The actions due at `now`, in the order in which they are to be performed."""
    actions: list[Action] = [*_ends(schedule, now), *_cancels(schedule, now)]
    if schedule.draining is not None:
        return actions
    gone = {action.job for action in actions if not isinstance(action, Warn)}
    actions += [Freeze(job_id, cause) for job_id, cause in schedule.to_freeze.items() if job_id not in gone]
    actions += [Thaw(job_id) for job_id in schedule.to_thaw if job_id not in gone]
    actions += [Requeue(job_id) for job_id in schedule.to_retry]
    actions += [Join(job_id) for job_id in schedule.joining(now) if job_id not in gone]
    if actions or schedule.paused:  # who starts is decided once it is known who is there, and who is not any more
        return actions
    return starts(schedule, now)


def _ends(schedule: Schedule, now: float) -> Iterator[Action]:
    """Who is asked to end, who has been asked for long enough, who is warned."""
    drain = schedule.draining
    asked = set()
    for job_id in schedule.due(now):
        job = schedule[job_id]
        if job.state is State.COMPLETING:
            asked.add(job_id)
            yield Kill(job_id)
        elif job.warning_due(now):
            yield Warn(job_id)
        else:
            asked.add(job_id)
            yield Stop(job_id, Cause.TIME_LIMIT if job.limit_reached(now) else Cause.DEADLINE)
    if drain is None:
        return
    for job_id in schedule.active:
        job = schedule[job_id]
        if job_id in asked:
            continue
        if job.stopping is None:
            yield Stop(job_id, Cause.CANCELLED)
        elif drain.kill and job.stopping.kill_at is not None:
            yield Kill(job_id)


def _cancels(schedule: Schedule, now: float) -> Iterator[Action]:
    if schedule.draining is not None:
        reason = Reason(why=Why.DRAINED, detail=schedule.draining.detail)
        for job_id in schedule.pending:
            yield Cancel(job_id, schedule.doomed.get(job_id, reason))
        return
    for job_id, doom in schedule.doomed.items():
        yield Cancel(job_id, doom)
    for job_id in schedule.too_late(now):
        if job_id not in schedule.doomed:
            yield Cancel(job_id, Reason(why=Why.DEADLINE, at=schedule[job_id].deadline))
