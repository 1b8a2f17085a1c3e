"""Why a job waits, as data, and when it is expected to start: the same policy, run forward."""

from __future__ import annotations

from attrs import evolve

from batchns.core.job import Job
from batchns.core.outlook import STEPS, run_forward
from batchns.core.rank import Ranking
from batchns.core.reasons import Reason, Why
from batchns.core.schedule import Schedule
from batchns.model.lifecycle import State


def explain(schedule: Schedule, job_id: str, now: float | None = None) -> Reason:
    """Why the PENDING or frozen job does not run. Structured; `reasons.render` makes a text of it.

    `now`: also say who goes before it. Costs as much as there are kinds of waiting jobs.
    """
    job = schedule[job_id]
    if schedule.draining is not None:
        return Reason(why=Why.DRAINED, detail=schedule.draining.detail)
    if job_id in schedule.doomed:
        return schedule.doomed[job_id]
    if (job.held and job.state is State.PENDING) or (job.lends and job_id not in schedule.ready):
        return Reason(why=Why.HELD)
    edge = schedule.open_dependency(job)
    if edge is not None:
        return Reason(why=Why.DEPENDENCY, dependency=edge)
    if job.state is State.PENDING and job.not_before is not None:
        return Reason(why=Why.BEGIN, at=job.not_before)
    if schedule.paused:
        return Reason(why=Why.PAUSED)
    if schedule.yielding and schedule.config.queues[job.spec.queue].yields:
        return Reason(why=Why.YIELDING)
    if schedule.claims.under_way(job_id):
        return Reason(why=Why.CLEARING)
    return _competes(schedule, job, now)


def _competes(schedule: Schedule, job: Job, now: float | None) -> Reason:
    """Of a job that nothing keeps from competing."""
    demand = schedule.wanted(job)
    if not job.lends and job.throttle is not None and schedule.active_tasks(job.array_id) >= job.throttle:
        return Reason(why=Why.ARRAY_THROTTLE, throttle=job.throttle)
    reached = schedule.quotas.reached(job.spec.queue, job.user, demand.to_thaw() if job.lends else demand)
    if reached is not None:
        return Reason(why=Why.LIMIT, scope=reached.scope, shortage=reached.shortage)
    behind = "" if now is None else _first_before(schedule, job, now)
    lack = schedule.shortage(job)
    if lack is not None:
        return Reason(why=Why.RESOURCES, shortage=lack, behind=behind)
    return Reason(why=Why.BEHIND, behind=behind) if behind else Reason(why=Why.NEXT)


def _first_before(schedule: Schedule, job: Job, now: float) -> str:
    """The first in the queue, where that is another job."""
    ranking = Ranking(schedule, now)
    heads = ((ranking.of_entry(lane, lane.entries[0]), lane.entries[0][1]) for lane in schedule.ready.lanes())
    key, first = min(heads, default=((), job.id))
    return first if first != job.id and key < ranking.of(job) else ""


def forecast(schedule: Schedule, job_id: str, now: float, *, steps: int = STEPS) -> Reason:
    """`explain`, with the moment at which the job is expected to start, or to go on.

    Everybody is taken to run as long as expected. Nothing is changed: a copy of the schedule is run forward until the
    job runs, or for so many ends.
    """
    reason = explain(schedule, job_id, now)
    for moment, ahead in run_forward(schedule, now, steps):
        if ahead[job_id].state is State.RUNNING:
            return evolve(reason, expected=moment)
        if ahead[job_id].state.final:
            break
    return reason
