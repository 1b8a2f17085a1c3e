"""FCFS and EASY straight from the textbook: slow, short, and independent of batchns.

It counts free processors only. EASY (Lifka 1995; Mu'alem and Feitelson 2001): the first job that does not fit gets a
reservation at the moment when, by the estimates, enough processors are free (the shadow time); another job may start
now if it ends by then, or takes no more than the processors that are to spare at that moment. Conservative: at every
moment all waiting jobs are planned anew in their order, each as early as those before it allow; who is planned for now
starts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Asked(NamedTuple):
    """Seconds, processors. `run` is at most `estimate`."""

    submit: float
    run: float
    processors: int
    estimate: float


class Running(NamedTuple):
    expected: float  # the end by its estimate
    end: float
    processors: int


def simulate(jobs: Sequence[Asked], processors: int, policy: str) -> list[float]:
    """The start of each job under "fcfs", "easy", "easy-sjbf" (the shortest is backfilled first) or "conservative"."""
    starts = [math.nan] * len(jobs)
    coming = sorted(range(len(jobs)), key=lambda number: jobs[number].submit)
    queue: list[int] = []
    running: list[Running] = []
    free = processors

    def start(number: int, now: float) -> None:
        nonlocal free
        job = jobs[number]
        starts[number] = now
        free -= job.processors
        running.append(Running(now + job.estimate, now + job.run, job.processors))
        queue.remove(number)

    while coming or running:
        now = min([job.end for job in running] + [jobs[number].submit for number in coming[:1]])
        free += sum(job.processors for job in running if job.end <= now)
        running[:] = [job for job in running if job.end > now]
        while coming and jobs[coming[0]].submit <= now:
            queue.append(coming.pop(0))
        if policy == "conservative":
            for number in _planned_for(now, [(number, jobs[number]) for number in queue], processors, running):
                start(number, now)
            continue
        while queue and jobs[queue[0]].processors <= free:
            start(queue[0], now)
        if not queue or policy == "fcfs":
            continue
        shadow, spare = _reservation(jobs[queue[0]].processors, free, running)
        candidates = queue[1:]
        if policy == "easy-sjbf":
            candidates.sort(key=lambda number: jobs[number].estimate)
        for number in candidates:
            job = jobs[number]
            in_time = now + job.estimate <= shadow
            if job.processors <= free and (in_time or job.processors <= spare):
                start(number, now)
                if not in_time:
                    spare -= job.processors
    return starts


def _reservation(needed: int, free: int, running: Sequence[Running]) -> tuple[float, int]:
    """When `needed` processors will be free by the estimates, and how many more than these are free then."""
    shadow = math.inf
    for job in sorted(running):
        if free >= needed and job.expected > shadow:
            break
        free += job.processors
        shadow = job.expected
    return shadow, free - needed


def _planned_for(
    now: float, queue: Sequence[tuple[int, Asked]], processors: int, running: Sequence[Running]
) -> list[int]:
    """Which of the waiting jobs start now when each is planned as early as the ones before it allow."""
    taken = [(now, job.expected, job.processors) for job in running]
    found = []
    for number, job in queue:
        for begin in sorted({now, *(end for _, end, _ in taken)}):
            moments = [begin, *(first for first, _, _ in taken if begin < first < begin + job.estimate)]
            if all(
                job.processors + sum(count for first, end, count in taken if first <= moment < end) <= processors
                for moment in moments
            ):
                break
        taken.append((begin, begin + job.estimate, job.processors))
        if begin == now:
            found.append(number)
    return found


def statistics(jobs: Sequence[Asked], processors: int, starts: Sequence[float]) -> tuple[float, float, float]:
    """Mean wait in seconds, mean bounded slowdown, utilization."""
    waits = [start - job.submit for job, start in zip(jobs, starts, strict=True)]
    slowdowns = [max(1, (wait + job.run) / max(job.run, 10)) for job, wait in zip(jobs, waits, strict=True)]
    span = max(start + job.run for job, start in zip(jobs, starts, strict=True)) - min(job.submit for job in jobs)
    work = sum(job.run * job.processors for job in jobs)
    return sum(waits) / len(jobs), sum(slowdowns) / len(jobs), work / (processors * span)
