"""A simulation takes time in proportion to its jobs, and the clock itself next to none of it.

The trace is one that is repeated: a part is over before the next begins, so that ten parts are ten times the work.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from batchns.core.actions import Launch
from batchns.core.demand import Demand
from batchns.core.job import Job
from batchns.core.placement import Placement
from batchns.simulate import engine
from batchns.simulate.engine import simulate
from batchns.simulate.policies import named
from batchns.simulate.workload import Workload

from . import generate


def repeated(times: int, jobs: int = 1000) -> Workload:
    part = generate.jobs(1, jobs, load=0.7)
    length = sum(job.run for job in part)  # later than that nothing of it can run
    whole = [(job.submit + number * length, job) for number in range(times) for job in part]
    demands = [Demand(whole=count) for count in range(generate.CPUS + 1)]
    return Workload(
        cpus=generate.CPUS,
        ids=[str(number) for number in range(len(whole))],
        submitted=[submit for submit, _ in whole],
        running=[job.run for _, job in whole],
        limit=[job.estimate for _, job in whole],
        demand=[demands[job.processors] for _, job in whole],
        user=["u"] * len(whole),
    )


@contextmanager
def collected_before() -> Iterator[None]:
    """Without the garbage collector, as the command runs it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def seconds(action: Callable[[], object], rounds: int) -> float:
    """CPU seconds of the fastest of so many: what else the machine does only makes it slower."""
    found = []
    for _ in range(rounds):
        with collected_before():
            begin = time.process_time()
            action()
            found.append(time.process_time() - begin)
    return min(found)


class Nothing:
    """A schedule that keeps no books, on a machine where everybody may start at once."""

    finished = True

    def __init__(self) -> None:
        self.new: list[Job] = []

    def submit(self, jobs: Sequence[Job]) -> None:
        self.new += jobs

    def launch(self, *_: object) -> None: ...
    def started(self, *_: object) -> None: ...
    def stop(self, *_: object) -> None: ...
    def finish(self, *_: object) -> None: ...
    def next_deadline(self) -> None: ...


PLACE = Placement((0,), (0,))


def start_all(schedule: Nothing, now: float) -> list[Launch]:
    actions = [Launch(job.id, PLACE) for job in schedule.new]
    schedule.new.clear()
    return actions


def test_the_clock_takes_microseconds_for_an_event(monkeypatch):
    monkeypatch.setattr(engine, "make_schedule", lambda work, config: Nothing())
    work = repeated(20)
    took = seconds(lambda: simulate(work, named("easy"), decide=start_all), rounds=3)
    assert took / (2 * len(work)) < 15e-6


def test_the_clock_takes_no_longer_for_an_event_of_a_long_trace(monkeypatch):
    """Two hundred thousand jobs: the tables are larger than any cache, so that twice as long is allowed."""
    monkeypatch.setattr(engine, "make_schedule", lambda work, config: Nothing())
    short, long = repeated(10), repeated(200)
    one = seconds(lambda: simulate(short, named("easy"), decide=start_all), rounds=3)
    assert seconds(lambda: simulate(long, named("easy"), decide=start_all), rounds=1) < 20 * one * 2


@pytest.mark.parametrize("policy", ["fcfs", "easy"])
def test_ten_times_the_jobs_take_ten_times_as_long(policy):
    short, long = repeated(2), repeated(20)
    one = seconds(lambda: simulate(short, named(policy)), rounds=2)
    assert seconds(lambda: simulate(long, named(policy)), rounds=1) < 10 * one * 1.8
