"""The decision: what is to be done now, from all that is known, as data.

1. `decide` is a function of its arguments: it changes nothing, and the same arguments give the same actions.
2. Its order is the policy: first what must end, then what can never run, then who starts.
3. Every action, once performed and reported, is not decided again; perform and decide until nothing is left.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator

from batchns.core.actions import Action, Cancel, Freeze, Kill, Launch, Requeue, Stop, Thaw
from batchns.core.job import Cause
from batchns.core.ready import Lane
from batchns.core.reasons import Reason, Why
from batchns.core.schedule import Schedule
from batchns.model.lifecycle import State


def decide(schedule: Schedule, now: float) -> list[Action]:
    """The actions due at `now`, in the order in which they are to be performed."""
    actions = [*_ends(schedule, now), *_cancels(schedule)]
    if schedule.draining is not None:
        return actions
    actions += [Freeze(job_id) for job_id in schedule.to_freeze]
    actions += [Thaw(job_id) for job_id in schedule.to_thaw]
    retries = [Requeue(job_id) for job_id in schedule.to_retry]
    if retries:  # they compete for the room with everyone else: who starts is decided once they are in the queue
        return [*actions, *retries]
    if not schedule.paused:
        actions += _launches(schedule)
    return actions


def _ends(schedule: Schedule, now: float) -> Iterator[Action]:
    """Who is asked to end, and who has been asked for long enough."""
    drain = schedule.draining
    asked = set()
    for job_id in schedule.due(now):
        asked.add(job_id)
        completing = schedule[job_id].state is State.COMPLETING
        yield Kill(job_id) if completing else Stop(job_id, Cause.TIME_LIMIT)
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


def _cancels(schedule: Schedule) -> Iterator[Action]:
    if schedule.draining is not None:
        reason = Reason(why=Why.DRAINED, detail=schedule.draining.detail)
        for job_id in schedule.pending:
            yield Cancel(job_id, schedule.doomed.get(job_id, reason))
        return
    for job_id, doom in schedule.doomed.items():
        yield Cancel(job_id, doom)


def _launches(schedule: Schedule) -> Iterator[Action]:
    """Greedy first fit: in order of priority, whoever fits into what the ones before have left.

    Room only shrinks while this goes on, so a lane whose first job does not fit is done with.
    """
    if not schedule.ready:
        return
    room = schedule.room()
    if room.exhausted:
        return
    launched: Counter[str] = Counter()
    heads = [
        (entries[0], 0, number, lane, entries)
        for number, (lane, entries) in enumerate(schedule.ready.lanes())
        if room.fits(lane.demand) and _tasks_allowed(schedule, lane) > 0
    ]
    heapq.heapify(heads)
    while heads and not room.exhausted:
        (_, job_id), index, number, lane, entries = heads[0]
        placement = room.place(lane.demand)
        if placement is None or _tasks_allowed(schedule, lane) <= launched[lane.array or ""]:
            heapq.heappop(heads)
            continue
        room.take(lane.demand, placement)
        if lane.array is not None:
            launched[lane.array] += 1
        yield Launch(job_id, placement)
        if index + 1 < len(entries):
            heapq.heapreplace(heads, (entries[index + 1], index + 1, number, lane, entries))
        else:
            heapq.heappop(heads)


def _tasks_allowed(schedule: Schedule, lane: Lane) -> float:
    """How many more tasks of the lane's array may start now."""
    if lane.array is None or lane.throttle is None:
        return float("inf")
    return lane.throttle - schedule.active_tasks(lane.array)


def explain(schedule: Schedule, job_id: str) -> Reason:
    """Why the PENDING job has not started. Structured; `reasons.render` makes a text of it."""
    job = schedule[job_id]
    if schedule.draining is not None:
        return Reason(why=Why.DRAINED, detail=schedule.draining.detail)
    if job_id in schedule.doomed:
        return schedule.doomed[job_id]
    edge = schedule.open_dependency(job)
    if edge is not None:
        return Reason(why=Why.DEPENDENCY, dependency=edge)
    if schedule.paused:
        return Reason(why=Why.PAUSED)
    if job.throttle is not None and schedule.active_tasks(job.array_id) >= job.throttle:
        return Reason(why=Why.ARRAY_THROTTLE, throttle=job.throttle)
    lack = schedule.shortage(job)
    if lack is not None:
        return Reason(why=Why.RESOURCES, shortage=lack)
    return Reason(why=Why.NEXT)
