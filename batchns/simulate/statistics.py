"""What a simulation comes to, in the measures that the literature compares policies by.

Over all jobs that ran. The wait of a job is all of its time in the system in which it did not run: queued, frozen, and
in attempts that were lost. Its bounded slowdown is max(1, (wait + run) / max(run, 10 s)) (Feitelson et al., "Theory and
Practice in Parallel Job Scheduling", 1997). Percentiles are values that occurred (nearest rank).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from attrs import frozen

from batchns.simulate.engine import Outcome

SHORTEST_RUN = 10.0  # seconds; of shorter jobs the slowdown says nothing


@frozen(kw_only=True)
class Statistics:
    """Seconds; `utilization` is a share of 0 to 1."""

    jobs: int
    cancelled: int
    wait_mean: float
    wait_p50: float
    wait_p90: float
    wait_max: float
    bounded_slowdown_mean: float
    bounded_slowdown_p99: float
    utilization: float  # used CPU seconds, of those that the machine had between first arrival and last end
    makespan: float
    preemptions: int  # freezes and requeues
    frozen_mean: float
    frozen_max: float


def summarise(outcome: Outcome) -> Statistics:
    """The figures of one simulation; of one in which no job ran, zeros."""
    workload, started, ended, ran = outcome.workload, outcome.started, outcome.ended, outcome.ran
    submitted, demand = workload.submitted, workload.demand
    numbers = [number for number, start in enumerate(started) if start == start]
    count = len(numbers)
    waits = sorted(ended[n] - submitted[n] - ran[n] for n in numbers)
    every = slowdowns(outcome)
    slowed = sorted(every[n] for n in numbers)
    makespan = max((ended[n] for n in numbers), default=0.0) - min((submitted[n] for n in numbers), default=0.0)
    used = sum(ran[n] * demand[n].cpus for n in numbers) + outcome.lost
    return Statistics(
        jobs=len(workload),
        cancelled=len(workload) - count,
        wait_mean=sum(waits) / max(count, 1),
        wait_p50=percentile(waits, 50),
        wait_p90=percentile(waits, 90),
        wait_max=percentile(waits, 100),
        bounded_slowdown_mean=sum(slowed) / max(count, 1),
        bounded_slowdown_p99=percentile(slowed, 99),
        utilization=used / (workload.cpus * makespan) if makespan else 0.0,
        makespan=makespan,
        preemptions=outcome.preemptions,
        frozen_mean=sum(outcome.frozen[n] for n in numbers) / max(count, 1),
        frozen_max=max((outcome.frozen[n] for n in numbers), default=0.0),
    )


def slowdowns(outcome: Outcome) -> list[float]:
    """The bounded slowdown of each job of the workload."""
    columns = zip(outcome.ended, outcome.workload.submitted, outcome.ran, strict=True)
    return [max(1.0, (end - submit) / max(ran, SHORTEST_RUN)) for end, submit, ran in columns]


def percentile(ascending: Sequence[float], rank: float) -> float:
    """The smallest value that `rank` per cent are not larger than; 0 of nothing."""
    return ascending[max(0, ceil(len(ascending) * rank / 100) - 1)] if ascending else 0.0
