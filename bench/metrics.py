"""What a scrape costs with many live jobs: a real daemon, its real launcher, one sleeping process in each job.

    python -m bench.metrics [--jobs 1000] [--scrapes 10]

1. Jobs have all of their sandbox but a link: a thousand of them would need a pool of addresses of their own.
2. CPU time is what the kernel counts of the daemon's process over a scrape, all of its threads together.
3. How long the loop waited for a snapshot, the daemon itself says: the longest of those that were taken while all jobs
   ran.
4. In another round of scrapes a client asks the daemon a small question all the time: how long those took, with and
   without scrapes, says how long others are held up.

A goal that is missed is marked.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import click
from attrs import asdict, frozen
from rich.console import Console
from rich.table import Table

from bench.alive import Alive, alive
from bench.daemon import submit_many
from bench.launch import percentile

ACCEPT = {
    "text": "text/plain;version=0.0.4",
    "OpenMetrics": "application/openmetrics-text;version=1.0.0",
}
_PAUSE = 0.6  # seconds between two scrapes: a younger text would be given again


@frozen
class Row:
    what: str
    value: float
    unit: str
    below: float | None = None  # its goal

    @property
    def missed(self) -> bool:
        return self.below is not None and self.value >= self.below


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def measure(jobs: int, scrapes: int) -> Iterator[Row]:
    with alive() as daemon, daemon.client() as client:
        submit_many(client, jobs, "sleep", "100000", each=250, cpus=round(2 / jobs, 3), network="none")
        while value(daemon, 'batchns_jobs{queue="normal",state="RUNNING"}') < jobs:
            time.sleep(_PAUSE)
        stood: list[float] = []  # the loop, for each snapshot
        quiet = asked(daemon, lambda: time.sleep(_PAUSE * scrapes))
        for name, accept in ACCEPT.items():
            took: list[float] = []
            spent: list[float] = []
            sizes: list[int] = []
            held: list[float] = []
            connection = _Unix(str(daemon.socket))

            def scrape(
                accept: str,
                connection: _Unix,
                took: list[float],
                spent: list[float],
                sizes: list[int],
                held: list[float],
            ) -> None:
                for _ in range(scrapes):
                    time.sleep(_PAUSE)
                    used, begun = cpu_ns(daemon.pid), time.perf_counter()
                    connection.request("GET", "/metrics", headers={"Accept": accept})
                    text = connection.getresponse().read()
                    took.append(time.perf_counter() - begun)
                    spent.append((cpu_ns(daemon.pid) - used) / 1e9)
                    sizes.append(len(text))
                    held.append(found(text.decode(), "batchns_snapshot_seconds_sum"))  # up to the one before

            scrape(accept, connection, [], [], [], [])  # files are opened by the first one
            scrape(accept, connection, took, spent, sizes, held)
            busy = asked(daemon, lambda args=(accept, connection, [], [], [], held): scrape(*args))
            connection.close()
            stood += [after - before for before, after in pairwise(held)]
            yield Row(f"{name}: a scrape of {jobs:,} jobs, CPU, median", 1000 * statistics.median(spent), "ms", 100.0)
            yield Row("  CPU, longest", 1000 * max(spent), "ms")
            yield Row("  until it has been read, median", 1000 * statistics.median(took), "ms")
            yield Row("  size", sizes[-1] / 2**20, "MiB")
            yield Row("  a small question meanwhile, 99 of 100", 1000 * percentile(sorted(busy), 99), "ms", 50.0)
        yield Row("a small question without scrapes, 99 of 100", 1000 * percentile(sorted(quiet), 99), "ms")
        yield Row("the loop waits for a snapshot, longest", 1000 * max(stood), "ms", 5.0)
        yield Row("memory of the daemon", daemon.memory() / 2**20, "MiB")


def cpu_ns(pid: int) -> int:
    """CPU time of all threads, from schedstat: the clock of /proc/PID/stat is too coarse."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):
            total += int((task / "schedstat").read_text().split()[0])
    return total


def asked(daemon: Alive, meanwhile: object) -> list[float]:
    """Seconds of each small question that was asked while `meanwhile` ran."""
    assert callable(meanwhile)
    over = threading.Event()
    times: list[float] = []

    def ask() -> None:
        with daemon.client() as client:
            while not over.is_set():
                begun = time.perf_counter()
                client.you()
                times.append(time.perf_counter() - begun)
                time.sleep(0.002)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        meanwhile()
    finally:
        over.set()
        thread.join()
    return times


def value(daemon: Alive, series: str) -> float:
    """Of a series of its metrics, as it is written there."""
    connection = _Unix(str(daemon.socket))
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return found(text, series)


def found(text: str, series: str) -> float:
    return next(float(line.removeprefix(series)) for line in text.splitlines() if line.startswith(f"{series} "))


def show(rows: list[Row]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("METRICS")
    for title in ("MEASURED", "", "GOAL"):
        table.add_column(title, justify="right" if title else "left")
    for row in rows:
        goal = "" if row.below is None else f"< {row.below:g}{', missed' if row.missed else ''}"
        table.add_row(row.what, f"{row.value:,.2f}", row.unit, goal)
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    console.print(
        f"\nLinux {os.uname().release}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}", highlight=False
    )


@click.command()
@click.option("--jobs", default=1000, show_default=True, type=click.IntRange(min=1), help="Jobs that sleep.")
@click.option("--scrapes", default=10, show_default=True, type=click.IntRange(min=1), help="Of each format.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def main(jobs: int, scrapes: int, as_json: bool) -> None:
    """Measure scrapes."""
    if os.geteuid():
        raise click.ClickException("the daemon runs jobs of every user, and needs root for that")
    rows = list(measure(jobs, scrapes))
    if as_json:
        click.echo(json.dumps([{**asdict(row), "missed": row.missed} for row in rows], indent=2))
    else:
        show(rows)


if __name__ == "__main__":
    main()
