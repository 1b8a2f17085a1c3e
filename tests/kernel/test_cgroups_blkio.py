"""Block I/O weights and counts on the real kernel, on a loop device that is switched to bfq for the test."""

from __future__ import annotations

import contextlib
import mmap
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import cgroup_aio
import pytest
from cgroup_jobs import Job, jobs, name, needs_root, open_or_skip

from batchns.kernel.cgroups.detect import open_driver
from batchns.kernel.cgroups.interface import Driver, Limits

pytestmark = [pytest.mark.kernel, needs_root]
MIB = 1 << 20
SIZE = 64 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """The path of a loop device of SIZE bytes, without a scheduler of its own until `bfq`; detached at the end."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        for _ in range(SIZE // MIB):
            file.write(os.urandom(MIB))
    attach = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True)
    if attach.returncode:
        pytest.skip(f"no loop device here: {attach.stderr.strip()}")
    device = attach.stdout.strip()
    hold = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Detached by the kernel once nobody has it open: also when this process is killed.
        subprocess.run(["losetup", "--detach", device], check=True)
        yield device
    finally:
        os.close(hold)


@contextlib.contextmanager
def bfq(device: str) -> Iterator[None]:
    """The device under bfq, set to keep the weights rather than to please interactive readers."""
    queue = Path("/sys/block", Path(device).name, "queue")
    before = queue.joinpath("scheduler").read_text().partition("[")[2].partition("]")[0]
    try:
        queue.joinpath("scheduler").write_text("bfq")
    except OSError as error:
        pytest.skip(f"this kernel has no bfq: {error}")
    try:
        queue.joinpath("iosched/low_latency").write_text("0")
        queue.joinpath("iosched/strict_guarantees").write_text("1")
        queue.joinpath("iosched/max_budget").write_text("8192")  # sectors: turns end by service, not by time
        yield
    finally:
        queue.joinpath("scheduler").write_text(before)


@pytest.mark.skipif(not cgroup_aio.SUPPORTED, reason="the numbers of the AIO system calls are not known here")
def test_weights_of_4_to_1_give_reads_of_4_to_1(disk: str) -> None:
    """Within 25 %, on every hierarchy version: the median of windows, since other load disturbs some."""
    few, many = Limits(blkio_weight=100), Limits(blkio_weight=400)
    with (
        bfq(disk),
        prepared() as driver,
        jobs(driver, (name("1"), few), (name("4"), many)) as (one, four),
    ):
        reading = driver.readings(many, four.plan, four.values)["blkio_weight"]
        assert (reading.value, reading.source.endswith("bfq.weight")) == (400, True)
        area = SIZE // 4
        for number, job in enumerate((one, one, four, four)):
            job.spawn(cgroup_aio.reader(disk, number * area, area, block=MIB // 4, depth=16))
        time.sleep(0.5)
        ratios: list[float] = []
        while len(ratios) < 3 or (len(ratios) < 9 and statistics.median(ratios) != pytest.approx(4, rel=0.2)):
            before = read_bytes(driver, one), read_bytes(driver, four)
            time.sleep(2)
            ratios.append((read_bytes(driver, four) - before[1]) / (read_bytes(driver, one) - before[0]))
    assert statistics.median(ratios) == pytest.approx(4, rel=0.25), ratios


def test_bytes_that_a_job_read_and_wrote_are_counted(disk: str) -> None:
    """Also on kernels that stopped counting on v1 until a throttle is set: preparing takes care of that."""

    def write() -> None:
        descriptor = os.open(disk, os.O_WRONLY | os.O_DIRECT)
        os.pwritev(descriptor, [mmap.mmap(-1, 3 * MIB)], 0)
        descriptor = os.open(disk, os.O_RDONLY | os.O_DIRECT)
        os.preadv(descriptor, [mmap.mmap(-1, 5 * MIB)], 0)
        os._exit(0)

    with prepared() as driver, Job(driver, name("rw")) as job:
        before = driver.read_usage(job.name)
        pid = job.spawn(write)
        job.children.remove(pid)
        assert os.waitpid(pid, 0)[1] == 0
        usage = driver.read_usage(job.name)
    assert (before.io_read_bytes, before.io_write_bytes) == (0, 0)
    assert (usage.io_read_bytes, usage.io_write_bytes) == (5 * MIB, 3 * MIB)


def test_a_weight_without_any_bfq_disk_is_said_not_written(tmp_path: Path) -> None:
    """The kernel would take the value and ignore it."""
    disk = tmp_path / "block" / "sda"
    (disk / "queue").mkdir(parents=True)
    (disk / "size").write_text("1000\n")
    (disk / "dev").write_text("8:0\n")
    (disk / "queue" / "scheduler").write_text("[none] mq-deadline bfq\n")
    driver = open_driver(block=str(tmp_path / "block"))
    driver.prepare()
    limits = Limits(blkio_weight=300)
    try:
        with Job(driver, name("no"), limits) as job:
            reading = driver.readings(limits, job.plan, job.values)["blkio_weight"]
    finally:
        driver.release()
    assert reading.value is None
    assert "echo bfq > /sys/block/DEV/queue/scheduler" in reading.why


@contextlib.contextmanager
def prepared() -> Iterator[Driver]:
    driver = open_or_skip()
    try:
        yield driver
    finally:
        driver.release()


def read_bytes(driver: Driver, job: Job) -> int:
    count = driver.read_usage(job.name).io_read_bytes
    assert count is not None
    return count
