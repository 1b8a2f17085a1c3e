"""What the daemon costs, and how much it gets done: a large queue, submissions, short jobs, and Slurm beside it.

    python -m bench.daemon [--queued N] [--running N] [--jobs N] [--rounds N] [--idle SECONDS] [--json]

1. A daemon of its own, with everything on that jobs have by default; every submission is durable when it is answered.
2. Slurm is measured in the same run where there is one: `sbatch` is on the PATH, or BATCHNS_BENCH_SLURM is a command
   that runs another one where Slurm's programs find their cluster.
3. Jobs to be counted are submitted to a drained node (Slurm: held), so that a submission's cost is its own; those that
   are to be got through are there before the first one starts.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import click
from attrs import asdict, frozen
from rich.console import Console
from rich.table import Table

from batchns.client.sync import Client
from batchns.wire import types as wire
from bench import slurm
from bench.alive import BATCHNS, Alive, alive, cpu_of, memory_of
from bench.launch import percentile

BATCH = 100  # commands in one request
CLIENTS = 8
MIB = 1 << 20


@frozen
class Row:
    """`goal`: what it should be; `slurm`: the same of Slurm, where it was measured."""

    what: str
    value: float
    unit: str
    goal: str = ""
    slurm: float | None = None


def command(number: int, *words: str, **options: object) -> wire.CommandLine:
    """A job unlike all others."""
    given = {"cpus": 0.5, "memory": "16MiB", "stdout": "/dev/null", "stderr": "/dev/null", "name": f"job{number}"}
    options = {**given, "env": {"RUN": str(number)}, **options, "command": list(words)}
    return wire.CommandLine(options=options, folder="/")


def submit(client: Client, commands: list[wire.CommandLine]) -> list[str]:
    request = wire.SubmitRequest(commands=tuple(commands), key=os.urandom(16).hex())
    return [job.id for job in client.submit(request).jobs]


def submit_many(client: Client, count: int, *words: str, each: int = BATCH, **options: object) -> None:
    for start in range(0, count, each):
        submit(client, [command(number, *words, **options) for number in range(start, min(start + each, count))])


def side_by_side(works: list[Callable[[], list[float]]]) -> list[list[float]]:
    """What each of them returns, each in a process of its own."""
    pipes = []
    for work in works:
        reading, writing = os.pipe()
        if os.fork() == 0:
            code = 1
            try:
                with os.fdopen(writing, "w") as pipe:
                    json.dump(work(), pipe)
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        pipes.append(reading)
    found = []
    for reading in pipes:
        with os.fdopen(reading) as pipe:
            found.append(json.load(pipe))
        os.wait()
    return found


# A large queue.


def large_queue(queued: int, running: int, rounds: int, idle: float) -> Iterator[Row]:
    with alive() as daemon, daemon.client() as client:
        empty = daemon.memory()
        submit_many(client, running, "sleep", "100000", each=running, cpus=round(2 / running, 3))
        daemon.wait_until(running=running)
        client.drain("bench")
        begin = time.perf_counter()
        submit_many(client, queued, "sleep", "100000", cpus=0.5)
        yield Row(f"submit {queued:,} jobs, {BATCH} in a request", queued / (time.perf_counter() - begin), "jobs/s")
        client.resume()
        used = cpu_of(daemon.pid), children()
        spent = [timed_command(daemon, "ps") for _ in range(rounds)]
        used = (cpu_of(daemon.pid) - used[0]) / rounds, (children() - used[1]) / rounds
        yield Row("batchns ps, end to end, median", 1000 * statistics.median(spent), "ms", "< 300")
        yield Row("batchns ps, end to end, longest", 1000 * max(spent), "ms")
        yield Row("  CPU of the command", 1000 * used[1], "ms")
        yield Row("  CPU of the daemon", 1000 * used[0], "ms")
        yield Row("batchns ps JOB, end to end, median", 1000 * one_job(daemon, rounds), "ms")
        yield from questions(daemon)
        time.sleep(2.0)
        yield Row("daemon, memory", daemon.memory() / MIB, "MiB", "< 150")
        yield Row("of it for 10,000 jobs that wait", (daemon.memory() - empty) / MIB * 10_000 / queued, "MiB")
        pids = daemon.launcher_pids()
        yield Row("launcher and zygote, memory", sum(map(memory_of, pids)) / MIB, "MiB")
        yield Row(f"daemon, CPU while idle, {idle:.0f} s", idle_share([daemon.pid], idle), "%", "< 0.3")
        stops, starts = [], []
        for _ in range(min(rounds, 3)):
            stops.append(daemon.stop())
            starts.append(daemon.start())
        yield Row("stop", statistics.median(stops), "s")
        yield Row("start, until it answers", statistics.median(starts), "s")
        daemon.wait_until(waiting=2 * queued, running=running)


def children() -> float:
    """Seconds of CPU time of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed_command(daemon: Alive, *words: str) -> float:
    begin = time.perf_counter()
    environ = {**os.environ, "BATCHNS_SOCKET": str(daemon.socket)}
    subprocess.run([*BATCHNS, *words], env=environ, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def one_job(daemon: Alive, rounds: int) -> float:
    with daemon.client() as client:
        job_id = client.jobs_page(limit=1).jobs[0].id
    return statistics.median(timed_command(daemon, "ps", job_id) for _ in range(rounds))


def idle_share(pids: list[int], seconds: float) -> float:
    """Percent of one CPU."""
    before = sum(map(cpu_of, pids))
    time.sleep(seconds)
    return 100 * (sum(map(cpu_of, pids)) - before) / seconds


def questions(daemon: Alive, seconds: float = 10.0) -> Iterator[Row]:
    """One client asks, in turn, whatever is asked most; another one submits meanwhile."""
    with daemon.client() as client:
        ids = [row.id for row in client.jobs()]

    def ask() -> list[float]:
        asked: list[Callable[[Client, str], object]] = [
            lambda client, job: client.job(job),
            lambda client, job: client.jobs_page(limit=100),
            lambda client, job: client.why(job),
            lambda client, job: client.node(),
        ]
        spent: list[float] = []
        with daemon.client() as client:
            end, number = time.perf_counter() + seconds, 0
            while (begin := time.perf_counter()) < end:
                question = number % len(asked)
                asked[question](client, ids[number * 37 % len(ids)])
                spent += (question, time.perf_counter() - begin)
                number += 1
                time.sleep(0.005)
        return spent

    def submits() -> list[float]:
        spent = []
        with daemon.client() as client:
            end = time.perf_counter() + seconds
            while (begin := time.perf_counter()) < end:
                submit(client, [command(len(spent), "sleep", "100000")])
                spent.append(time.perf_counter() - begin)
                time.sleep(0.01)
        return spent

    asked, submitted = side_by_side([ask, submits])
    times = sorted(asked[1::2])
    yield Row("questions while others submit, median", 1000 * statistics.median(times), "ms")
    yield Row("questions while others submit, 99 of 100", 1000 * percentile(times, 99), "ms", "< 50")
    for number, name in enumerate(("one job", "a page of 100", "why", "node")):
        some = [took for kind, took in zip(asked[::2], asked[1::2], strict=True) if kind == number]
        yield Row(f"  {name}: 99 of 100", 1000 * percentile(some, 99), "ms")
    yield Row("a submission meanwhile, 99 of 100", 1000 * percentile(submitted, 99), "ms")


# Throughput.


def throughput(jobs: int, rounds: int, peer: slurm.Slurm | None) -> Iterator[Row]:
    theirs = slurm.Figures() if peer is None else peer.measure(jobs // 2, rounds)
    with alive() as daemon, daemon.client() as client:
        client.drain("bench")
        jobs_cpu = [0.0, 0.0]  # seconds of daemon, launcher; of all that were got through
        ours: dict[str, list[float]] = {name: [] for name in ("one", "batch", "eight", "through", "both", "alone")}
        for _ in range(rounds):
            ours["one"].append(rate(jobs, lambda: submit_many(client, jobs, "true", each=1)))
            ours["through"].append(drained(daemon, jobs, jobs_cpu))
            ours["eight"].append(rate(jobs, lambda: by_eight(daemon, jobs)))
            ours["through"].append(drained(daemon, jobs, jobs_cpu))
            ours["batch"].append(rate(10 * jobs, lambda: submit_many(client, 10 * jobs, "true")))
            daemon.cancel_all()
        client.resume()
        for _ in range(rounds):
            ours["both"].append(rate(jobs, lambda: (by_eight(daemon, jobs), daemon.wait_until())))
            ours["alone"].append(rate(jobs, lambda: (submit_many(client, jobs, "true", each=1), daemon.wait_until())))
        batch = goal(max(filter(None, (theirs.submit_one, theirs.submit_eight)), default=None))
        medians = {name: statistics.median(values) for name, values in ours.items()}
        yield Row("submit, one client, a job in a request", medians["one"], "jobs/s", slurm=theirs.submit_one)
        yield Row(f"submit, one client, {BATCH} in a request", medians["batch"], "jobs/s", batch)
        yield Row(
            f"submit, {CLIENTS} clients, a job in a request", medians["eight"], "jobs/s", slurm=theirs.submit_eight
        )
        yield Row("jobs that wait, got through", medians["through"], "jobs/s", goal(theirs.through), theirs.through)
        each = [1000 * seconds / (2 * rounds * jobs) for seconds in jobs_cpu]
        yield Row("  CPU of the daemon for each", each[0], "ms")
        yield Row("  CPU of launcher and zygote for each", each[1], "ms")
        yield Row("jobs, one client, until all is over", medians["alone"], "jobs/s")
        yield Row(f"{CLIENTS} clients submit, until all is over", medians["both"], "jobs/s", slurm=theirs.both)
        yield Row(
            "submit until the first line of output",
            1000 * first_line(daemon, 10 * rounds),
            "ms",
            slurm=theirs.first_line,
        )


def goal(theirs: float | None) -> str:
    """Not less than Slurm in this run; "" where it is not there."""
    return "" if theirs is None else f">= {figure(theirs)}"


def rate(jobs: int, work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return jobs / (time.perf_counter() - begin)


def by_eight(daemon: Alive, jobs: int) -> None:
    def work() -> list[float]:
        with daemon.client() as client:
            submit_many(client, jobs // CLIENTS, "true", each=1)
        return []

    side_by_side([work] * CLIENTS)


def drained(daemon: Alive, jobs: int, used: list[float]) -> float:
    """Jobs per second, of those that wait on a drained node; it is drained again. `used`: the CPU time is added."""
    pids = [[daemon.pid], daemon.launcher_pids()]
    before = [sum(map(cpu_of, some)) for some in pids]
    with daemon.client() as client:
        begin = time.perf_counter()
        client.resume()
        daemon.wait_until()
        took = time.perf_counter() - begin
        client.drain("bench")
        for number, some in enumerate(pids):
            used[number] += sum(map(cpu_of, some)) - before[number]
        return jobs / took


def first_line(daemon: Alive, times: int) -> float:
    """Seconds, the median."""
    spent = []
    with daemon.client() as client:
        for number in range(times):
            path = daemon.folder / f"line-{number}"
            begin = time.perf_counter()
            submit(client, [command(number, "echo", "here", stdout=str(path))])
            spent.append(slurm.until_written(path) - begin)
            daemon.wait_until()
            time.sleep(0.05)
    return statistics.median(spent)


# Nothing grows.


def many_jobs(jobs: int) -> Iterator[Row]:
    with alive() as daemon, daemon.client() as client:
        sizes: list[int] = []
        part = max(jobs // 10, BATCH)
        for _ in range(10):
            submit_many(client, part, "true", cpus=0.25)
            daemon.wait_until(pause=0.2)
            sizes.append(daemon.memory())
        launcher = sum(map(memory_of, daemon.launcher_pids()))
        yield Row(f"daemon, memory after {part:,} jobs", sizes[0] / MIB, "MiB")
        yield Row(f"daemon, memory after {5 * part:,} jobs", sizes[4] / MIB, "MiB")
        yield Row(f"daemon, memory after {10 * part:,} jobs", sizes[9] / MIB, "MiB")
        yield Row(f"launcher and zygote, after {10 * part:,} jobs", launcher / MIB, "MiB")


def show(rows: list[Row]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("DAEMON")
    for title in ("MEASURED", "", "GOAL", "SLURM"):
        table.add_column(title, justify="right" if title else "left")
    for row in rows:
        theirs = "" if row.slurm is None else figure(row.slurm)
        table.add_row(row.what, figure(row.value), row.unit, row.goal, theirs)
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    release, load = os.uname().release, os.getloadavg()[0]
    console.print(f"\nLinux {release}, {os.cpu_count()} CPUs, load {load:.1f}", highlight=False)


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


@click.command()
@click.option("--queued", default=10_000, show_default=True, type=click.IntRange(min=1), help="Jobs that wait.")
@click.option("--running", default=200, show_default=True, type=click.IntRange(1, 250), help="Jobs that sleep.")
@click.option("--jobs", default=400, show_default=True, type=click.IntRange(min=8), help="Short jobs of one round.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1), help="How often.")
@click.option("--idle", default=60.0, show_default=True, help="Seconds in which nothing happens.")
@click.option("--ended", default=0, show_default=True, help="Short jobs, to see whether memory grows; 0: none.")
@click.option("--only", type=click.Choice(["queue", "throughput", "ended"]), help="Only this part.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def main(
    queued: int, running: int, jobs: int, rounds: int, idle: float, ended: int, only: str | None, as_json: bool
) -> None:
    """Measure the daemon."""
    if os.geteuid():
        raise click.ClickException("the daemon runs jobs of every user, and needs root for that")
    rows: list[Row] = []
    jobs -= jobs % CLIENTS
    if only in (None, "queue"):
        rows += large_queue(queued, running, rounds, idle)
    if only in (None, "throughput"):
        rows += throughput(jobs, rounds, slurm.find())
    if ended and only in (None, "ended"):
        rows += many_jobs(ended)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        show(rows)


if __name__ == "__main__":
    main()
