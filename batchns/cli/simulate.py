"""`batchns simulate`: the same policy on a virtual clock, fed by a trace or by this machine's own history.

Figures go to stdout, progress to stderr. Nothing is run.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from batchns.cli import exits
from batchns.cli.options import Whole
from batchns.errors import HostError, UserError
from batchns.units import format_duration, printable

if TYPE_CHECKING:
    from batchns.model.config import Config
    from batchns.simulate.engine import Outcome
    from batchns.simulate.statistics import Statistics
    from batchns.simulate.workload import Workload

HISTORY = "history"  # in the place of a trace: this machine's own
HISTORY_FILE = "history.jsonl"  # below paths.state
DEFAULT_POLICY = "easy"
PICTURES = (".svg", ".png")
_QUIET = 1.0  # seconds before progress is shown


@click.command()
@click.argument("trace", metavar="TRACE.swf|history")
@click.option("--cpus", type=Whole(1, 1 << 20), metavar="N", help="The machine's CPUs; default: the trace's.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="NAME|FILE",
    help="fcfs, easy (default), easy-sjbf, conservative, preemptive or a batchns.toml; several are compared.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each policy on stdout.")
@click.option("--starts", metavar="FILE", help="Write a line for each job: its number and when it started.")
@click.option("--timeline", metavar="FILE", help="Draw who ran where and when: a .svg or .png file.")
@click.option("--config", metavar="FILE", help="The batchns.toml that says where the history is.")
def simulate(
    trace: str,
    cpus: int | None,
    policies: tuple[str, ...],
    as_json: bool,
    starts: str | None,
    timeline: str | None,
    config: str | None,
) -> None:
    """Say what a policy would make of a trace: waiting times, slowdowns, utilization.

    TRACE is a file in the Standard Workload Format (.gz too), a history (.jsonl), or the word history: the jobs that
    this machine has run. The policy is the code that decides on the machine; only the clock is virtual.
    """
    names = policies or (DEFAULT_POLICY,)
    for option, file in (("--starts", starts), ("--timeline", timeline)):
        if file is None:
            continue
        if len(names) > 1:
            raise click.UsageError(f"{option} takes the result of one policy - give one --policy")
        _check_writable(option, file)
    if timeline is not None:
        _check_picture(timeline)
    try:
        configs = [(name, _policy(name)) for name in names]
        workload = _workload(trace, cpus, config)
        results = []
        # A simulation makes millions of objects that live on: looking for cycles among them took a fifth of the time.
        gc.disable()
        for name, settings in configs:
            outcome, figures = _simulate(name, settings, workload, with_segments=timeline is not None)
            results.append((_short(name), figures))
            if as_json:
                click.echo(json.dumps(_as_json(_short(name), figures, several=len(names) > 1)))
            if starts is not None:
                _write(starts, _start_lines(outcome))
            if timeline is not None:
                _draw(outcome, timeline, f"{Path(trace).name}, {_short(name)}")
            del outcome  # before the next one is made: of a million jobs, each has its GiB
            if len(names) > 1:
                gc.collect()
    except KeyboardInterrupt:
        sys.exit(exits.INTERRUPTED)
    if not as_json:
        _print(trace, workload, results)


def _check_writable(option: str, file: str) -> None:
    """Before a simulation that may take minutes, whose result has to go there."""
    path = Path(file)
    folder = path.parent
    if not folder.is_dir():
        raise UserError(f"{option} {printable(file)}: No such file or directory", "give a file in a folder that exists")
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise UserError(f"{option} {printable(file)}: cannot be written", "give a file that can be written")


def _check_picture(file: str) -> None:
    from importlib.util import find_spec

    if not file.lower().endswith(PICTURES):
        raise click.UsageError(f"--timeline {file}: the name ends neither in .svg nor in .png")
    if find_spec("matplotlib") is None:
        raise UserError("--timeline needs matplotlib, which is not installed", "pip install 'batchns[plot]'")


def _policy(name: str) -> Config:
    """The settings of a named policy, or of a batchns.toml.

    Raises:
        UserError: there is neither.
    """
    from batchns.simulate.policies import POLICIES, named

    if (config := named(name)) is not None:
        return config
    if not name.endswith(".toml"):
        known = ", ".join(POLICIES)
        raise UserError(f"--policy {printable(name)}: no such policy", f"there are {known}, or give a FILE.toml")
    from batchns.cli.load import read_bounded
    from batchns.model.config_table import parse_config

    return parse_config(read_bounded(name), name)


def _short(policy: str) -> str:
    """What a policy is called in the output: a file by its name alone."""
    return Path(policy).name if policy.endswith(".toml") else policy


def _workload(trace: str, cpus: int | None, config: str | None) -> Workload:
    if trace == HISTORY:
        from batchns.cli.load import find_config

        settings = find_config(config)
        file = os.path.join(settings.paths.state, HISTORY_FILE)
        if not os.path.exists(file):
            raise UserError(f"{file}: there is no history yet", "it is written as jobs end; or give a trace: FILE.swf")
        return _history(file, cpus, settings)
    if config is not None:
        raise click.UsageError("--config says where the history is - leave it out, or write history for the trace")
    if trace.endswith((".jsonl", ".jsonl.gz")):
        return _history(trace, cpus, None)
    from batchns.simulate.swf import read_swf

    with _lines(trace) as lines:
        return read_swf(lines, printable(trace), cpus)


def _history(file: str, cpus: int | None, settings: Config | None) -> Workload:
    """A history on this machine, or on one of `cpus`; memory counts as this machine has it."""
    from batchns.simulate.history import parse_records, read_history

    node = settings.node if settings is not None else None
    here = len(node.cpus) if node is not None and node.cpus else len(os.sched_getaffinity(0))
    memory = node.memory if node is not None else None
    with _lines(file) as lines:
        records = parse_records(lines, printable(file))
        return read_history(records, cpus or here, memory or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


@contextmanager
def _lines(file: str) -> Iterator[IO[str]]:
    """The lines of a text file, packed by gzip or not.

    Raises:
        UserError: it cannot be read.
    """
    try:
        if Path(file).suffix == ".gz":
            import gzip

            with gzip.open(file, "rt", encoding="utf-8", errors="replace") as stream:
                yield stream
        else:
            with Path(file).open(encoding="utf-8", errors="replace") as stream:
                yield stream
    except (OSError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"{printable(file)}: {reason}", "give a trace: batchns simulate FILE.swf") from None


def _simulate(name: str, settings: Config, workload: Workload, *, with_segments: bool) -> tuple[Outcome, Statistics]:
    from batchns.simulate.engine import simulate as run
    from batchns.simulate.statistics import summarise

    with _progress(_short(name), len(workload)) as progress:
        outcome = run(workload, settings, progress=progress, with_segments=with_segments)
    return outcome, summarise(outcome)


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None] | None]:
    """On a terminal, a line that grows with what is done, once it takes longer than a moment; gone at the end."""
    if not sys.stderr.isatty():
        yield None
        return
    shown = False
    due = time.monotonic() + _QUIET

    def show(done: int) -> None:
        nonlocal due, shown
        now = time.monotonic()
        if now >= due:
            shown, due = True, now + 0.2
            click.echo(f"\r{printable(name)}: {done:,} of {total:,} jobs, {done / total:.0%} ", nl=False, err=True)

    try:
        yield show
    finally:
        if shown:
            click.echo("\r\x1b[K", nl=False, err=True)


def _as_json(policy: str, figures: Statistics, *, several: bool) -> dict[str, object]:
    """The figures under their documented keys; seconds and shares to the sixth decimal."""
    return {
        **({"policy": policy} if several else {}),
        "jobs": figures.jobs,
        "wait_mean_seconds": round(figures.wait_mean, 6),
        "bounded_slowdown_mean": round(figures.bounded_slowdown_mean, 6),
        "bounded_slowdown_p99": round(figures.bounded_slowdown_p99, 6),
        "utilization": round(figures.utilization, 6),
        "makespan_seconds": round(figures.makespan, 6),
        "preemptions": figures.preemptions,
        "frozen_seconds_mean": round(figures.frozen_mean, 6),
    }


def _start_lines(outcome: Outcome) -> Iterator[str]:
    """`id start`, in order of submission; jobs that never started are left out."""
    for job_id, start in zip(outcome.workload.ids, outcome.started, strict=True):
        if start == start:
            yield f"{job_id} {int(start) if start.is_integer() else repr(start)}\n"


def _write(file: str, lines: Iterator[str]) -> None:
    try:
        with Path(file).open("w", encoding="utf-8") as stream:
            stream.writelines(lines)
    except OSError as error:
        raise UserError(f"--starts {printable(file)}: {error.strerror}", "give a file that can be written") from None


def _draw(outcome: Outcome, file: str, title: str) -> None:
    from batchns.simulate.timeline import draw

    try:
        draw(outcome, file, title)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"--timeline {printable(file)}: {reason}", "give a file that can be written") from None
    except ImportError as error:
        raise HostError(f"--timeline: matplotlib does not work here: {error}") from None


def _print(trace: str, workload: Workload, results: Sequence[tuple[str, Statistics]]) -> None:
    """A column for each policy, as many beside each other as fit; what is zero for all of them has no row."""
    from rich.table import Table
    from rich.text import Text

    from batchns.cli.tables import fit, make_console

    console = make_console(sys.stdout)
    left_out = f" ({workload.dropped:,} without run time left out)" if workload.dropped else ""
    head = f"{printable(Path(trace).name)}: {len(workload):,} jobs{left_out}, {workload.cpus:,} CPUs"
    console.print(Text(head, "bold"), soft_wrap=True)
    rows = [(label, [text(figures) for _, figures in results]) for label, text in _ROWS]
    rows = [(label, cells) for label, cells in rows if label not in _SELDOM or any(c not in ("0", "0s") for c in cells)]
    at_once = max(1, (console.width - 24) // 14)
    for first in range(0, len(results), at_once):
        some = slice(first, first + at_once)
        console.print()
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        table.add_column("", no_wrap=True)
        for name, _ in results[some]:
            table.add_column(fit(printable(name), 12), justify="right", no_wrap=True, min_width=10)
        for label, cells in rows:
            table.add_row(label, *cells[some])
        console.print(table)


_ROWS: Sequence[tuple[str, Callable[[Statistics], str]]] = (
    ("mean wait", lambda figures: format_duration(figures.wait_mean)),
    ("median wait", lambda figures: format_duration(figures.wait_p50)),
    ("90 % wait at most", lambda figures: format_duration(figures.wait_p90)),
    ("longest wait", lambda figures: format_duration(figures.wait_max)),
    ("mean bounded slowdown", lambda figures: _figure(figures.bounded_slowdown_mean)),
    ("99 % slowed at most", lambda figures: _figure(figures.bounded_slowdown_p99)),
    ("utilization", lambda figures: f"{figures.utilization:.1%}"),
    ("makespan", lambda figures: format_duration(figures.makespan)),
    ("freezes", lambda figures: f"{figures.preemptions:,}"),
    ("mean time frozen", lambda figures: format_duration(figures.frozen_mean)),
    ("longest time frozen", lambda figures: format_duration(figures.frozen_max)),
    ("cancelled", lambda figures: f"{figures.cancelled:,}"),
)
_SELDOM = {"freezes", "mean time frozen", "longest time frozen", "cancelled"}


def _figure(value: float) -> str:
    """Three digits that matter, or all before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
