"""What is over and forgotten leaves nothing behind, however many jobs there have been."""

from __future__ import annotations

import gc
import tracemalloc

from attrs import evolve
from core_helpers import GIB, node, spec

from batchns.core.admit import admit, expand
from batchns.core.decide import decide
from batchns.core.perform import perform
from batchns.core.schedule import Schedule
from batchns.model.config import Bound, Config, Order, Preemption, Queue, ScheduleSettings
from batchns.model.lifecycle import Event

MIB = 1 << 20
CONFIG = Config(
    queues={"normal": Queue(total=Bound(cpus=8.0), per_user=Bound(jobs=100))},
    schedule=ScheduleSettings(order=Order.SHORTEST, preempt=Preemption.SHORTER),
)


class Life:
    """Jobs come and go on eight CPUs, each of another name, demand and length; some depend on the one before."""

    def __init__(self) -> None:
        self.schedule = Schedule(node(8), CONFIG)
        self.now = 0.0
        self.made = 0
        (self.plain,) = admit([spec(cpus=1, memory=GIB, time_limit=9.0)], node(8), CONFIG)

    def go_on(self, count: int) -> None:
        for _ in range(count // 10):
            self._submit(10)
            self._run()

    def _submit(self, count: int) -> None:
        schedule, entries = self.schedule, []
        for number in range(self.made, self.made + count):
            after = [f"afterok:n{number - 1}"] if number % 10 == 1 else []
            one = spec(f"n{number}", after=after, tasks=3 if number % 10 == 2 else None, queue="normal")
            memory = (self.made * 10 + number) % 100_000 * 4096 + MIB
            demand = evolve(self.plain.demand, memory=memory)
            bounds = evolve(self.plain.bounds, memory=memory, time_limit=9.0 + number / 1e6)
            entries.append(evolve(self.plain, spec=one, demand=demand, bounds=bounds))
        known = schedule.known("alice")
        schedule.submit(expand(entries, self.made + 1, CONFIG, self.now, user="alice", known=known))
        self.made += count

    def _run(self) -> None:
        schedule = self.schedule
        while not schedule.finished:
            while actions := decide(schedule, self.now):
                for action in actions:
                    perform(schedule, action, self.now)
            self.now += 1.0
            for job_id in schedule.active:
                schedule.finish(job_id, Event.EXITED_OK, self.now)
        for job_id in [job.id for job in schedule]:
            schedule.forget(job_id)
        assert not len(schedule)


def test_memory_does_not_grow_with_the_jobs_that_have_been() -> None:
    life = Life()
    life.go_on(10_000)  # caches fill up
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        life.go_on(20_000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 20_000 * 25, f"{grown / 20_000:.0f} bytes a job"
