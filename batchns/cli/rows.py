"""Jobs in a list: the cells of `wire.JobRow`, what a selector means, states by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from batchns.cli.plain import STATE_COLOURS, Column, clean, listing, width_of
from batchns.errors import UserError
from batchns.units import format_duration, format_size, quote
from batchns.wire.select import matches
from batchns.wire.types import JobRow

# Slurm's; its CF is "configuring", and its S stands for both of ours. LOST, of which nothing is known, is ours.
SHORT: Mapping[str, str] = {
    "PENDING": "PD",
    "STARTING": "CF",
    "RUNNING": "R",
    "SUSPENDING": "S",
    "SUSPENDED": "S",
    "COMPLETING": "CG",
    "COMPLETED": "CD",
    "FAILED": "F",
    "CANCELLED": "CA",
    "TIMEOUT": "TO",
    "OUT_OF_MEMORY": "OOM",
    "NODE_FAIL": "NF",
    "PREEMPTED": "PR",
    "LOST": "LO",
}
_ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "LOST")
FINAL = frozenset(_ENDS)
ADVANCING = frozenset({"RUNNING", "SUSPENDING", "COMPLETING"})
NEVER_RAN = "-"


def states_of(words: Iterable[str]) -> tuple[str, ...]:
    """Full names of states, from "RUNNING", "running", "R" or "PD,R".

    Raises:
        UserError: no such state.
    """
    found: list[str] = []
    for word in (part for text in words for part in text.split(",") if part):
        name = word.upper().replace("-", "_")
        full = [state for state, short in SHORT.items() if name in (state, short)]
        if not full:
            states = ", ".join(f"{short} {state}" for state, short in SHORT.items())
            raise UserError(f"--state: {quote(word)} is no state", f"the states are {states}")
        found += full
    return tuple(dict.fromkeys(found))


def running_seconds(row: JobRow, now: float) -> float:
    """Of all attempts, up to `now`: what has passed since `since` belongs to the state."""
    more = now - row.since if row.state in ADVANCING else 0.0
    return float(row.running_seconds) + max(0.0, more)


def queued_seconds(row: JobRow, now: float) -> float:
    more = now - row.since if row.state in ("PENDING", "STARTING") else 0.0
    return float(row.queued_seconds) + max(0.0, more)


def frozen_seconds(row: JobRow, now: float) -> float:
    more = now - row.since if row.state == "SUSPENDED" else 0.0
    return float(row.frozen_seconds) + max(0.0, more)


def exit_text(row: JobRow) -> str:
    """The exit code, or the signal without its `SIG`; a dash for a job that has none."""
    if row.signal:
        return clean(row.signal.removeprefix("SIG"))
    return NEVER_RAN if row.exit_code is None else str(row.exit_code)


def reason_of(row: JobRow) -> str:
    """Why, in short: a list has a column of states and needs no "waits"."""
    reason = clean(row.reason)
    if row.state == "PENDING":
        reason = reason.removeprefix("waits: ").removeprefix("waits ")
    if row.attempt > 1:
        attempt = f"attempt {row.attempt}"
        return f"{attempt}: {reason}" if reason else attempt
    return reason


def unmatched(rows: Sequence[JobRow], selectors: Iterable[str]) -> list[str]:
    """The selectors that mean none of the jobs."""
    known = {key for row in rows for key in (row.id, row.array_id, row.name)}
    return [one for one in selectors if one not in known and not any(matches(row, one) for row in rows)]


def no_such_jobs(selectors: Sequence[str], *, hint: str = "batchns ps --all shows the jobs there are") -> UserError:
    names = ", ".join(quote(one) for one in selectors)
    return UserError(f"no job is meant by {names}", hint)


class Texts:
    """Cells of many rows: what is the same in most of them is made once."""

    def __init__(self) -> None:
        self._sizes: dict[int | None, str] = {None: "-"}
        self._names: dict[str, str] = {}

    def size(self, value: int | None) -> str:
        text = self._sizes.get(value)
        if text is None and value is not None:
            text = self._sizes[value] = format_size(value)
        return text or "-"

    def name(self, text: str) -> str:
        found = self._names.get(text)
        if found is None:
            found = self._names[text] = clean(text)
        return found


def job_listing(rows: Sequence[JobRow], *, now: float, width: int, colour: bool, short: bool = False) -> list[str]:
    """The lines of `ps`: what a wider screen has room for is added."""
    texts = Texts()
    columns = {
        "JOB": Column(title="JOB", cells=[clean(row.id) for row in rows]),
        "NAME": Column(title="NAME", cells=[texts.name(row.name) for row in rows], least=8),
        "USER": Column(title="USER", cells=[texts.name(row.user) for row in rows], least=6),
        "QUEUE": Column(title="QUEUE", cells=[texts.name(row.queue) for row in rows], least=6),
        "PRIO": Column(title="PRIO", cells=[str(row.priority) for row in rows], right=True),
        "STATE": state_column(rows, short=short),
        "TIME": Column(title="TIME", cells=[_time(row, now) for row in rows], right=True),
        "LIMIT": Column(title="LIMIT", cells=[_limit(row) for row in rows], right=True),
        "CPUS": Column(title="CPUS", cells=[f"{row.cpus:g}" for row in rows], right=True),
        "ON": Column(title="ON", cells=[clean(row.cpu_list) or "-" for row in rows], least=4),
        "MEM": Column(title="MEM", cells=[texts.size(row.memory) for row in rows], right=True),
        "REASON": Column(title="REASON", cells=[reason_of(row) for row in rows], least=10),
    }
    if len({row.user for row in rows}) < 2:
        del columns["USER"]
    extras = ("LIMIT", "PRIO", "ON") if len({row.queue for row in rows}) > 1 else ("QUEUE", "LIMIT", "PRIO", "ON")
    return listing(_within(columns, width, extras), width, colour=colour)


def _within(columns: Mapping[str, Column], width: int, extras: Sequence[str]) -> list[Column]:
    """The columns without those extras for which there is no room, the last named leaving first."""
    natural = {name: max(len(name), *map(width_of, column.cells)) + 2 for name, column in columns.items()}
    left = dict(columns)
    for extra in reversed(extras):
        if sum(natural[name] for name in left) - 2 > width:
            del left[extra]
    return list(left.values())


def state_column(rows: Sequence[JobRow], *, short: bool = False) -> Column:
    if short:
        colours = {SHORT[state]: colour for state, colour in STATE_COLOURS.items()}
        return Column(title="ST", cells=[SHORT.get(row.state, "?") for row in rows], colours=colours)
    return Column(title="STATE", cells=[clean(row.state) for row in rows], colours=STATE_COLOURS)


def _time(row: JobRow, now: float) -> str:
    seconds = running_seconds(row, now)
    return format_duration(seconds) if seconds or row.state in ADVANCING else NEVER_RAN


def _limit(row: JobRow) -> str:
    return "-" if row.time_limit is None else format_duration(row.time_limit)


def by_state(rows: Iterable[JobRow]) -> dict[str, int]:
    """How many there are in each state, in the order of a job's life."""
    counts: dict[str, int] = dict.fromkeys(SHORT, 0)
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + 1
    return {state: number for state, number in counts.items() if number}


def counted(counts: Mapping[str, int]) -> str:
    """As "3 running, 2 out of memory"."""
    return ", ".join(f"{number:,} {state.lower().replace('_', ' ')}" for state, number in counts.items())
