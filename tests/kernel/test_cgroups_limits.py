"""Limits on the real kernel: what jobs get is measured, not what was written."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cgroup_jobs import Job, cpu_seconds, in_vm, jobs, last_cpu, name, needs_root, open_or_skip, sleep, spin, within

from batchns.errors import StepError
from batchns.kernel.cgroups import actions, parse
from batchns.kernel.cgroups.common import Common
from batchns.kernel.cgroups.interface import Driver, Limits

pytestmark = [pytest.mark.kernel, needs_root]
MIB = 1 << 20


@pytest.fixture
def driver() -> Iterator[Driver]:
    found = open_or_skip()
    yield found
    found.release()


def test_shares_of_3_to_1_give_cpu_time_of_3_to_1(driver: Driver) -> None:
    """Two spinning processes on one CPU, within 5 %, on every hierarchy version."""
    cpu = max(os.sched_getaffinity(0))
    few, many = Limits(cpu_shares=1024, cpuset_cpus=str(cpu)), Limits(cpu_shares=3072, cpuset_cpus=str(cpu))
    with jobs(driver, (name("a"), few), (name("b"), many)) as (a, b):
        one, three = a.spawn(spin), b.spawn(spin)
        ratios = []
        for _ in range(5):
            before, end = (cpu_seconds(one), cpu_seconds(three)), time.monotonic() + 30
            time.sleep(2)
            while cpu_seconds(one) - before[0] < 0.4 and time.monotonic() < end:
                time.sleep(0.2)  # a virtual machine may not have had its processor meanwhile
            ratios.append((cpu_seconds(three) - before[1]) / (cpu_seconds(one) - before[0]))
            if len(ratios) >= 3 and statistics.median(ratios) == pytest.approx(3, rel=0.05):
                break
    assert statistics.median(ratios) == pytest.approx(3, rel=0.05), ratios


def test_a_cpuset_keeps_processes_on_its_cpus_and_nodes(driver: Driver) -> None:
    cpu = max(os.sched_getaffinity(0))
    limits = Limits(cpuset_cpus=str(cpu), cpuset_mems="0")
    with Job(driver, name("set"), limits) as job:
        spinners = [job.spawn(spin) for _ in range(3)]
        seen = set()
        for _ in range(20):
            seen |= {last_cpu(pid) for pid in spinners}
            time.sleep(0.02)
        assert seen == {cpu}
        assert all(os.sched_getaffinity(pid) == {cpu} for pid in spinners)
        readings = driver.readings(limits, job.plan, job.values)
    assert (readings["cpuset_cpus"].value, readings["cpuset_cpus"].source) == (str(cpu), "cpuset.cpus")
    assert (readings["cpuset_mems"].value, readings["cpuset_mems"].source) == ("0", "cpuset.mems")


def test_cpus_that_are_not_there_are_said_and_not_written(driver: Driver) -> None:
    limits = Limits(cpuset_cpus="4000")
    with Job(driver, name("far"), limits) as job:
        pid = job.spawn(spin)
        reading = driver.readings(limits, job.plan, job.values)["cpuset_cpus"]
        assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
    assert reading.value is None
    assert "4000 was asked for, but only" in reading.why


def eat(size: int) -> None:
    memory = mmap.mmap(-1, size)
    for offset in range(0, size, mmap.PAGESIZE):
        memory[offset] = 1
    os._exit(7)


def test_the_memory_limit_kills_its_own_job_and_no_neighbour(driver: Driver) -> None:
    """The OOM kill is recognised, the peak stands at the limit, the neighbour lives on."""
    limits = Limits(memory=48 * MIB)
    with jobs(driver, (name("big"), limits), (name("next"), limits)) as (big, neighbour):
        other = neighbour.spawn(sleep)
        pid = big.spawn(lambda: eat(96 * MIB))
        big.children.remove(pid)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        usage = driver.usage(actions.read_final(big.plan))
        reading = driver.readings(limits, big.plan, big.values)["memory"]
        assert driver.read_usage(neighbour.name).oom_kills == 0
        assert driver.pids(neighbour.name) == [other]
    assert usage.oom_kills == 1
    assert usage.memory_peak_bytes is not None
    assert 0.9 * 48 * MIB <= usage.memory_peak_bytes <= 1.02 * 48 * MIB
    assert (reading.value, reading.why) == (48 * MIB, "")


def test_a_job_within_its_memory_limit_is_left_alone(driver: Driver) -> None:
    with Job(driver, name("fit"), Limits(memory=48 * MIB)) as job:
        pid = job.spawn(lambda: eat(16 * MIB))
        job.children.remove(pid)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        usage = driver.read_usage(job.name)
    assert usage.oom_kills == 0
    assert usage.memory_peak_bytes is not None
    assert 16 * MIB <= usage.memory_peak_bytes < 48 * MIB


def test_all_jobs_together_have_a_bound_of_processes(driver: Driver) -> None:
    """Each alone is far below its own; the one beside it, and the machine, go on."""

    def bomb() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                if os.fork() == 0:
                    time.sleep(1000)
        time.sleep(1000)

    driver.bound(30)
    with Job(driver, name("first"), Limits(pids=1000)) as first, Job(driver, name("second"), Limits(pids=1000)) as two:
        other = two.spawn(sleep)
        first.spawn(bomb)
        assert within(20, lambda: len(driver.pids(first.name)) == 29)
        time.sleep(0.5)
        assert (len(driver.pids(first.name)), driver.pids(two.name)) == (29, [other])


def test_the_pids_limit_holds_a_fork_bomb(driver: Driver) -> None:
    def bomb() -> None:
        while True:
            try:
                os.fork()
            except BlockingIOError:
                time.sleep(0.01)

    with Job(driver, name("bomb"), Limits(pids=20)) as job:
        job.spawn(bomb)
        assert within(20, lambda: len(driver.pids(job.name)) == 20)
        counts = []
        for _ in range(30):
            counts.append(len(driver.pids(job.name)))
            time.sleep(0.01)
        assert max(counts) <= 20


def test_cpu_time_of_a_job_is_what_its_processes_burned(driver: Driver) -> None:
    def burn() -> None:
        while time.process_time() < 0.5:
            pass
        os._exit(0)

    with Job(driver, name("burn")) as job:
        pid = job.spawn(burn)
        job.children.remove(pid)
        os.waitpid(pid, 0)
        assert driver.read_usage(job.name).cpu_seconds == pytest.approx(0.5, abs=0.15)
        assert driver.usage(actions.read_final(job.plan)) == driver.read_usage(job.name)


def test_an_impossible_limit_leaves_nothing_behind(driver: Driver) -> None:
    """All or nothing: the kernel refuses one value, and every directory is removed again."""
    plan = driver.plan(name("bad"), Limits(pids=-5))
    with pytest.raises(StepError) as caught:
        actions.apply(plan)
    assert caught.value.step == "cgroup"
    assert caught.value.path.endswith("/pids.max")
    assert "'-5'" in caught.value.hint
    assert name("bad") not in driver.names()


def test_a_leftover_directory_is_never_taken_over(driver: Driver) -> None:
    with Job(driver, name("twice")) as job:
        with pytest.raises(StepError, match="File exists"):
            actions.apply(job.plan)
        assert driver.names().count(job.name) == 1
        assert all(os.path.isdir(path) for path in job.plan.directories)


def test_the_effective_cpus_are_a_cpu_list(driver: Driver) -> None:
    """What a whole-node cpuset would be given is what this test may use."""
    every = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    limits = Limits(cpuset_cpus=every)
    with Job(driver, name("all"), limits) as job:
        value = driver.readings(limits, job.plan, job.values)["cpuset_cpus"].value
    assert parse.cpu_list(str(value)) == os.sched_getaffinity(0)


def test_a_read_of_a_live_jobs_usage_is_cheap(driver: Driver) -> None:
    """Kept-open files: far below a millisecond, so that a daemon can watch hundreds of jobs each second."""
    with Job(driver, name("cheap")) as job:
        driver.read_usage(job.name)
        start = time.perf_counter()
        for _ in range(100):
            driver.read_usage(job.name)
        each = (time.perf_counter() - start) / 100
    assert each < (0.02 if in_vm() else 0.002)
    with pytest.raises(FileNotFoundError):
        driver.read_usage(job.name)


def test_a_run_that_ends_does_not_take_the_common_parent_from_another(driver: Driver, tmp_path: Path) -> None:
    """On the kernel's own file system: the last one to let go removes it."""
    other = open_or_skip()
    other.release()
    with Job(driver, name("after")) as job:
        for directory in job.plan.directories:
            first, second = Common(directory, str(tmp_path)), Common(directory, str(tmp_path))
            first.hold()
            second.hold()
            first.release()
            assert os.path.isdir(second.path)
            second.release()
            assert not os.path.exists(second.path)
