"""The jobs of a submission as rows: what is equal among them is written once.

A submission's text has its parts, one on a line: specs, demands, bounds and what else a job has; a job's row has the
numbers of its parts. So a task of an array costs some 30 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import attrs

from batchns.core.demand import Bounds, Demand
from batchns.core.job import Job
from batchns.model.job import JobSpec
from batchns.store.codec import BOUNDS, DEMAND, JOB, SPEC, Unreadable, bounds_text, demand_text, dump, load_table
from batchns.store.keys import array_of, first_key, key_of

JobRow = tuple[int, int, int, int, int, int]  # key, numbers of spec, demand, bounds and rest, last part of the order

_REST = attrgetter(
    *(f.name for f in attrs.fields(Job) if f.name not in {"id", "index", "spec", "demand", "bounds", "order"})
)


def encode_jobs(jobs: Sequence[Job]) -> tuple[str, list[JobRow]]:
    """(the parts' text, a row for each job)."""
    parts: dict[str, int] = {}
    specs: dict[int, int] = {}  # by identity: the tasks of an array share theirs
    rows: list[JobRow] = []
    known: Any = None
    rest = 0
    for job in jobs:
        spec = specs.get(id(job.spec))
        if spec is None:
            spec = specs[id(job.spec)] = _number(parts, SPEC.encode(job.spec))
        order = job.order
        this = _REST(job), order[:3]
        if this != known:
            known, rest = this, _number(parts, dump({**JOB.table(job), "order": order[:3]}))
        demand, bounds = _number(parts, demand_text(job.demand)), _number(parts, bounds_text(job.bounds))
        rows.append((key_of(job.id), spec, demand, bounds, rest, order[3]))
    return "\n".join(parts), rows


def _number(parts: dict[str, int], text: str) -> int:
    return parts.setdefault(text, len(parts))


def needed_arrays(jobs: Iterable[Job]) -> set[tuple[int, int]]:
    """(array, array that it depends on), of all edges that point at jobs."""
    found = {(int(job.array_id), int(other)) for job in jobs for edge in job.edges for other in edge.arrays}
    return {(array, other) for array, other in found if array != other}


class Reader:
    """Makes jobs of rows again. What has equal texts is one object, for as long as the reader lives."""

    def __init__(self) -> None:
        self._specs: dict[str, JobSpec] = {}
        self._demands: dict[str, Demand] = {}
        self._bounds: dict[str, Bounds] = {}
        self._rests: dict[str, tuple[dict[str, Any], list[int]]] = {}

    def job(self, parts: Sequence[str], row: JobRow) -> Job:
        """`parts`: the lines of the submission's text. Raises Unreadable."""
        key, spec, demand, bounds, rest, last = row
        try:
            texts = parts[spec], parts[demand], parts[bounds], parts[rest]
        except IndexError:
            raise Unreadable(f"a part of {len(parts)} lacks") from None
        fields, order = self._rest(texts[3])
        array = array_of(key)
        index = key - first_key(array) - 1
        return JOB.build(
            fields,
            id=f"{array}" if index < 0 else f"{array}_{index}",
            array_id=str(array),
            index=None if index < 0 else index,
            spec=_read(self._specs, SPEC.decode, texts[0]),
            demand=_read(self._demands, DEMAND.decode, texts[1]),
            bounds=_read(self._bounds, BOUNDS.decode, texts[2]),
            order=(*order, last),
        )

    def _rest(self, text: str) -> tuple[dict[str, Any], list[int]]:
        found = self._rests.get(text)
        if found is None:
            table = load_table(text)
            order = table.pop("order", None)
            if not (isinstance(order, list) and len(order) == 3):
                raise Unreadable("a job without its order")
            found = self._rests[text] = JOB.fields(table), order
        return found


def _read(known: dict[str, Any], decode: Any, text: str) -> Any:
    value = known.get(text)
    if value is None:
        value = known[text] = decode(text)
    return value
