"""What does a decision cost on a large machine with a long queue?

    python -m bench.decide [--pending N] [--running N] [--json]

1. The node has 2,048 CPUs. Every decision follows one change: a job ends, or one arrives, in turn.
2. Twenty users ask for powers of two of CPUs and several amounts of memory and time, always the same ones.
3. Memory is what the allocator gave for a pending job beyond its spec (tracemalloc); jobs of one array share a spec.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import Iterator

import click
from attrs import frozen
from rich.console import Console
from rich.table import Table

from batchns.core.admit import admit, expand
from batchns.core.decide import decide
from batchns.core.job import Job
from batchns.core.node import NodeCapacity
from batchns.core.perform import perform
from batchns.core.schedule import Schedule
from batchns.model.config import Config, Order, Preemption, Queue, ScheduleSettings
from batchns.model.job import JobSpec, PreemptMode, Resources
from batchns.model.lifecycle import Event

CPUS = 2048
GIB = 1 << 30
NODE = NodeCapacity(cpus=tuple(range(CPUS)), memory=8 * CPUS * GIB)
POLICIES = {
    "submitted, 1 reservation": ScheduleSettings(preempt=Preemption.OFF),
    "shortest, preempt shorter": ScheduleSettings(
        order=Order.SHORTEST, reservations=0, preempt=Preemption.SHORTER, max_frozen=3 * 86400.0
    ),
}


@frozen
class Measured:
    policy: str
    after: str
    decisions: int
    median_ms: float
    p99_ms: float
    actions: int
    bytes_per_job: float


def specs(rng: random.Random, count: int, cpus: tuple[int, ...]) -> list[JobSpec]:
    return [
        JobSpec(
            name="job",
            command=("true",),
            cwd="/",
            time_limit=float(rng.choice([10, 30, 60, 120, 240, 480, 1440]) * 60),
            resources=Resources(cpus=rng.choice(cpus), memory=rng.choice([1, 2, 4, 8]) * GIB),
        )
        for _ in range(count)
    ]


def jobs(rng: random.Random, count: int, first: int, config: Config, now: float, cpus: tuple[int, ...]) -> list[Job]:
    made = []
    for user in range(20):
        part = specs(rng, count // 20 or 1, cpus)
        made += expand(admit(part, NODE, config), first + user * 1_000_000, config, now, user=f"user{user}")
    return made


def measure(name: str, settings: ScheduleSettings, pending: int, running: int, rounds: int) -> Iterator[Measured]:
    """Fill the node, then the queue, then change one thing at a time."""
    config = Config(schedule=settings, queues={"normal": Queue(preempt_mode=PreemptMode.SUSPEND)})
    rng, schedule, now = random.Random(1), Schedule(NODE, config), 0.0
    schedule.submit(jobs(rng, running, 1, config, now, (1, 2)))
    settle(schedule, now)
    waiting = jobs(rng, pending, 100_000_000, config, now, (1, 2, 4, 8, 16, 32))
    schedule.submit(jobs(rng, 100, 50_000_000, config, now, (CPUS,)))  # so that nobody finds the node empty
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    extra = jobs(rng, 20_000, 300_000_000, config, now, (1, 2, 4, 8, 16, 32))
    schedule.submit(extra)
    each = (tracemalloc.get_traced_memory()[0] - before) / len(extra) - spec_bytes(rng)
    tracemalloc.stop()
    schedule.submit(waiting[: pending - len(extra)])
    settle(schedule, now)
    gc.collect()
    gc.disable()
    for after in ("an end", "an arrival"):
        took, actions = [], 0
        for number in range(rounds):
            now += 7.0
            if after == "an end":
                schedule.finish(next(job.id for job in schedule.running), Event.EXITED_OK, now)
            else:
                first = 400_000_000 + number
                one = admit(specs(rng, 1, (1, 2, 4, 8)), NODE, config)
                schedule.submit(expand(one, first, config, now, user="user1"))
            begin = time.perf_counter()
            answer = decide(schedule, now)
            took.append(1000 * (time.perf_counter() - begin))
            actions += len(answer)
            for action in answer:
                perform(schedule, action, now)
            settle(schedule, now)
        took.sort()
        yield Measured(name, after, rounds, statistics.median(took), took[int(0.99 * rounds)], actions, each)
    gc.enable()


def spec_bytes(rng: random.Random) -> float:
    """What the specs alone are."""
    before = tracemalloc.get_traced_memory()[0]
    kept = specs(rng, 2000, (1, 2))
    return (tracemalloc.get_traced_memory()[0] - before) / len(kept)


def settle(schedule: Schedule, now: float) -> None:
    while actions := decide(schedule, now):
        for action in actions:
            perform(schedule, action, now)


@click.command()
@click.option("--pending", default=100_000, show_default=True, help="Jobs that wait.")
@click.option("--running", default=1_000, show_default=True, help="Jobs that run.")
@click.option("--rounds", default=50, show_default=True, help="Decisions of each kind.")
@click.option("--json", "as_json", is_flag=True, help="Print an object for each kind instead of a table.")
def main(pending: int, running: int, rounds: int, as_json: bool) -> None:
    """Time a decision with many jobs in the queue."""
    found = [one for name, settings in POLICIES.items() for one in measure(name, settings, pending, running, rounds)]
    if as_json:
        for one in found:
            click.echo(json.dumps({name: getattr(one, name) for name in Measured.__slots__ if name[0] != "_"}))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("POLICY", "AFTER", "MEDIAN MS", "P99 MS", "ACTIONS", "B PER JOB"):
        table.add_column(title, justify="left" if title in ("POLICY", "AFTER") else "right")
    for one in found:
        figures = (f"{one.median_ms:.1f}", f"{one.p99_ms:.1f}", str(one.actions), f"{one.bytes_per_job:.0f}")
        table.add_row(one.policy, one.after, *figures)
    console = Console(width=None if sys.stdout.isatty() else 80)
    console.print(table)
    console.print(f"\n{pending:,} pending and {running:,} running jobs on {CPUS:,} CPUs", highlight=False)


if __name__ == "__main__":
    main()
