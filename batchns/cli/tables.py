"""What the command line says about jobs that are over: the result table, what went wrong, one summary line.

1. Text from outside (names, reasons) passes through `units.printable` before it meets a terminal.
2. A table fits the width it is given; what it shortens about a failure is said in full below it.
3. Colour repeats what the words say already, so nothing is lost in a file or with NO_COLOR.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from batchns.model.lifecycle import State
from batchns.model.result import JobResult
from batchns.units import format_duration, format_size, printable

PIPE_WIDTH = 80  # columns where there is no terminal to ask
LONGEST_TABLE = 200  # rows; laying one out takes a millisecond
NAME_WIDTH = 18  # a longer name is shortened where there is no room for it
_LEAST_NAME = 8  # in the table of results, which has more columns
REASON_WIDTH = 14  # a reason column narrower than this says nothing: it is left out

STYLES: Mapping[State, str] = {
    State.PENDING: "dim",
    State.STARTING: "cyan",
    State.RUNNING: "cyan",
    State.SUSPENDING: "yellow",
    State.SUSPENDED: "yellow",
    State.COMPLETING: "cyan",
    State.COMPLETED: "green",
    State.FAILED: "red",
    State.CANCELLED: "yellow",
    State.TIMEOUT: "red",
    State.OUT_OF_MEMORY: "red",
    State.NODE_FAIL: "red",
}


def make_console(stream: TextIO, environ: Mapping[str, str] | None = None, width: int | None = None) -> Console:
    """A console on `stream`: colours only on a terminal and without NO_COLOR; 80 columns where there is none."""
    environ = os.environ if environ is None else environ
    terminal = stream.isatty()
    if width is None and not terminal:
        width = PIPE_WIDTH
    return Console(
        file=stream,
        width=width,
        force_terminal=terminal,
        no_color=bool(environ.get("NO_COLOR")) or not terminal,
        highlight=False,
        markup=False,
        emoji=False,
        _environ=environ,
    )


def fit(text: str, width: int) -> str:
    """`text` in at most `width` terminal columns, the cut marked by an ellipsis. Wide characters count two."""
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > width - 1:
        text = text[:-1]
    return f"{text}…" if width > 0 else ""


def exit_text(result: JobResult) -> str:
    """The exit code, or the signal without its `SIG`; a dash for a job that never ran."""
    if result.signal is not None:
        return result.signal.removeprefix("SIG")
    return "-" if result.exit_code is None else str(result.exit_code)


def _reason(result: JobResult) -> str:
    reason = printable(result.reason)
    if result.attempts > 1:
        attempts = f"{result.attempts} attempts"
        return f"{attempts}: {reason}" if reason else attempts
    return reason


_TITLES = ("JOB", "NAME", "STATE", "EXIT", "QUEUED", "RUN", "CPU", "MEM")
_FROZEN = "FROZEN"  # a column of its own where some job was
_SHORTEST_FREEZE = 0.0005  # seconds that a table shows


def _cells(result: JobResult, *, frozen: bool) -> tuple[str, ...]:
    usage = result.usage
    return (
        printable(result.job_id),
        printable(result.name),
        result.state.value,
        exit_text(result),
        format_duration(result.queued_seconds),
        format_duration(result.running_seconds),
        *((format_duration(result.frozen_seconds),) if frozen else ()),
        "-" if usage.cpu_seconds is None else format_duration(usage.cpu_seconds),
        "-" if usage.memory_peak_bytes is None else format_size(usage.memory_peak_bytes),
    )


def result_table(results: Sequence[JobResult], width: int) -> Table:
    """One row for each job in at most `width` columns; the reason where there is room for one."""
    frozen = any(result.frozen_seconds >= _SHORTEST_FREEZE for result in results)
    titles = (*_TITLES[:6], _FROZEN, *_TITLES[6:]) if frozen else _TITLES
    rows = [_cells(result, frozen=frozen) for result in results]
    widths = [max([len(title), *(cell_len(row[i]) for row in rows)]) for i, title in enumerate(titles)]
    room = width - sum(widths) - 2 * len(widths)
    if room < -2:  # the last column needs no gap after it; names give way down to _LEAST_NAME
        widths[1] = max(min(widths[1], _LEAST_NAME), widths[1] + room + 2)
        rows = [(row[0], fit(row[1], widths[1]), *row[2:]) for row in rows]
        room = 0
    reasons = [_reason(result) for result in results]
    with_reason = any(reasons) and room >= REASON_WIDTH
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for i, title in enumerate(titles):
        table.add_column(title, justify="right" if i >= 3 else "left", no_wrap=True, overflow="ellipsis")
    if with_reason:
        table.add_column("REASON", no_wrap=True, overflow="ellipsis")
    for result, row, reason in zip(results, rows, reasons, strict=True):
        cells = [Text(cell, STYLES[result.state] if i == 2 else "") for i, cell in enumerate(row)]
        if with_reason:
            cells.append(Text(fit(reason, room), "dim"))
        table.add_row(*cells)
    return table


def summary(results: Sequence[JobResult], elapsed: float) -> str:
    """`7 jobs: 5 completed, 1 out of memory, 1 failed in 12.3 s`."""
    counts = Counter(result.state for result in results)
    parts = [f"{counts[state]} {state.value.lower().replace('_', ' ')}" for state in State if counts[state]]
    jobs = "1 job" if len(results) == 1 else f"{len(results)} jobs"
    took = f"{elapsed:.1f} s" if elapsed < 60 else format_duration(elapsed)
    return f"{jobs}: {', '.join(parts)} in {took}" if parts else "no jobs"


def unenforced(results: Iterable[JobResult]) -> list[str]:
    """The limits that were asked for and are not in force, one line for each cause and the same jobs."""
    jobs: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for name, reading in result.limits.items():
            if reading.value is None:
                jobs.setdefault((name, reading.why), []).append(result.job_id)
    names: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (name, why), ids in sorted(jobs.items()):
        names.setdefault((why, tuple(ids)), []).append(printable(name))
    return [_unenforced(found, printable(why), ids) for (why, ids), found in names.items()]


def _unenforced(names: Sequence[str], why: str, ids: Sequence[str]) -> str:
    """What is not in force, and on a line of its own what to type."""
    reason, _, hint = why.partition(" - ")
    told = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not in force: {reason} ({_listed(ids)})"
    return f"{told}\n  {hint}" if hint else told


def _listed(ids: Sequence[str]) -> str:
    shown = ", ".join(printable(job_id) for job_id in ids[:4])
    more = f" and {len(ids) - 4} more" if len(ids) > 4 else ""
    return f"job{'s' if len(ids) > 1 else ''} {shown}{more}"


def print_results(console: Console, results: Sequence[JobResult], elapsed: float) -> None:
    """The table; each failure and retry in full, with where its stderr is; limits that are not in force; the summary.

    Of more results than a person reads, those are shown that did not complete. `elapsed` in seconds, of the whole run.
    """
    rows, left_out = _worth_a_row(results)
    if rows:
        _print_trimmed(console, result_table(rows, console.width))
        console.print()
    if left_out:
        console.print(Text(f"{left_out} more jobs have no row here: --json has every job", "dim"), soft_wrap=True)
        console.print()
    told = [result for result in results if result.state is not State.COMPLETED or result.attempts > 1]
    for result in told[:LONGEST_TABLE]:
        head = Text.assemble(
            (f"{printable(result.job_id)} {printable(result.name)}: ", "bold"),
            (result.state.value, STYLES[result.state]),
        )
        console.print(head, soft_wrap=True)
        _print_wrapped(console, _details(result), indent="  ")
        # A path is for copying: it is never broken over two lines.
        if result.stderr and result.state is not State.COMPLETED:
            console.print(Text(f"  stderr: {printable(result.stderr)}", "dim"), soft_wrap=True)
    if told:
        console.print()
    notes = unenforced(results)
    for note in notes:
        reason, _, hint = note.partition("\n")
        _print_wrapped(console, reason, "yellow")
        if hint:  # a command is for copying: it is never broken over two lines
            console.print(Text(hint, "yellow"), soft_wrap=True)
    if notes:
        console.print()
    _print_wrapped(console, summary(results, elapsed), "bold")


def _print_wrapped(console: Console, text: str, style: str = "", indent: str = "") -> None:
    """Broken between words, without the blanks that rich leaves there."""
    for line in Text(text).wrap(console, console.width - len(indent)):
        console.print(Text(f"{indent}{line.plain.rstrip()}", style))


def _worth_a_row(results: Sequence[JobResult]) -> tuple[Sequence[JobResult], int]:
    """The results to show, in their order, and the number of those that are left out."""
    if len(results) <= LONGEST_TABLE:
        return results, 0
    shown = [result for result in results if result.state is not State.COMPLETED][:LONGEST_TABLE]
    return shown, len(results) - len(shown)


def _details(result: JobResult) -> str:
    if result.reason or result.state is State.COMPLETED:
        return _reason(result)
    if result.signal is not None:
        return f"ended by {result.signal}"
    return "" if result.exit_code is None else f"exit code {result.exit_code}"


def _print_trimmed(console: Console, table: Table) -> None:
    """Print without the blanks that a table ends its lines with: a copied or logged line is as long as its text."""
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        console.file.write(line.rstrip() + "\n")
