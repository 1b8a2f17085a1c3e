"""The same policy, run forward: when each job that waits is expected to start, if all goes as expected."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from attrs import frozen

from batchns.core.actions import Launch
from batchns.core.decide import decide
from batchns.core.job import Job
from batchns.core.perform import perform
from batchns.core.schedule import Schedule
from batchns.model.lifecycle import Event, State

STEPS = 2000  # moments that are looked ahead
_CLOSE = 1e-9  # seconds: what ends so close together ends together


@frozen
class Expected:
    """Moments of the schedule's clock: the job's first start, and its end; inf: not within what was looked at."""

    start: float = inf
    end: float = inf


def outlook(
    schedule: Schedule, now: float, *, steps: int = STEPS, enough: Callable[[Schedule], bool] = lambda ahead: False
) -> dict[str, Expected]:
    """What is expected of each job, by id. Everybody runs for its estimate, or its time limit, and ends well.

    Nothing is changed: a copy is run forward until nothing is left, for so many moments, or until it is `enough`.
    """
    ahead = schedule.copy()
    starts: dict[str, float] = {}
    ends: dict[str, float] = {}
    moment = now
    for _ in range(steps):
        while actions := decide(ahead, moment):
            for action in actions:
                perform(ahead, action, moment)
                if isinstance(action, Launch):
                    starts.setdefault(action.job, moment)
            for job in [ahead[job_id] for job_id in ahead.active]:
                if job.state is State.COMPLETING:
                    ahead.finish(job.id, Event.CANCEL, moment, retry=False)
        if enough(ahead):
            break
        moment, over = _next(ahead, moment)
        if moment == inf:
            break
        for job_id in over:
            ahead.finish(job_id, Event.EXITED_OK, moment, retry=False)
            ends[job_id] = moment
    return {job_id: Expected(start, ends.get(job_id, inf)) for job_id, start in starts.items()}


def end_of(job: Job, now: float) -> float:
    """When the running job is expected to be over."""
    return now + job.expected_total(now) - job.done(now) if job.state is State.RUNNING else inf


def _next(schedule: Schedule, now: float) -> tuple[float, list[str]]:
    """The next moment at which something happens, and the jobs that are over then."""
    due = schedule.next_deadline()
    ends = {job.id: end_of(job, now) for job in schedule.running}
    later = [moment for moment in (*ends.values(), inf if due is None else due) if moment > now]
    moment = min(later, default=inf)
    return moment, [job_id for job_id, end in ends.items() if end <= moment + _CLOSE]
