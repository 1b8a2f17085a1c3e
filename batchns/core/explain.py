"""Why a job waits, as data, and when it is expected to start: the same policy, run forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from attrs import evolve

from batchns.core.job import Job
from batchns.core.outlook import STEPS, run_forward
from batchns.core.rank import Key, Ranking
from batchns.core.ready import LaneKey
from batchns.core.reasons import Reason, Why
from batchns.core.schedule import Schedule
from batchns.model.job import Dependency
from batchns.model.lifecycle import State


def explain(schedule: Schedule, job_id: str, now: float | None = None) -> Reason:
    """Why the PENDING or frozen job does not run. Structured; `reasons.render` makes a text of it.

    `now`: also say who goes before it. Costs as much as there are kinds of waiting jobs.
    """
    return _Explaining(schedule, now).of(schedule[job_id])


def reasons_of(schedule: Schedule, job_ids: Iterable[str], now: float | None = None) -> dict[str, Reason]:
    """`explain` of many PENDING or frozen jobs, at the cost of one and a look at each."""
    explaining = _Explaining(schedule, now)
    return {job_id: explaining.of(schedule[job_id]) for job_id in job_ids}


class _Explaining:
    """At one moment. Jobs of one lane lack the same, and everybody is behind the same one."""

    def __init__(self, schedule: Schedule, now: float | None) -> None:
        self._schedule = schedule
        self._now = now
        self._first: tuple[Key, str] | None = None  # the rank of the first in the queue, and its id
        self._by_lane: dict[LaneKey, Reason] = {}

    def of(self, job: Job) -> Reason:
        schedule, pending = self._schedule, job.state is State.PENDING
        if schedule.draining is not None:
            return Reason(why=Why.DRAINED, detail=schedule.draining.detail)
        if job.id in schedule.doomed:
            return schedule.doomed[job.id]
        if job.id in schedule.unfit:
            return schedule.unfit[job.id]
        key = schedule.ready.key_of(job.id)
        if job.lends and key is None:
            return Reason(why=Why.FROZEN, detail=job.id)
        if job.held and pending:
            return Reason(why=Why.HELD)
        edge = schedule.open_dependency(job)
        if edge is not None:
            return Reason(why=Why.DEPENDENCY, dependency=Dependency(edge.condition, edge.name))
        if pending and job.not_before is not None:
            return Reason(why=Why.BEGIN, at=job.not_before)
        if job.trouble:
            return Reason(why=Why.THAW, detail=job.trouble)
        if schedule.paused:
            return Reason(why=Why.PAUSED)
        if schedule.closed is not None and pending:
            return Reason(why=Why.CLOSED, detail=schedule.closed)
        if schedule.yielding and schedule.queue(job.spec.queue).yields:
            return Reason(why=Why.YIELDING)
        if schedule.claims.under_way(job.id):
            return Reason(why=Why.CLEARING)
        return self._competes(job, key)

    def _competes(self, job: Job, key: LaneKey | None) -> Reason:
        """Of a job that nothing keeps from competing."""
        if key is None or self._is_first(job):
            return _lacks(self._schedule, job, "")
        reason = self._by_lane.get(key)
        if reason is None:
            behind = "" if self._first is None else self._first[1]
            reason = self._by_lane[key] = _lacks(self._schedule, job, behind)
        return reason

    def _is_first(self, job: Job) -> bool:
        """Whether nobody goes before it, or that is not asked."""
        if self._now is None:
            return False
        if self._first is None:
            ranking, schedule = Ranking(self._schedule, self._now), self._schedule
            heads = [(lane, lane.entries[0]) for lane in schedule.ready.lanes()]
            ranks = [(ranking.of_entry(lane, entry), entry[1]) for lane, entry in heads]
            ranks += [(ranking.of(one), one.id) for one in schedule.lending if one.id in schedule.ready]
            self._first = min(ranks, default=((), ""))
        return self._first[1] == job.id


def _lacks(schedule: Schedule, job: Job, behind: str) -> Reason:
    demand = schedule.wanted(job)
    if not job.lends and job.throttle is not None and schedule.active_tasks(job.array_id) >= job.throttle:
        return Reason(why=Why.ARRAY_THROTTLE, throttle=job.throttle)
    reached = schedule.quotas.reached(job.spec.queue, job.user, demand.to_thaw() if job.lends else demand)
    if reached is not None:
        return Reason(why=Why.LIMIT, scope=reached.scope, shortage=reached.shortage)
    lack = schedule.shortage(job)
    if lack is not None:
        return Reason(why=Why.RESOURCES, shortage=lack, behind=behind)
    return Reason(why=Why.BEHIND, behind=behind) if behind else Reason(why=Why.NEXT)


def forecast(
    schedule: Schedule,
    job_id: str,
    now: float,
    *,
    steps: int = STEPS,
    enough: Callable[[], bool] = lambda: False,
    own: bool = False,
) -> Reason:
    """`explain`, with the moment at which the job is expected to start, or to go on.

    Everybody is taken to run as long as expected. Nothing is changed: a copy of the schedule is run forward until the
    job runs, or for so many ends, or until it is `enough`: then it says before which moment it does not. `own`: it is a
    copy already, and nobody else's.
    """
    reason = explain(schedule, job_id, now)
    for number, (moment, ahead) in enumerate(run_forward(schedule, now, steps, own=own), 1):
        if ahead[job_id].state is State.RUNNING:
            return evolve(reason, expected=moment)
        if ahead[job_id].state.final:
            break
        if number == steps or enough():
            return evolve(reason, not_before=moment)
    return reason
