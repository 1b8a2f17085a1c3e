"""Frozen jobs on other CPUs: where their threads run after the thaw, on the real kernel."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from cgroup_jobs import Job, name, needs_root, spin, within

from batchns.kernel.cgroups import cpusets
from batchns.kernel.cgroups.interface import Driver, Limits
from batchns.kernel.cgroups.none import NoCgroups

FROM, TO = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
two_cpus = pytest.mark.skipif(FROM == TO, reason="there is only one CPU")
on_kernel = [pytest.mark.kernel, needs_root]


def spin_in_threads() -> None:
    for _ in range(2):
        threading.Thread(target=spin, daemon=True).start()
    spin()


def threads(job: Job) -> list[str]:
    return [task for pid in job.driver.pids(job.name) for task in map(str, Path(f"/proc/{pid}/task").iterdir())]


def last_cpus(tasks: list[str]) -> set[int]:
    """The processor field of each thread's stat: proc_pid_stat(5)."""
    return {int(Path(task, "stat").read_text().rpartition(")")[2].split()[36]) for task in tasks}


def seconds(job: Job) -> float:
    used = job.driver.read_usage(job.name).cpu_seconds
    assert used is not None
    return used


@pytest.mark.kernel
@needs_root
@two_cpus
def test_a_job_that_was_frozen_on_one_cpu_goes_on_on_another(driver: Driver) -> None:
    """All threads of all its processes, those that were forked later included; and its CPU time goes on."""
    with Job(driver, name("move"), Limits(cpuset_cpus=str(FROM), cpuset_mems="0")) as job:
        for _ in range(2):
            job.spawn(spin_in_threads)
        assert within(20, lambda: len(threads(job)) == 6)
        assert driver.freeze(job.name, 5)
        tasks = threads(job)
        assert last_cpus(tasks) == {FROM}
        reading = driver.set_cpus(job.name, str(TO), "0")
        assert (reading.value, reading.source) == (str(TO), "cpuset.cpus")
        before = seconds(job)
        time.sleep(0.3)
        assert seconds(job) == before, "it must not run before it is thawed"
        assert driver.thaw(job.name, 5)
        assert all(os.sched_getaffinity(int(task.rpartition("/")[2])) == {TO} for task in tasks)
        assert within(20, lambda: last_cpus(tasks) == {TO})
        job.spawn(spin)
        for _ in range(20):
            assert last_cpus(threads(job)) == {TO}
            time.sleep(0.02)
        assert within(20, lambda: seconds(job) > before + 0.3)


@pytest.mark.kernel
@needs_root
@two_cpus
def test_a_process_that_had_pinned_itself_is_moved_as_well(driver: Driver) -> None:
    def pinned() -> None:
        os.sched_setaffinity(0, {FROM})
        spin()

    with Job(driver, name("pin"), Limits(cpuset_cpus=f"{FROM},{TO}", cpuset_mems="0")) as job:
        pid = job.spawn(pinned)
        assert within(20, lambda: os.sched_getaffinity(pid) == {FROM})
        assert driver.freeze(job.name, 5)
        driver.set_cpus(job.name, str(TO), "0")
        assert driver.thaw(job.name, 5)
        assert os.sched_getaffinity(pid) == {TO}
        assert within(20, lambda: last_cpus(threads(job)) == {TO})


@pytest.mark.kernel
@needs_root
@pytest.mark.parametrize(
    ("cpus", "mems", "file"), [("4000", "0", "cpuset.cpus"), (str(TO), "900", "cpuset.mems"), ("x", "0", "cpuset.cpus")]
)
def test_what_the_kernel_refuses_is_named_and_changes_nothing(driver: Driver, cpus: str, mems: str, file: str) -> None:
    with Job(driver, name("refused"), Limits(cpuset_cpus=str(FROM), cpuset_mems="0")) as job:
        pid = job.spawn(spin)
        value = mems if file == "cpuset.mems" else cpus
        with pytest.raises(OSError, match=f"write '{value}'") as caught:
            driver.set_cpus(job.name, cpus, mems)
        assert str(caught.value.filename).endswith(f"/{job.name}/{file}")
        assert os.sched_getaffinity(pid) == {FROM}
        assert driver.set_cpus(job.name, str(FROM), "0").value == str(FROM)


@pytest.mark.kernel
@needs_root
def test_a_job_without_a_cpuset_is_told_apart_from_no_job(driver: Driver) -> None:
    """On v1 only a job that was launched with a cpuset has one; on v2 every job has."""
    with Job(driver, name("plain")) as job:
        reading = driver.set_cpus(job.name, str(TO), "0")
        has = any(os.path.exists(f"{directory}/cpuset.cpus") for directory in job.plan.directories)
        assert reading.value == (str(TO) if has else None)
        assert has or "without a cpuset" in reading.why
    with pytest.raises(FileNotFoundError):
        driver.set_cpus(job.name, str(TO), "0")


def cpuset(folder: Path, **texts: str) -> str:
    """A cpuset of plain files, whose effective lists are what is written into them."""
    for file, text in texts.items():
        (folder / f"cpuset.{file}").write_text(text)
    for file in ("cpus", "mems"):
        (folder / f"cpuset.{file}.effective").symlink_to(f"cpuset.{file}")
    return str(folder)


def test_pages_migrate_only_when_the_nodes_change(tmp_path: Path) -> None:
    """Copying memory costs: cpuset.memory_migrate is touched for a job that leaves its node, and for no other."""
    directory = cpuset(tmp_path, cpus="0", mems="0-1", memory_migrate="0")
    assert cpusets.move(directory, "1", "0,1") == "1"
    assert (tmp_path / "cpuset.memory_migrate").read_text() == "0"
    assert cpusets.move(directory, "2", "1") == "2"
    assert (tmp_path / "cpuset.memory_migrate").read_text() == "1"


def test_nodes_are_put_back_when_the_cpus_are_refused(tmp_path: Path) -> None:
    directory = cpuset(tmp_path, cpus="0", mems="0")
    (tmp_path / "cpuset.cpus.effective").unlink()
    (tmp_path / "cpuset.cpus.effective").write_text("0")
    with pytest.raises(OSError, match=r"write '7': only 0 of it is to be had here"):
        cpusets.move(directory, "7", "1")
    assert (tmp_path / "cpuset.mems").read_text() == "0"
    assert (tmp_path / "cpuset.cpus").read_text() == "0"


def test_without_cgroups_the_reason_is_the_drivers() -> None:
    assert NoCgroups("nothing delegated").set_cpus("a", "0", "0").why == "nothing delegated"
