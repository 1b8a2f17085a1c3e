"""Which shapers are asked: those inside of jobs cost a visit each."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Mapping

import pytest
from attrs import define, field

from batchns.kernel.network.types import Counters
from batchns.metrics.shapers import Drops, Shapers
from batchns.metrics.snapshot import JobNow

JOB = JobNow("7", "a", "n", "ada", "normal", 1.0, 0.0, False, 0.0, 0.0, egress=1e6, link="bns-a")
GONE = OSError(errno.ESRCH, "No such process")


@define(slots=False)
class Place:
    """Stands for the cgroups' driver, and for the kernel's answers inside of jobs."""

    processes: list[int] = field(factory=lambda: [os.getpid()])
    answer: int | OSError = 5
    visited: list[str] = field(factory=list)

    def pids(self, name: str) -> list[int]:
        return self.processes

    def drops_inside(self, processes: Mapping[str, int]) -> dict[str, int | OSError]:
        self.visited += processes
        return dict.fromkeys(processes, self.answer)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place()
    monkeypatch.setattr("batchns.kernel.network.traffic.drops_inside", made.drops_inside)
    return made


@pytest.fixture
def shapers(place: Place) -> Shapers:
    return Shapers(place, Counter())  # type: ignore[arg-type]


def asked(shapers: Shapers, sent: int, job: JobNow = JOB) -> Drops:
    return shapers.read([job], {"bns-a": Counters(sent, 0)})["a"]


def test_a_job_is_visited_again_only_where_it_has_sent_something_since(place: Place, shapers: Shapers) -> None:
    assert asked(shapers, 100) == Drops(5, None)
    assert asked(shapers, 100) == Drops(None, None)
    assert place.visited == ["a"]
    place.answer = 9
    assert asked(shapers, 101) == Drops(9, None)
    assert place.visited == ["a", "a"]


def test_a_job_without_a_rate_for_what_it_sends_is_not_visited(place: Place, shapers: Shapers) -> None:
    assert asked(shapers, 100, JOB._replace(egress=None)) == Drops()
    assert place.visited == []


def test_where_the_process_has_ended_another_one_of_the_job_is_taken(place: Place, shapers: Shapers) -> None:
    before = len(os.listdir("/proc/self/fd"))
    place.answer = GONE
    assert asked(shapers, 100) == Drops()
    place.answer = 2
    assert asked(shapers, 100) == Drops(2, None)
    assert shapers.errors == {}
    assert len(os.listdir("/proc/self/fd")) == before + 1
    shapers.keep({})
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_job_without_processes_is_asked_the_next_time(place: Place, shapers: Shapers) -> None:
    place.processes = []
    assert asked(shapers, 100) == Drops()
    place.processes = [os.getpid()]
    assert asked(shapers, 100) == Drops(5, None)


def test_what_the_kernel_refuses_is_counted_and_tried_again(place: Place, shapers: Shapers) -> None:
    place.answer = OSError(errno.EPERM, "Operation not permitted")
    assert asked(shapers, 100) == Drops()
    assert shapers.errors == {"shaper": 1}
    place.answer = 1
    assert asked(shapers, 100) == Drops(1, None)


def test_a_number_that_is_not_the_jobs_any_more_is_left_alone(place: Place, shapers: Shapers) -> None:
    lists = [[os.getpid()], []]
    shapers.driver.pids = lambda name: lists.pop(0)  # type: ignore[method-assign]
    before = len(os.listdir("/proc/self/fd"))
    assert asked(shapers, 100) == Drops()
    assert place.visited == [] and len(os.listdir("/proc/self/fd")) == before
