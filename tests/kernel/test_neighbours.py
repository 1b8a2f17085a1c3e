"""What others do: texts of /proc as numbers, and processes inside and outside of our cgroups on the real kernel."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cgroup_jobs import Job, cpu_seconds, name, needs_root, spin

from batchns.kernel.cgroups.interface import Driver
from batchns.kernel.neighbours import Neighbours, Pressure, busy_ticks, some_avg10

TICK = 1 / os.sysconf("SC_CLK_TCK")
#       user nice system idle iowait irq softirq steal guest guest_nice
STAT = """\
cpu  9999 9999 9999 9999 9999 9999 9999 9999 9999 9999
cpu0 1 2 4 1000 2000 8 16 4000 1 0
cpu1 100 0 0 0 0 0 0 0 0 0
cpu10 7 0 0 0 0 0 0
intr 12345
"""


@pytest.mark.parametrize(("cpus", "ticks"), [({0}, 31), ({1}, 100), ({10}, 7), ({0, 10}, 38), ({3}, 0), ((), 0)])
def test_busy_is_neither_idle_nor_stolen_nor_somebody_elses_cpu(cpus: set[int], ticks: int) -> None:
    assert busy_ticks(STAT, cpus) == ticks


def test_pressure_is_read_from_the_line_of_some() -> None:
    text = "some avg10=41.97 avg60=12.17 avg300=7.70 total=201143690\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=0\n"
    assert some_avg10(text) == 41.97
    assert some_avg10("") is None
    assert some_avg10("full avg10=1.00\n") is None


class Machine:
    """A /proc of files, and a counter of our jobs, in seconds."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        self.ours: float | None = 0.0
        self.busy(0)

    def busy(self, seconds: float) -> None:
        (self.proc / "stat").write_text(f"cpu0 {round(seconds / TICK)} 0 0 0 0 0 0 0 0 0\n")

    def neighbours(self) -> Neighbours:
        return Neighbours({0}, lambda: self.ours, proc=str(self.proc))


def test_what_jobs_used_is_taken_off_and_time_divides_the_rest(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    neighbours = machine.neighbours()
    assert neighbours.sample(100) is None
    machine.busy(8)
    machine.ours = 6.0
    assert neighbours.sample(104) == pytest.approx(0.5)
    machine.busy(9)
    assert neighbours.sample(105) == pytest.approx(1.0)


def test_what_is_not_known_is_none_and_never_negative(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    neighbours = machine.neighbours()
    neighbours.sample(0)
    machine.ours = 5.0  # more than the ticks show
    assert neighbours.sample(1) == 0.0
    assert neighbours.sample(1) is None, "no time has passed"
    machine.ours = None
    assert neighbours.sample(2) is None
    machine.ours = 5.0
    assert neighbours.sample(3) is None, "there is nothing before to compare with"
    assert neighbours.sample(4) == 0.0


def test_a_kernel_without_pressure_files_tells_none(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure" / "io").write_text("some avg10=3.50 avg60=0.00 avg300=0.00 total=0\n")
    assert machine.neighbours().pressure() == Pressure(None, None, 3.5)


@pytest.fixture
def outside() -> Iterator[Callable[[], int]]:
    """Starts a process that spins in the test's own cgroup."""
    started = []

    def start() -> int:
        pid = os.fork()
        if pid == 0:
            os.nice(-20)  # beside whatever else the machine is doing
            spin()
        started.append(pid)
        return pid

    yield start
    for pid in started:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def over(neighbours: Neighbours, seconds: float) -> float:
    neighbours.sample(time.monotonic())
    time.sleep(seconds)
    found = neighbours.sample(time.monotonic())
    assert found is not None
    return found


@pytest.mark.kernel
@needs_root
def test_spinning_inside_our_cgroups_does_not_count(driver: Driver) -> None:
    """Other work on the machine counts, too: so it is held against what the jobs leave of the CPUs, not against 0."""
    cpus = os.sched_getaffinity(0)
    neighbours = Neighbours(cpus, driver.jobs_cpu_seconds)
    with Job(driver, name("inside")) as job:
        for _ in range(2 * len(cpus)):
            job.spawn(spin)
        before, start = driver.jobs_cpu_seconds(), time.monotonic()
        found = over(neighbours, 3)
        after, seconds = driver.jobs_cpu_seconds(), time.monotonic() - start
    assert before is not None
    assert after is not None
    ours = (after - before) / seconds
    assert ours > 0.1, "the jobs did run"
    assert found <= len(cpus) - ours / 2, "half-way between what is right and what counts the jobs as well"


@pytest.mark.kernel
@needs_root
def test_spinning_outside_our_cgroups_counts(driver: Driver, outside: Callable[[], int]) -> None:
    neighbours = Neighbours(os.sched_getaffinity(0), driver.jobs_cpu_seconds)
    pid = outside()
    before, start = cpu_seconds(pid), time.monotonic()
    found = over(neighbours, 3)
    its_own = (cpu_seconds(pid) - before) / (time.monotonic() - start)
    assert its_own > 0.1, "it did run"
    assert found >= its_own - 0.05


@pytest.mark.kernel
@needs_root
def test_jobs_that_ended_still_count_as_ours(driver: Driver) -> None:
    """Else their CPU time would become the neighbours', all at once."""
    used = driver.jobs_cpu_seconds()
    assert used is not None
    with Job(driver, name("ended")) as job:
        job.spawn(spin)
        time.sleep(1)
    after = driver.jobs_cpu_seconds()
    assert after is not None
    assert after >= used + 0.1
