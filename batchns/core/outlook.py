"""The same policy, run forward: when each job that waits is expected to start, if all goes as expected."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from attrs import frozen

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


def outlook(schedule: Schedule, now: float, *, steps: int = STEPS) -> dict[str, Expected]:
    """What is expected of each job that runs now, or will have started, by id."""
    starts: dict[str, float] = {}
    ends: dict[str, float] = {}
    for moment, ahead in run_forward(schedule, now, steps):
        active = ahead.active
        for job_id in starts.keys() - ends.keys() - set(active):
            ends[job_id] = moment
        for job_id in active:
            starts.setdefault(job_id, moment)
    return {job_id: Expected(start, ends.get(job_id, inf)) for job_id, start in starts.items()}


def run_forward(
    schedule: Schedule, now: float, steps: int = STEPS, *, own: bool = False
) -> Iterator[tuple[float, Schedule]]:
    """Each moment at which something happens, from `now` on and for so many, with the schedule as it is then.

    Everybody runs for its estimate, or its time limit, and ends well; whatever is asked of the machine is done at once.
    A copy is run forward, the same one all the time: `schedule` itself does not change. `own`: it is a copy already,
    and nobody else's.
    """
    ahead = schedule if own else schedule.copy()
    _arrive(ahead, now)
    for _ in range(steps):
        while actions := decide(ahead, now):
            for action in actions:
                perform(ahead, action, now)
            _arrive(ahead, now)
        yield now, ahead
        now, over = _next(ahead, now)
        if now == inf:
            return
        for job_id in over:
            ahead.finish(job_id, Event.EXITED_OK, now, retry=False)


def _arrive(ahead: Schedule, now: float) -> None:
    """What is under way is taken to be done: starts, freezes, thaws, and ends that were asked for."""
    for job_id in ahead.active:
        job = ahead[job_id]
        if job.state is State.STARTING:
            ahead.started(job_id, now)
        elif job.state is State.SUSPENDING:
            ahead.frozen(job_id, now, confirmed=True)
        elif job.state is State.SUSPENDED and not job.lends and not ahead.paused and job_id not in ahead.to_thaw:
            ahead.thawed(job_id, now)
        elif job.state is State.COMPLETING:
            ahead.finish(job_id, Event.CANCEL, now, retry=False)
    for job_id in tuple(ahead.squeezed):
        ahead.reclaimed(job_id, None, now)


def _next(schedule: Schedule, now: float) -> tuple[float, list[str]]:
    """The next moment at which something happens, and the jobs that are over then."""
    due = schedule.next_deadline(now)
    ends = {job.id: _end(job, now) for job in schedule.running}
    later = [moment for moment in (*ends.values(), inf if due is None else due) if moment > now]
    moment = min(later, default=inf)
    return moment, [job_id for job_id, end in ends.items() if end <= moment + _CLOSE]


def _end(job: Job, now: float) -> float:
    """When the running job is expected to be over."""
    return now + job.expected_total(now) - job.done(now) if job.state is State.RUNNING else inf
