"""Where the simulation makes the core's objects: the one place that knows how a schedule and a job are constructed."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from batchns.core.demand import Bounds
from batchns.core.estimates import Estimates
from batchns.core.job import Job, Ledger
from batchns.core.node import NodeCapacity
from batchns.core.schedule import Schedule
from batchns.model.config import Config
from batchns.model.job import JobSpec
from batchns.simulate.workload import Workload

_UNCOUNTED = 1 << 62  # bytes: more than all jobs of any trace ask for
_QUEUE = "normal"


def make_schedule(workload: Workload, config: Config) -> Schedule:
    """An empty schedule for the workload's machine, under the policy of `config`."""
    memory = _UNCOUNTED if workload.memory is None else workload.memory
    return Schedule(NodeCapacity(cpus=tuple(range(workload.cpus)), memory=memory), config)


def next_wake(schedule: Schedule) -> float:
    """The next moment at which the passing of time alone calls for a decision."""
    moment = schedule.next_deadline()
    return inf if moment is None else moment


def job_maker(workload: Workload, config: Config, known: Estimates) -> Callable[[int], Job]:
    """A function from a job's number in the workload to the core's job, PENDING since it was submitted.

    Its id is the number. Specs and bounds are shared between jobs that are alike: making a job takes microseconds.
    `known`: what earlier jobs of the workload took.
    """
    users, learns, assumed = workload.user, config.schedule.learn, config.schedule.assume
    submitted, limits, demands = workload.submitted, workload.limit, workload.demand
    names, queues = workload.name, workload.queue
    known_queues, fallback = config.queues, _QUEUE if _QUEUE in config.queues else next(iter(config.queues))
    known_modes = {name: queue.preempt_mode for name, queue in known_queues.items()}
    specs: dict[tuple[str, str], tuple[JobSpec, int]] = {}
    bounds: dict[float | None, Bounds] = {}

    def shape(name: str, queue: str) -> tuple[JobSpec, int]:
        """The spec and its rank: of a queue that is no more, the fallback's."""
        queue = queue if queue in known_queues else fallback
        spec = JobSpec(name=name, command=("true",), cwd="/", queue=queue)
        return spec, -known_queues[queue].priority

    def make(number: int) -> Job:
        key = (names[number] if names else "job", queues[number] if queues else fallback)
        found = specs.get(key)
        if found is None:
            found = specs[key] = shape(*key)
        spec, rank = found
        limit = limits[number]
        span = assumed if limit is None else limit
        learned = known.expected(users[number], key[0], limit) if learns else None
        bound = bounds.get(limit)
        if bound is None:
            bound = bounds[limit] = _bounds(limit)
        job_id = str(number)
        return Job(
            id=job_id,
            array_id=job_id,
            index=None,
            spec=spec,
            demand=demands[number],
            bounds=bound,
            order=(rank, -spec.priority, number, 0),
            ledger=Ledger(submitted[number]),
            user=users[number],
            mode=known_modes[spec.queue],
            estimate=span if learned is None else max(1.0, min(learned, span)),
            span=span,
        )

    return make


def _bounds(limit: float | None) -> Bounds:
    """Bounds that matter to the policy; nothing else is enforced in a simulation."""
    return Bounds(
        cpu_shares=1024,
        memory=0,
        pids=0,
        scratch=0,
        blkio_weight=None,
        egress=None,
        ingress=None,
        time_limit=limit,
        grace_time=0.0,
        strict=False,
    )
