"""The next attempt of a job: later each time, and with more memory where that was lacking."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from batchns.core.demand import PAGE
from batchns.core.job import Job
from batchns.model.lifecycle import State

_DOUBLINGS = 16  # of the delay: longer than anyone waits


def next_attempt(job: Job, most: int, now: float) -> dict[str, Any]:
    """What changes in the job that goes back to the queue at `now`. `most`: bytes that a job of its queue may have."""
    changes: dict[str, Any] = {
        "attempt": job.attempt + 1,
        "warned": False,
        "freezes": 0,
        "unfreezable": False,
        "lent": 0.0,
    }
    tries = job.attempt - job.requeues
    if job.spec.retry_delay and tries > 0:
        changes["not_before"] = now + job.spec.retry_delay * 2 ** min(tries - 1, _DOUBLINGS)
    if job.state is State.OUT_OF_MEMORY and job.spec.retry_memory > 1:
        memory = min(int(job.bounds.memory * job.spec.retry_memory), max(most, job.bounds.memory))
        memory -= memory % PAGE
        changes["demand"] = evolve(job.demand, memory=memory)
        changes["bounds"] = evolve(job.bounds, memory=memory)
    return changes
