"""How long does `batchns simulate` take? By policy, and by the number of jobs.

    python -m bench.simulate [--million] [--trace FILE.swf] [--json]

1. The whole command is timed, from the interpreter's start to the last figure; the trace is generated, always the same.
2. Jobs come as a machine's users bring them: powers of two, long tails, estimates up to four times too long, load 0.8.
3. Memory is the most that the process had (getrusage(2)).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
from attrs import frozen
from rich.console import Console
from rich.table import Table

POLICIES = ("fcfs", "easy", "easy-sjbf", "conservative", "preemptive")
BATCHNS = [sys.executable, "-m", "batchns"]
CPUS = 256
LOAD = 0.8


def trace(jobs: int) -> Iterator[str]:
    """The lines of a trace of so many jobs; a longer one begins as a shorter one does."""
    rng = random.Random(1)
    now = 0
    yield f"; MaxProcs: {CPUS}\n"
    for number in range(1, jobs + 1):
        run, width = round(rng.lognormvariate(6, 1.5)) + 1, 2 ** rng.randrange(8)
        estimate = run * rng.randint(1, 4)
        yield f"{number} {now} -1 {run} {width} -1 -1 {width} {estimate} -1 1 {number % 20} 1 -1 1 -1 -1 -1\n"
        now += round(rng.expovariate(1) * run * width / CPUS / LOAD)


@frozen
class Measured:
    policy: str
    jobs: int
    seconds: float
    mebibytes: float
    slowdown: float  # mean bounded slowdown: shows that something was simulated


def measure(file: Path, policy: str) -> Measured:
    """One run of the command."""
    begin = time.perf_counter()
    command = [*BATCHNS, "simulate", str(file), "--policy", policy, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        text = run.stdout.read()
        _, status, usage = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
    took = time.perf_counter() - begin
    if run.returncode:
        raise click.ClickException(f"batchns simulate --policy {policy}: exit code {run.returncode}")
    figures = json.loads(text)
    return Measured(policy, figures["jobs"], took, usage.ru_maxrss / 1024, figures["bounded_slowdown_mean"])


def measure_all(sizes: list[int], file: Path | None) -> Iterator[Measured]:
    """Every policy on the smallest trace, `easy` on the larger ones."""
    with tempfile.TemporaryDirectory(prefix="batchns-bench-") as folder:
        for size in sizes:
            made = Path(folder, f"{size}.swf")
            with made.open("w") as stream:
                stream.writelines(trace(size))
            for policy in POLICIES if size == sizes[0] else ("easy",):
                yield measure(made, policy)
        if file is not None:
            yield from (measure(file, policy) for policy in POLICIES)


@click.command()
@click.option("--million", is_flag=True, help="Simulate a million jobs, too: minutes, and some GiB of memory.")
@click.option("--trace", "file", type=click.Path(exists=True, path_type=Path), help="And this trace, by every policy.")
@click.option("--json", "as_json", is_flag=True, help="Print an object for each run instead of a table.")
def main(million: bool, file: Path | None, as_json: bool) -> None:
    """Time `batchns simulate` by policy and by the number of jobs."""
    found = []
    for run in measure_all([10_000, 100_000, *([1_000_000] if million else [])], file):
        found.append(run)
        if as_json:
            click.echo(json.dumps({name: getattr(run, name) for name in Measured.__slots__ if name[0] != "_"}))
    if as_json:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("POLICY", "JOBS", "SECONDS", "US PER JOB", "MIB", "SLOWDOWN"):
        table.add_column(title, justify="left" if title == "POLICY" else "right")
    for run in found:
        per_job = f"{1e6 * run.seconds / run.jobs:.0f}"
        numbers = (f"{run.jobs:,}", f"{run.seconds:.1f}", per_job, f"{run.mebibytes:.0f}", f"{run.slowdown:.1f}")
        table.add_row(run.policy, *numbers)
    console = Console(width=None if sys.stdout.isatty() else 80)
    console.print(table)
    console.print(f"\n{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}", highlight=False)


if __name__ == "__main__":
    main()
