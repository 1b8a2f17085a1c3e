"""Freezing and killing on the real kernel: over whatever a job's processes may do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cgroup_jobs
import pytest
from cgroup_jobs import Job, cpu_seconds, hybrid, name, needs_root, within, without_v2

from batchns.kernel.cgroups import actions, members
from batchns.kernel.cgroups.detect import open_driver
from batchns.kernel.cgroups.interface import Driver, Limits

pytestmark = [pytest.mark.kernel, needs_root]
BOUND = 2.0  # seconds, of a kill


@pytest.fixture(params=["host", "v1"] if hybrid() else ["host"])
def proc(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The /proc by which a driver is chosen: this host's; on a hybrid host one for the pure v1 driver as well."""
    return "/proc" if request.param == "host" else without_v2(tmp_path_factory.mktemp("proc"))


@pytest.fixture
def driver(proc: str) -> Iterator[Driver]:
    found = open_driver(proc=proc)
    found.prepare()
    yield found
    found.release()


@pytest.fixture
def job(driver: Driver) -> Iterator[Job]:
    with Job(driver, name("f"), Limits(pids=64)) as made:
        yield made


def still(job: Job, progress: Path) -> None:
    """No CPU time passes and no progress is made over a window."""
    pids = job.driver.pids(job.name)
    before = {pid: cpu_seconds(pid) for pid in pids}, progress.stat().st_size
    time.sleep(0.5)
    assert job.driver.pids(job.name) == pids
    assert ({pid: cpu_seconds(pid) for pid in pids}, progress.stat().st_size) == before


def test_a_frozen_job_makes_no_progress_whatever_it_does(job: Job, tmp_path: Path) -> None:
    """Plain, forking, vforking, traced, and stopped processes at once; after the thaw they go on."""
    plain, forks, vforked = tmp_path / "plain", tmp_path / "forks", tmp_path / "vforked"
    job.spawn(lambda: cgroup_jobs.count(plain))
    job.spawn(lambda: cgroup_jobs.fork_and_count(forks))
    job.spawn(lambda: cgroup_jobs.vfork_and_wait(vforked))
    job.spawn(cgroup_jobs.traced_and_stopped)
    job.spawn(cgroup_jobs.stop_itself)
    assert within(20, lambda: all(path.exists() and path.stat().st_size for path in (plain, forks, vforked)))
    for _ in range(3):
        assert job.driver.freeze(job.name, 2)
        for path in (plain, forks, vforked):
            still(job, path)
        sizes = {path: path.stat().st_size for path in (plain, forks, vforked)}
        assert job.driver.thaw(job.name, 2)
        assert within(20, partial(all_grew, sizes))


def all_grew(sizes: dict[Path, int]) -> bool:
    return all(path.stat().st_size > size for path, size in sizes.items())


def test_a_frozen_job_can_be_thawed_and_frozen_twice(job: Job) -> None:
    """Both are idempotent, and an empty job can be frozen as well."""
    assert job.driver.freeze(job.name, 1)
    assert job.driver.freeze(job.name, 1)
    assert job.driver.thaw(job.name, 1)
    assert job.driver.thaw(job.name, 1)


def test_a_freeze_storm_of_forks_is_confirmed(job: Job) -> None:
    job.spawn(cgroup_jobs.fork_on)
    time.sleep(0.2)
    assert job.driver.freeze(job.name, 2)
    frozen = job.driver.pids(job.name)
    time.sleep(0.3)
    assert job.driver.pids(job.name) == frozen


PAYLOADS = {
    "ignores signals": cgroup_jobs.ignore_signals,
    "forks on": cgroup_jobs.fork_on,
    "is stopped": cgroup_jobs.stop_itself,
    "is traced": cgroup_jobs.traced_and_stopped,
    "sleeps": cgroup_jobs.sleep,
}


@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen"])
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_a_kill_ends_a_job_that(payload: Callable[[], None], frozen: bool, job: Job) -> None:
    for _ in range(3):
        job.spawn(payload)
    time.sleep(0.1)
    if frozen:
        assert job.driver.freeze(job.name, 2)
    start = time.monotonic()
    assert job.driver.kill(job.name, BOUND)
    assert time.monotonic() - start < BOUND
    statuses = [os.waitpid(pid, 0)[1] for pid in job.children]
    job.children.clear()
    assert within(1, lambda: job.driver.pids(job.name) == [])
    allowed = {-signal.SIGKILL, 0} if payload is cgroup_jobs.fork_on else {-signal.SIGKILL}
    assert {os.waitstatus_to_exitcode(status) for status in statuses} <= allowed


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_an_old_kernel_needs_other_means_to_kill_a_job_that(
    payload: Callable[[], None], job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """v2 before Linux 5.14 has no cgroup.kill, and a v1 host may have no freezer."""
    for _ in range(3):
        job.spawn(payload)
    time.sleep(0.1)
    monkeypatch.setattr("batchns.kernel.cgroups.v2._can_kill", lambda directory: False)
    monkeypatch.setattr("batchns.kernel.cgroups.v1.V1Driver._hold_still", lambda self, name, deadline: False)
    start = time.monotonic()
    assert job.driver.kill(job.name, BOUND)
    assert time.monotonic() - start < BOUND
    assert within(1, lambda: not any(map(members.running, job.children)))


def test_a_job_that_its_driver_did_not_start_is_found_and_killed(job: Job, proc: str) -> None:
    """A sweep after a crash: another driver, that prepared nothing, knows the job by its name alone."""
    pid = job.spawn(cgroup_jobs.sleep)
    other = open_driver(proc=proc)
    assert type(other) is type(job.driver)
    assert job.name in other.names()
    assert other.pids(job.name) == [pid]
    assert other.read_usage(job.name).cpu_seconds is not None
    assert other.kill(job.name, BOUND)
    assert within(1, lambda: not members.running(pid))  # it leaves its cgroup a moment before its end is told


def test_killing_an_empty_or_absent_job_is_no_error(job: Job) -> None:
    assert job.driver.kill(job.name, 1)
    assert job.driver.kill("not-there", 1)
    job.driver.remove("not-there")
    assert job.driver.pids("not-there") == []


def test_a_busy_job_is_not_removed(job: Job) -> None:
    job.spawn(cgroup_jobs.sleep)
    with pytest.raises(OSError, match="still inside"):
        job.driver.remove(job.name)
    assert set(actions.remove(job.plan)) == set(job.plan.directories)


def test_cgroups_that_a_job_made_below_are_removed_with_it(job: Job) -> None:
    for directory in job.plan.directories:
        Path(directory, "inner").mkdir()
        Path(directory, "inner", "most").mkdir()
    assert actions.remove(job.plan) == []
    assert job.name not in job.driver.names()


def test_every_process_is_listed_once(job: Job) -> None:
    spawned = [job.spawn(cgroup_jobs.sleep) for _ in range(3)]
    assert job.driver.pids(job.name) == sorted(spawned)
