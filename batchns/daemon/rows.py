"""One job as a line of a list: what `ps` shows, as JSON.

Of a waiting job only the reason changes by itself, so the rest of its line is made once and kept.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from batchns.core.job import Job
from batchns.model.lifecycle import State
from batchns.store.interface import Ending
from batchns.supervise.account import Account
from batchns.supervise.node import format_cpu_list

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def head(job: Job, account: Account, user: str) -> bytes:
    """The line up to its reason: for `with_reason`."""
    ledger = job.ledger
    placement = job.placement
    table: dict[str, Any] = {
        "id": job.id,
        "array_id": job.array_id,
        "index": job.index,
        "name": job.spec.name,
        "user": user,
        "queue": job.spec.queue,
        "state": job.state.value,
        "priority": job.priority,
        "attempt": job.attempt,
        "cpus": job.demand.cpus,
        "memory": job.bounds.memory,
        "time_limit": job.bounds.time_limit,
        "submitted": account.submitted,
        "started": account.started,
        "ended": ledger.since if account.result is not None else None,
        "since": ledger.since,
        "queued_seconds": ledger.queued,
        "running_seconds": ledger.running,
        "frozen_seconds": ledger.frozen,
        "cpu_list": format_cpu_list(placement.cpus) if placement and job.state is not State.PENDING else "",
        "exit_code": account.exit_code,
        "signal": account.signal,
    }
    return _encode(table).encode()[:-1] + b',"reason":'


def with_reason(line: bytes, reason: str) -> bytes:
    """The whole line."""
    return line + _as_json(reason) + b"}"


@lru_cache(maxsize=1024)
def _as_json(reason: str) -> bytes:
    """Many wait for the same."""
    return _encode(reason).encode()


def of_ending(ending: Ending) -> bytes:
    """The line of a job that only history knows."""
    result = ending.result
    array_id, _, index = ending.job_id.partition("_")
    table: dict[str, Any] = {
        "id": ending.job_id,
        "array_id": array_id,
        "index": int(index) if index else None,
        "name": result.name,
        "user": ending.user,
        "queue": ending.queue,
        "state": result.state.value,
        "reason": result.reason,
        "attempt": result.attempts,
        "cpus": ending.cpus,
        "memory": ending.memory,
        "time_limit": ending.time_limit,
        "submitted": ending.submitted,
        "started": ending.started,
        "ended": ending.ended,
        "since": ending.ended,
        "queued_seconds": result.queued_seconds,
        "running_seconds": result.running_seconds,
        "frozen_seconds": result.frozen_seconds,
        "exit_code": result.exit_code,
        "signal": result.signal,
    }
    return _encode(table).encode()
