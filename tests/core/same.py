"""Whether two schedules are the same, for all that is decided from here on."""

from __future__ import annotations

from typing import Any

from attrs import fields

from batchns.core.job import Job
from batchns.core.schedule import Schedule


def differences(one: Schedule, other: Schedule) -> list[str]:
    """What differs, apart from jobs that are over. Empty: both will decide the same."""
    left, right = _view(one), _view(other)
    found = [f"{name}: {left[name]!r} != {right[name]!r}" for name in left if left[name] != right[name]]
    for job in left.pop("jobs"):
        twin = next((one for one in other if one.id == job.id), None)
        found += [
            f"{job.id}.{slot.name}: {getattr(job, slot.name)!r} != {getattr(twin, slot.name, None)!r}"
            for slot in fields(Job)
            if getattr(job, slot.name) != getattr(twin, slot.name, None)
        ]
    return sorted(found, key=len)


def _view(schedule: Schedule) -> dict[str, Any]:
    room, dependencies = schedule._room, schedule._dependencies
    lanes = {lane.key: (lane.entries, lane.spans) for lane in schedule.ready.lanes()}
    streams = {stream: [order for order, _, _ in heads] for stream, heads in schedule.ready.streams()}
    held = {key: held for key, held in schedule.quotas._held.items() if held.jobs}
    uses = {user: (use.used, use.since, use.held) for user, use in schedule.shares._uses.items() if use.used}
    return {
        "capacity": schedule.capacity,
        "config": schedule.config,
        "jobs": [job for job in schedule if not schedule.over(job.id)],
        "load": room._load,
        "room": (room._idle, room._slack, room.memory, room.egress, room.ingress, room.jobs, room.named, room._units),
        "quotas": held,
        "shares": uses,
        "lanes": lanes,
        "streams": streams,
        "unfit": schedule.unfit,
        "claims": {waiting: list(asked) for waiting, asked in schedule.claims._open.items()},
        "agendas": [
            agenda._sorted
            for agenda in (
                schedule._due,
                schedule._ends,
                schedule._outlived,
                schedule._delayed,
                schedule._too_late,
            )
        ],
        "orders": [
            list(book)
            for book in (
                schedule._pending,
                schedule._active,
                schedule._lending,
                schedule.squeezed,
                schedule._to_retry,
                schedule._to_freeze.items(),
                schedule._to_thaw,
                schedule._asked_to_freeze,
                schedule._doomed.items(),
            )
        ],
        "counts": (schedule._sharing, schedule._array_active),
        "node": (schedule.closed, schedule.draining, schedule.paused, schedule.yielding),
        "edges": dependencies._open,
        "lines": {key: list(name.line.items()) for key, name in dependencies._names.items() if name.line},
    }
