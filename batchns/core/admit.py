"""From job specs to jobs in the queue: everything impossible is refused at once, before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import frozen

from batchns.core.demand import Bounds, Demand, refusal, resolve
from batchns.core.job import Job, Ledger
from batchns.core.node import NodeCapacity
from batchns.core.placement import Room
from batchns.core.resolve import Known, check_dependencies, resolve_edges
from batchns.errors import UserError
from batchns.model.config import Config
from batchns.model.job import JobSpec


@frozen
class Admitted:
    """A spec that fits this node, with its defaults filled in."""

    spec: JobSpec
    demand: Demand
    bounds: Bounds


def admit(
    specs: Sequence[JobSpec], capacity: NodeCapacity, config: Config, known: Known | None = None
) -> list[Admitted]:
    """Check every job against the node and its dependencies against each other, and against `known` earlier jobs.

    Raises:
        UserError: all refusals, one per line, each with the job's place, name and the numbers.
    """
    admitted: list[Admitted] = []
    problems: list[tuple[JobSpec, UserError]] = check_dependencies(specs, known)
    empty = Room(capacity)
    for spec in specs:
        try:
            demand, bounds = resolve(spec, capacity, config)
        except UserError as error:
            problems.append((spec, error))
            continue
        lack = empty.shortage(demand)
        if lack is not None:
            problems.append((spec, refusal(lack)))
        admitted.append(Admitted(spec, demand, bounds))
    if problems:
        raise UserError("\n".join(f"{_where(spec)}{spec.name}: {error}" for spec, error in problems))
    return admitted


Estimator = Callable[[str, str, float | None], float | None]  # (user, job name, time limit) to seconds; None: unknown


def expand(
    admitted: Sequence[Admitted],
    first_id: int,
    config: Config,
    now: float,
    *,
    user: str = "",
    wall: float = 0.0,
    estimator: Estimator | None = None,
    known: Known | None = None,
) -> list[Job]:
    """The jobs, PENDING since `now`. Spec number n takes id `first_id` + n; an array's tasks are "ID_INDEX".

    `wall`: `now` in seconds since the epoch, for `begin` and `deadline`. `estimator`: what earlier jobs took. `known`:
    as for `admit`; what it knows must not have been forgotten before the jobs are submitted.
    """
    jobs: list[Job] = []
    here: dict[str, list[str]] = {}
    for number, entry in enumerate(admitted):
        here.setdefault(entry.spec.name, []).append(str(first_id + number))
    demands: dict[Demand, Demand] = {}  # equal demands are one object: lanes compare and hash faster
    bounds: dict[Bounds, Bounds] = {}  # and there are many jobs
    for number, entry in enumerate(admitted):
        spec, array_id = entry.spec, str(first_id + number)
        queue = config.queues[spec.queue]
        span = config.schedule.assume if entry.bounds.time_limit is None else entry.bounds.time_limit
        learned = None
        if estimator is not None and config.schedule.learn:
            learned = estimator(user, spec.name, entry.bounds.time_limit)
        if entry.bounds.time_limit is None and learned is not None:
            span = max(span, learned)
        edges = resolve_edges(spec, here, known) if spec.dependency else ()
        for index in spec.array.indices if spec.array else (None,):
            jobs.append(
                Job(
                    id=array_id if index is None else f"{array_id}_{index}",
                    array_id=array_id,
                    index=index,
                    spec=spec,
                    demand=demands.setdefault(entry.demand, entry.demand),
                    bounds=bounds.setdefault(entry.bounds, entry.bounds),
                    order=(-queue.priority, -spec.priority, first_id + number, index or 0),
                    ledger=Ledger(now),
                    user=user,
                    mode=queue.preempt_mode if spec.preempt.mode is None else spec.preempt.mode,
                    estimate=span if learned is None else min(span, max(learned, 1.0)),
                    span=span,
                    not_before=_begin(spec, now, wall),
                    deadline=_deadline(spec, now, wall),
                    held=spec.hold,
                    edges=edges,
                )
            )
    return jobs


def _begin(spec: JobSpec, now: float, wall: float) -> float | None:
    """The moment from which it competes; None: at once."""
    moments = [] if spec.begin is None else [now + spec.begin - wall]
    moments += [] if spec.begin_after is None else [now + spec.begin_after]
    return max((moment for moment in moments if moment > now), default=None)


def _deadline(spec: JobSpec, now: float, wall: float) -> float | None:
    moments = [] if spec.deadline is None else [now + spec.deadline - wall]
    moments += [] if spec.deadline_after is None else [now + spec.deadline_after]
    return min(moments, default=None)


def _where(spec: JobSpec) -> str:
    return f"{spec.source}: " if spec.source else ""
