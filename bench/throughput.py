"""How many short jobs `batchns run` gets through in a second, what its command line takes to start, what an init keeps.

    python -m bench.throughput [--jobs N] [--rounds N] [--json]

1. Every job has everything on: namespaces, cgroups with limits, a network of its own with two shapers, seccomp.
2. The whole command is timed, from the interpreter's start to the last thing undone.
3. An idle init is that of a job that sleeps; its private memory is what the kernel counts (proc_pid_smaps_rollup).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

JOBS = """\
name = "many"
command = ["true"]
array = "0-{last}"
stdout = "/dev/null"
stderr = "/dev/null"
[resources]
cpus = {cpus}
memory = "16MiB"
[network]
egress = "10mbit"
ingress = "10mbit"
"""
BATCHNS = [sys.executable, "-m", "batchns"]
AT_ONCE = 8  # jobs for each CPU: enough that none of them is ever idle


def jobs_per_second(jobs: int) -> float:
    """Of one `batchns run` with an array of so many."""
    with tempfile.TemporaryDirectory(prefix="batchns-bench-") as folder:
        path = Path(folder, "many.toml")
        path.write_text(JOBS.format(last=jobs - 1, cpus=round(1 / AT_ONCE, 3)))
        begin = time.perf_counter()
        done = subprocess.run([*BATCHNS, "run", str(path)], capture_output=True, text=True, check=False)
        took = time.perf_counter() - begin
    if done.returncode:
        raise click.ClickException(f"batchns run: exit code {done.returncode}\n{done.stderr[-500:]}")
    return jobs / took


def start_of_the_command_line() -> float:
    """Seconds of `batchns --version`."""
    begin = time.perf_counter()
    subprocess.run([*BATCHNS, "--version"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def private_memory_of_an_init() -> int:
    """Bytes."""
    with subprocess.Popen([*BATCHNS, "run", "--", "sleep", "60"], stderr=subprocess.DEVNULL) as run:
        try:
            init = _parent_of_a_sleep_below(run.pid)
            rollup = Path(f"/proc/{init}/smaps_rollup").read_text()
        finally:
            run.terminate()
    return 1024 * sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))


def _parent_of_a_sleep_below(pid: int) -> int:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        parents = {pid}
        for parent, child, name in _tree(pid):
            parents.add(child)
            if name == "sleep" and parent in parents:
                return parent
        time.sleep(0.05)
    raise click.ClickException("batchns run -- sleep did not start")


def _tree(pid: int) -> list[tuple[int, int, str]]:
    """(parent, child, the child's name) of all that is below `pid`, parents first."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            found.append((pid, int(child), Path(f"/proc/{child}/comm").read_text().strip()))
            found += _tree(int(child))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@click.command()
@click.option("--jobs", default=500, show_default=True, type=click.IntRange(min=1), help="Jobs of one run.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1), help="How often each is measured.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(jobs: int, rounds: int, as_json: bool) -> None:
    """Measure jobs per second, the command line's start, and an idle init's memory."""
    figures = {
        "jobs_per_second": statistics.median(jobs_per_second(jobs) for _ in range(rounds)),
        "command_line_start_ms": 1000 * statistics.median(start_of_the_command_line() for _ in range(4 * rounds)),
        "init_private_kib": private_memory_of_an_init() / 1024,
    }
    if as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("BATCHNS")
    table.add_column("MEDIAN", justify="right")
    table.add_row(f"jobs per second, {jobs} times true through run, everything on", f"{figures['jobs_per_second']:.0f}")
    table.add_row("start of the command line (--version), ms", f"{figures['command_line_start_ms']:.0f}")
    table.add_row("private memory of an idle init, KiB", f"{figures['init_private_kib']:.0f}")
    console = Console(width=None if sys.stdout.isatty() else 80)
    console.print(table)
    console.print(f"\n{rounds} rounds, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}", highlight=False)


if __name__ == "__main__":
    main()
