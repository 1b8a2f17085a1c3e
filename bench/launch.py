"""How long does it take to start a sandboxed `true`? Every competitor in one run, on one machine, interleaved.

    python -m bench.launch [--rounds N] [--json]

1. One round runs each competitor once, and each round begins with another one: what disturbs the machine for a second
   disturbs all of them, and nobody always runs on the caches that the same other one left.
2. Medians and the 95th percentile are shown, never a best case; a competitor that fails ends the run.
3. Ratios are to the first in the list, in pairs of the same round: they hold where absolute times do not.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import click
from rich.console import Console
from rich.table import Table

from bench.ours import OURS
from bench.peers import PEERS, Competitor, PeerError, Run

WARM_UP = 3  # rounds that are run and not counted

COMPETITORS: list[Competitor] = [*PEERS, *OURS]


def measure(runs: Sequence[tuple[str, Run]], rounds: int, warm_up: int = WARM_UP) -> dict[str, list[float]]:
    """Seconds of each of `rounds` launches by competitor, in the order of `runs`."""
    times: dict[str, list[float]] = {name: [] for name, _ in runs}
    for number in range(warm_up + rounds):
        first = number % len(runs)
        for name, run in (*runs[first:], *runs[:first]):
            took = run()
            if number >= warm_up:
                times[name].append(took)
    return times


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that at least `percent` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def summarise(times: dict[str, list[float]]) -> list[dict[str, str | float]]:
    """One row for each competitor: median, p95, extremes in milliseconds, and the median ratio to the first."""
    base = next(iter(times.values()))
    return [
        {
            "name": name,
            "median_ms": 1000 * statistics.median(values),
            "p95_ms": 1000 * percentile(values, 95),
            "min_ms": 1000 * min(values),
            "max_ms": 1000 * max(values),
            "ratio": statistics.median(value / other for value, other in zip(values, base, strict=True)),
        }
        for name, values in times.items()
    ]


def print_table(rows: Sequence[dict[str, str | float]], rounds: int) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("LAUNCH OF ONE true")
    for title in ("MEDIAN ms", "P95 ms", "MIN ms", "MAX ms", "RATIO"):
        table.add_column(title, justify="right")
    for row in rows:
        numbers = (f"{row[key]:.1f}" for key in ("median_ms", "p95_ms", "min_ms", "max_ms"))
        table.add_row(str(row["name"]), *numbers, f"{row['ratio']:.2f}")
    console = Console(width=None if sys.stdout.isatty() else 80)
    console.print(table)
    load = os.getloadavg()[0]
    console.print(
        f"\n{rounds} interleaved rounds, Linux {os.uname().release}, {os.cpu_count()} CPUs, load {load:.1f}; "
        f"ratios are medians over rounds, to {rows[0]['name']}",
        highlight=False,
    )


@click.command()
@click.option("--rounds", default=50, show_default=True, type=click.IntRange(min=1), help="Launches of each.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def main(rounds: int, as_json: bool) -> None:
    """Measure how long each competitor takes to start, run and end one `true`."""
    try:
        with ExitStack() as stack:
            runs = [(name, stack.enter_context(prepare())) for name, prepare in COMPETITORS]
            rows = summarise(measure(runs, rounds))
    except PeerError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        print_table(rows, rounds)


if __name__ == "__main__":
    main()
