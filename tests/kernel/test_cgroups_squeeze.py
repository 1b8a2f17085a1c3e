"""Frozen jobs give memory back, on the real kernel: the cache goes, what they computed stays, nobody is killed."""

from __future__ import annotations

import hashlib
import mmap
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen
from cgroup_jobs import Job, in_vm, name, needs_root, sleep, spin, within

from batchns.kernel.cgroups import squeeze
from batchns.kernel.cgroups.interface import Driver, Limits
from batchns.kernel.cgroups.none import NoCgroups

pytestmark = [pytest.mark.kernel, needs_root]
MIB = 1 << 20
HELD = 100 * MIB  # of anonymous memory, and as much of page cache
LIMIT = 320 * MIB
LIMITS = ("memory.max", "memory.high", "memory.swap.max", "memory.limit_in_bytes", "memory.swappiness")
USAGE = ("memory.current", "memory.usage_in_bytes")
TIMEOUT = 30.0 if in_vm() else 10.0


@pytest.fixture
def cached(disk: Path) -> Path:
    """A file of `HELD` bytes, none of which is in the page cache yet."""
    path = disk / "data"
    with path.open("wb") as file:
        for _ in range(HELD // MIB):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


@frozen
class Memory:
    anonymous: int
    cache: int
    limit: int
    kills: int


def memory(job: Job) -> Memory:
    """What the kernel says of the job."""
    directory = next(path for path in job.plan.directories if os.path.exists(f"{path}/memory.stat"))
    stat = dict(line.split() for line in Path(directory, "memory.stat").read_text().splitlines())
    old = Path(directory, "memory.limit_in_bytes")
    limit = old if old.exists() else Path(directory, "memory.max")
    return Memory(
        anonymous=int(stat["rss" if old.exists() else "anon"]),
        cache=int(stat["cache" if old.exists() else "file"]),
        limit=int(limit.read_text()),
        kills=job.driver.read_usage(job.name).oom_kills or 0,
    )


def hold(cached: Path, told: Path, dirty: Path | None = None) -> None:
    """Fill memory with what nobody could guess, read a file, and say at each SIGUSR1 what the memory's checksum is."""
    held = mmap.mmap(-1, HELD, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for _ in range(HELD // MIB):
        held.write(os.urandom(MIB))
    with cached.open("rb") as file:
        while file.read(MIB):
            pass
    if dirty is not None:
        dirty.write_bytes(bytes(16 * MIB))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    count = 0
    while True:
        partial = told.with_suffix(".partial")
        partial.write_text(f"{count} {hashlib.sha256(held).hexdigest()}")
        partial.rename(told)
        signal.sigwait([signal.SIGUSR1])
        count += 1


def checksum(told: Path, count: int) -> str:
    """The one that was told after `count` signals."""
    assert within(60, lambda: told.exists() and told.read_text().startswith(f"{count} "))
    return told.read_text().partition(" ")[2]


def test_a_frozen_job_gives_its_cache_back_and_keeps_its_memory(
    driver: Driver, disk: Path, cached: Path, tmp_path: Path
) -> None:
    """100 MiB of each. Dirty pages reach the disk first. Afterwards it has its own limit, and computes on."""
    told = tmp_path / "told"
    with Job(driver, name("squeeze"), Limits(memory=LIMIT)) as job:
        pid = job.spawn(lambda: hold(cached, told, dirty=disk / "dirty"))
        first = checksum(told, 0)
        assert driver.freeze(job.name, 5)
        before = memory(job)
        assert before.anonymous >= HELD
        assert before.cache >= HELD
        start = time.monotonic()
        squeezed = driver.squeeze(job.name, TIMEOUT)
        assert time.monotonic() - start < TIMEOUT + 2
        after = memory(job)
        assert after.cache < 8 * MIB, squeezed
        assert after.anonymous >= before.anonymous - MIB
        assert squeezed.holds == after.limit
        assert HELD < after.limit < HELD + 32 * MIB
        os.kill(pid, signal.SIGUSR1)
        time.sleep(0.3)
        assert checksum(told, 0) == first, "it is still frozen"
        driver.unsqueeze(job.name, LIMIT)
        assert memory(job).limit == LIMIT
        assert driver.thaw(job.name, 5)
        assert checksum(told, 1) == first
        assert memory(job).kills == 0
        assert (disk / "dirty").read_bytes() == bytes(16 * MIB)


@pytest.fixture
def swap(disk: Path) -> Iterator[Path]:
    """Swap space on the scratch disk of another kernel: on this machine it would be everybody's."""
    if not in_vm():
        pytest.skip("swap is switched on in a virtual machine only")
    path = disk / "swap"
    path.write_bytes(bytes(2 * HELD))
    path.chmod(0o600)
    subprocess.run(["mkswap", "-q", path], check=True)
    subprocess.run(["swapon", path], check=True)
    yield path
    subprocess.run(["swapoff", path], check=True)


@pytest.mark.parametrize("memory_limit", [LIMIT, None])
def test_nothing_is_swapped_where_there_is_swap(
    driver: Driver, cached: Path, swap: Path, tmp_path: Path, memory_limit: int | None
) -> None:
    """Also of a job without a limit, for which nobody has forbidden it."""
    told = tmp_path / "told"
    with Job(driver, name("swap"), Limits(memory=memory_limit)) as job:
        pid = job.spawn(lambda: hold(cached, told))
        checksum(told, 0)
        assert driver.freeze(job.name, 5)
        assert driver.squeeze(job.name, TIMEOUT).holds is not None
        assert memory(job).cache < 8 * MIB
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert int(status["VmSwap"].split()[0]) == 0
        driver.unsqueeze(job.name, memory_limit)


def test_reclaiming_rests_as_long_as_it_works_and_keeps_its_time() -> None:
    """There is always more to find, and each step of it takes 10 ms."""
    left, steps = [1 << 40], []

    def push(size: int) -> None:
        steps.append(size)
        time.sleep(0.01)
        left[0] -= size

    start = time.monotonic()
    squeeze._reclaim(lambda: left[0], push, start + 0.4)
    assert 0.4 <= time.monotonic() - start < 1
    assert 1 < len(steps) <= 20


def test_reclaiming_ends_when_nothing_more_is_found() -> None:
    steps: list[int] = []
    squeeze._reclaim(lambda: 0, steps.append, time.monotonic() + 60)
    assert steps == [squeeze.STEP >> halved for halved in range(8)]


def test_a_kernel_without_memory_reclaim_does_it_by_memory_high(
    driver: Driver, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """v2 before Linux 5.19; memory.high is as it was, afterwards."""
    if driver.mode != "v2":
        pytest.skip("v1 has neither")
    monkeypatch.setattr(squeeze, "_by_reclaim", squeeze._by_high)
    with Job(driver, name("high"), Limits(memory=LIMIT)) as job:
        job.spawn(lambda: hold(cached, tmp_path / "told"))
        first = checksum(tmp_path / "told", 0)
        assert driver.freeze(job.name, 5)
        assert driver.squeeze(job.name, TIMEOUT).holds == memory(job).limit < HELD + 32 * MIB
        assert memory(job).cache < 8 * MIB
        assert memory(job).kills == 0
        assert Path(job.plan.into, "memory.high").read_text() == "max\n"
        driver.unsqueeze(job.name, LIMIT)
        assert driver.thaw(job.name, 5)
        os.kill(job.children[0], signal.SIGUSR1)
        assert checksum(tmp_path / "told", 1) == first


def test_a_squeeze_without_time_still_bounds_the_job_to_what_it_holds(driver: Driver, cached: Path) -> None:
    told = cached.with_name("told")
    with Job(driver, name("hurry"), Limits(memory=LIMIT)) as job:
        job.spawn(lambda: hold(cached, told))
        checksum(told, 0)
        assert driver.freeze(job.name, 5)
        holds = driver.squeeze(job.name, 0).holds
        assert holds == memory(job).limit
        assert holds is not None
        assert 2 * HELD <= holds < LIMIT
        assert memory(job).kills == 0


def test_a_squeezed_job_can_be_squeezed_again_and_killed(driver: Driver, cached: Path) -> None:
    told = cached.with_name("told")
    with Job(driver, name("kill"), Limits(memory=LIMIT)) as job:
        pid = job.spawn(lambda: hold(cached, told))
        checksum(told, 0)
        assert driver.freeze(job.name, 5)
        first, second = driver.squeeze(job.name, TIMEOUT).holds, driver.squeeze(job.name, TIMEOUT).holds
        assert first is not None
        assert second is not None
        assert second <= first
        assert driver.kill(job.name, 5)
        job.children.remove(pid)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        assert memory(job).kills == 0


def test_a_job_at_its_limit_gets_no_larger_one(driver: Driver) -> None:
    """What it holds and the margin would be more than it was promised."""
    small = 16 * MIB
    with Job(driver, name("small"), Limits(memory=small)) as job:
        counters = [Path(path, file) for path in job.plan.directories for file in USAGE]
        usage = next(path for path in counters if path.exists())

        def fill() -> None:
            memory = mmap.mmap(-1, small, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            for offset in range(0, small, mmap.PAGESIZE):
                if int(usage.read_text()) > small - squeeze.MARGIN // 4:
                    break
                memory[offset] = 1
            spin()

        job.spawn(fill)
        # Less than that: what a CPU has charged ahead for the job may be given back meanwhile.
        assert within(20, lambda: int(usage.read_text()) > small - squeeze.MARGIN // 2)
        assert driver.freeze(job.name, 5)
        assert driver.squeeze(job.name, 5).holds == small == memory(job).limit
        assert memory(job).kills == 0


def test_a_job_that_runs_is_not_squeezed(driver: Driver) -> None:
    """It would be killed by its next allocation."""
    with Job(driver, name("runs"), Limits(memory=LIMIT)) as job:
        job.spawn(sleep)
        squeezed = driver.squeeze(job.name, 1)
        assert squeezed.holds is None
        assert "frozen" in squeezed.why
        assert memory(job).limit == LIMIT


def test_a_job_without_a_limit_gets_none_back(driver: Driver) -> None:
    with Job(driver, name("free")) as job:
        job.spawn(sleep)
        limits = [Path(path, file) for path in job.plan.directories for file in LIMITS]
        texts = {path: path.read_text() for path in limits if path.exists()}
        assert texts
        assert driver.freeze(job.name, 5)
        assert driver.squeeze(job.name, 5).holds is not None
        driver.unsqueeze(job.name, None)
        assert {path: path.read_text() for path in texts} == texts


def test_no_job_is_an_error_and_no_cgroup_a_reason(driver: Driver) -> None:
    for call in (lambda: driver.squeeze("not-there", 1), lambda: driver.unsqueeze("not-there", MIB)):
        with pytest.raises(FileNotFoundError):
            call()
    assert NoCgroups("nothing delegated").squeeze("a", 1) == (None, "nothing delegated")
