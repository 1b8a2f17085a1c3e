"""Scratch on disk: a file system of the job's own, of its size, of which nothing is left."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from errno import ENOSPC
from functools import partial
from pathlib import Path

import pytest

from batchns.errors import HostError, StepError
from batchns.launch.build import SCRATCH
from batchns.launch.plan import Mount, Plan
from batchns.model.submitter import Submitter
from batchns.supervise import scratch_file

from .conftest import in_launcher, make_plan, run_plan
from .test_enter import start

pytestmark = pytest.mark.kernel

ALICE = Submitter(uid=12345, gid=12345, name="alice", home="/", shell="/bin/sh", groups=(12345,))
MIB = 1 << 20
LOOK = """\
stat -f -c '%T %S %b %a' /tmp; stat -c %a /tmp /var/tmp
grep -E ' (/tmp|/var/tmp) ' /proc/self/mountinfo | grep -c 'nosuid,nodev.* - ext4'
echo x > /tmp/a && ln /tmp/a /tmp/b && stat -c %h /tmp/b
dd if=/dev/zero of=/tmp/big bs=1M 2>&1 | grep -o 'No space left'; stat -c %s /tmp/big
"""


def loops(disk: Path) -> list[str]:
    """Devices whose files are, or were, in the folder `disk`."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            found += [path.parts[3]] if path.read_text().startswith(f"{disk}/") else []
    return found


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    if shutil.which("mkfs.ext4") is None or not Path("/dev/loop-control").exists():
        pytest.skip("no mkfs.ext4, or no loop devices")
    path = tmp_path / "disk"
    path.mkdir(mode=0o700)
    yield path
    assert list(path.iterdir()) == []
    wait_for(lambda: not loops(path))


def on(file: Path, plan: Plan) -> Plan:
    mounts = tuple(mount for mount in plan.mounts if mount.kind != "resize")
    return plan._replace(mounts=(Mount("disk", "/tmp", str(file), SCRATCH), *mounts))


@pytest.mark.parametrize("size", [5 * MIB, 48 * MIB, 300 * MIB])
@pytest.mark.parametrize("submitter", [ALICE, None])
def test_a_job_can_write_what_it_asked_for_and_no_more(
    folder: Path, disk: Path, size: int, submitter: Submitter | None
) -> None:
    folder.chmod(0o755)
    if submitter is not None:
        for above in folder.parents:
            if str(above).startswith("/tmp/"):
                above.chmod(0o755)
        os.chown(folder, submitter.uid, submitter.gid)
    file = disk / "one.ext4"
    scratch_file.make(str(file), size)
    assert file.stat().st_blocks * 512 >= file.stat().st_size and file.stat().st_mode & 0o777 == 0o600
    who = {} if submitter is None else {"submitter": submitter}
    plan = make_plan(folder, script=LOOK, change=partial(on, file), **who)
    lines = in_launcher(lambda launcher: run_plan(launcher, plan)).output.splitlines()
    kind, block, blocks, free = lines[0].split()
    assert kind == "ext2/ext3" and int(block) * int(blocks) >= size and int(block) * int(free) >= size
    assert lines[1:4] == ["1777", "1777", "2"]
    assert lines[4:6] == ["2", "No space left"]
    assert size - MIB <= int(lines[6]) <= size + size // 10 + 32 * MIB


def test_nothing_is_left_of_a_job_whose_launcher_is_killed(folder: Path, disk: Path) -> None:
    file = disk / "one.ext4"
    scratch_file.make(str(file), MIB)
    plan = make_plan(folder, script="echo > /tmp/x; sleep 100", change=partial(on, file))

    async def kill(launcher):
        pid = await start(launcher, plan)
        assert not file.exists() and len(loops(disk)) == 1
        os.kill(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
        with pytest.raises(HostError):
            await launcher.wait(plan.attempt)

    in_launcher(kill)
    wait_for(lambda: not loops(disk))


def test_a_launch_that_fails_after_the_mount_leaves_no_device(folder: Path, disk: Path) -> None:
    file = disk / "one.ext4"
    scratch_file.make(str(file), MIB)
    failing = make_plan(folder, command=("/no/such/command",), change=partial(on, file))
    assert refusal(failing).step == "exec"
    assert refusal(make_plan(folder, script="true", change=partial(on, file))).step == "mount disk"  # it is gone


def refusal(plan: Plan) -> StepError:
    async def refused(launcher) -> StepError:
        with pytest.raises(StepError) as caught:
            await run_plan(launcher, plan)
        return caught.value

    return in_launcher(refused)


def test_a_disk_that_is_full_is_the_hosts_error_and_leaves_no_file(disk: Path, monkeypatch) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(HostError, match="No space left on device - make room in node"):
        scratch_file.make(str(disk / "one.ext4"), MIB)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
