"""The Standard Workload Format: one job a line, 18 fields, comments after ";".

Source: Chapin et al., "Benchmarks and Standards for the Evaluation of Parallel Job Schedulers" (1999), and
https://www.cs.huji.ac.il/labs/parallel/workload/swf.html. Read of a job: its number (field 1), submit time (2), run
time (4), allocated processors (5), else requested ones (8), requested time (9), else the run time, and user (12).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

from batchns.core.demand import Demand
from batchns.errors import UserError
from batchns.simulate.workload import Workload
from batchns.units import quote

FIELDS = 18
_MOST = 1e15  # seconds; what is larger, infinite or no number is a mistake
_HEADER = re.compile(r";\s*(MaxProcs|MaxNodes)\s*:\s*(\d+)", re.IGNORECASE)
_Row = tuple[str, float, float, int, float, str]  # id, submitted, running, processors, estimate, user


def read_swf(lines: Iterable[str], file: str, cpus: int | None = None) -> Workload:
    """The jobs of a trace, for a machine of `cpus` (None: the trace's MaxProcs, else its MaxNodes).

    Jobs without run time or processors are left out; a job wider than the machine takes all of it.

    Raises:
        UserError: a line is no job ("file:line: what - what to do"), there is none, or the machine's size is unknown.
    """
    rows: list[_Row] = []
    append = rows.append
    header: dict[str, int] = {}
    intern = sys.intern
    dropped = 0
    for number, line in enumerate(lines, 1):
        fields = line.split(None, FIELDS)
        if len(fields) < FIELDS or line[0] == ";":
            _other_line(line, fields, f"{file}:{number}", header)
            continue
        try:
            submit, run, estimate = float(fields[1]), float(fields[3]), float(fields[8])
            processors = int(fields[4])
            if processors <= 0:
                processors = int(fields[7])
        except ValueError:
            raise _no_number(fields, f"{file}:{number}") from None
        if not (0 <= submit < _MOST and run < _MOST and estimate < _MOST):
            raise _no_number(fields, f"{file}:{number}")
        if run <= 0 or processors <= 0:
            dropped += 1
            continue
        append((fields[0], submit, run, processors, estimate if estimate > 0 else run, intern(fields[11])))
    return _workload(rows, _size(cpus, header, file), dropped, file)


def _other_line(line: str, fields: list[str], where: str, header: dict[str, int]) -> None:
    """A comment, an empty line or a mistake."""
    if not fields:
        return
    if not fields[0].startswith(";"):
        raise UserError(
            f"{where}: {len(fields)} fields where a job has {FIELDS}: {quote(line.rstrip())}",
            "is this a trace in the Standard Workload Format?",
        )
    if found := _HEADER.match(line.strip()):
        header[found[1].lower()] = int(found[2])


def _no_number(fields: list[str], where: str) -> UserError:
    """Which of the fields is to blame, and why."""
    for index, name, kind in (
        (1, "submit time", float),
        (3, "run time", float),
        (8, "requested time", float),
        (4, "allocated processors", int),
        (7, "requested processors", int),
    ):
        try:
            value = kind(fields[index])
        except ValueError:
            value = _MOST
        if not value < _MOST or (index == 1 and value < 0):
            what = "a whole number" if kind is int else "a number of seconds"
            text = f"{where}: field {index + 1} ({name}) is {quote(fields[index])}, not {what}"
            return UserError(text, "correct or delete this line")
    raise AssertionError("every field is a number")


def _size(cpus: int | None, header: dict[str, int], file: str) -> int:
    size = cpus or header.get("maxprocs") or header.get("maxnodes")
    if not size:
        raise UserError(f"{file}: the trace does not say how large its machine is", "give --cpus N")
    return size


def _workload(rows: list[_Row], cpus: int, dropped: int, file: str) -> Workload:
    if not rows:
        left_out = f": {dropped} have no run time or no processors" if dropped else ""
        raise UserError(f"{file}: no job to simulate{left_out}", "is this a trace in the Standard Workload Format?")
    rows.sort(key=lambda row: row[1])  # stable: equal ones stay as written
    ids, submitted, running, processors, estimates, users = zip(*rows, strict=True)
    demands = {count: Demand(whole=min(count, cpus)) for count in set(processors)}
    return Workload(
        cpus=cpus,
        ids=ids,
        submitted=submitted,
        running=running,
        limit=estimates,
        demand=[demands[count] for count in processors],
        user=users,
        dropped=dropped,
    )
