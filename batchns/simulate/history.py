"""The machine's own past as a workload: what would another policy have done with these jobs?

A record is a dictionary with the keys job_id, name, user, queue, submitted, started, ended (seconds since the epoch),
running_seconds, cpus, memory (bytes) and time_limit (seconds, or None). Other keys are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from batchns.core.demand import Demand
from batchns.core.reasons import FULL
from batchns.errors import UserError
from batchns.simulate.workload import Workload

Record = Mapping[str, Any]
_Row = tuple[str, float, float, float | None, Demand, str, str, str]
_NEEDED = ("job_id", "submitted", "running_seconds", "cpus")


def parse_records(lines: Iterable[str], file: str) -> Iterator[Record]:
    """The records of a file with a JSON object on each line.

    A last line that was cut off is left out: whoever writes may have been killed in it.

    Raises:
        UserError: a line is none, as "file:line: what - what to do".
    """
    broken: UserError | None = None
    for number, line in enumerate(lines, 1):
        if broken is not None:
            raise broken
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            broken = UserError(f"{file}:{number}: no JSON object", "delete this line")
            if line.endswith("\n"):
                raise broken from None
            continue
        if not isinstance(record, dict) or not all(key in record for key in _NEEDED):
            raise UserError(f"{file}:{number}: no record of a job: needs {', '.join(_NEEDED)}", "delete this line")
        yield record


def read_history(records: Iterable[Record], cpus: int, memory: int | None = None) -> Workload:
    """The jobs that ran, for a machine of `cpus` and `memory` bytes (None: not counted).

    What is larger than the machine takes all of it: the machine may have been larger then.

    Raises:
        UserError: a record holds something else than numbers, or none is of a job that ran.
    """
    rows: list[_Row] = []
    dropped = 0
    for record in records:
        try:
            submitted, running = float(record["submitted"]), float(record["running_seconds"] or 0)
            limit = None if record.get("time_limit") is None else float(record["time_limit"])
            demand = _demand(float(record["cpus"]), int(record.get("memory") or 0), cpus, memory)
        except (TypeError, ValueError, KeyError, OverflowError):
            hint = "correct or delete this record"
            raise UserError(f"history: job {record.get('job_id')}: a value is no number", hint) from None
        if record.get("started", submitted) is None or not 0 < running < 1e15 or not abs(submitted) < 1e15:
            dropped += 1
            continue
        user, queue, name = (str(record.get(key) or "") for key in ("user", "queue", "name"))
        rows.append((str(record["job_id"]), submitted, running, limit, demand, user, queue, name))
    if not rows:
        raise UserError("history: no job has run yet", "give a trace in the Standard Workload Format")
    rows.sort(key=lambda row: row[1])
    ids, submits, runs, limits, demands, users, queues, names = zip(*rows, strict=True)
    return Workload(
        cpus=cpus,
        memory=memory,
        ids=ids,
        submitted=submits,
        running=runs,
        limit=limits,
        demand=demands,
        user=users,
        queue=queues,
        name=names,
        dropped=dropped,
    )


def _demand(asked: float, bytes_asked: int, cpus: int, memory: int | None) -> Demand:
    """Below one CPU: a share of a common one."""
    if asked < 0 or bytes_asked < 0:
        raise ValueError(asked)
    counted = 0 if memory is None else min(bytes_asked, memory)
    if asked < 1:
        return Demand(share=max(1, round(asked * FULL)), memory=counted)
    return Demand(whole=min(round(asked), cpus), memory=counted)
