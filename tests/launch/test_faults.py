"""A failure injected at every single call of the way from a plan to a running command.

The launcher is started with a program that counts the calls into the kernel that our code makes, in the launcher or
in a job's first process, and lets one of them fail. Each time: an error that names a step, a launcher that goes on,
and nothing left of the job.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from errno import EIO
from pathlib import Path

import pytest

from batchns.errors import StepError
from batchns.kernel.cgroups.detect import open_driver
from batchns.kernel.cgroups.interface import Limits
from batchns.kernel.network.addresses import network_plan
from batchns.launch import client
from batchns.launch.plan import Mount, Plan
from batchns.model.job import Bind, Isolation
from batchns.supervise.devices import BASE

from ..images import image_in, need_squashfs
from .conftest import in_launcher, inits, make_plan

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

Make = Callable[[Path], Plan]

INJECT = """
import os, sys
sys.path.append({root!r})
from batchns.kernel import bpf, syscalls, userns
from batchns.kernel.network import link
from batchns.kernel.cgroups import devices, files
launcher, zygotes, enterers = os.getpid(), [], []
os.register_at_fork(after_in_child=lambda: zygotes.append(os.getpid()))  # inits are cloned, not forked
import mmap
state = memoryview(mmap.mmap(-1, 8)).cast("I")  # which call is to fail, how many there were since that was said
def counted(name, function):
    def call(*args, **kwargs):
        pid = os.getpid()
        who = "launcher" if pid == launcher else "zygote" if pid in zygotes else "enterer" if enterers else "init"
        if {process!r} == who:
            told = int(os.pread(900, 9, 0))
            if told != state[0]:
                state[0], state[1] = told, 0
            state[1] += 1
            if state[1] == told:
                os.pwrite(900, b"fired", 16)
                raise OSError({errno}, "injected into " + name)
        return function(*args, **kwargs)
    return call
os.dup2(os.open({control!r}, os.O_RDWR), 900, inheritable=False)
import fcntl, resource
from batchns.kernel import landlock
from batchns.launch import identity
for module, names in (
    (landlock, "ruleset restrict"), (identity, "load"), (resource, "setrlimit"), (fcntl, "ioctl"),
    (syscalls, "_fsconfig reconfigure"),
    (syscalls, "clone3 unshare openat2 open_tree move_mount mount_setattr fsmount pivot_root umount_detach sethostname"
               " prctl set_capabilities join_new_session_keyring setns"),
    (bpf, "load attach count"), (devices, "write_rules"),
    (os, "mkdir mknod symlink setgroups setresuid setresgid chdir fchdir posix_spawn setsid fchown chown chmod fstat"
         " open write"),
    (userns, "map_ids"), (link.Socket, "exchange"), (files, "write write_and_read_back"),
):
    for name in names.split():
        setattr(module, name, counted(name, getattr(module, name)))
close_range = syscalls.close_range
def keep_control(first, last, flags=0):  # init closes what it does not know
    if first <= 900 <= last and not flags:
        close_range(first, 899)
        close_range(901, last)
    else:
        close_range(first, last, flags)
syscalls.close_range = keep_control
from batchns.launch import entries
from batchns.launch.launcher import main
join = entries.join
entries.join = lambda *args: (enterers.append(1), join(*args))
main({fd})
"""


@pytest.mark.parametrize(
    ("process", "calls", "named"),
    [
        ("launcher", 11, {"cgroup", "device rules", "map ids"}),
        ("zygote", 1, {"clone3"}),
        ("init", 100, {"mount root", "mount bind", "landlock", "seccomp", "limits", "identity", "exec"}),
    ],
    ids=["launcher", "zygote", "init"],
)
def test_whatever_fails_is_named_and_leaves_nothing(folder, tmp_path, monkeypatch, process, calls, named):
    steps = each_failure(folder, monkeypatch, tmp_path, process, plain)
    assert len(steps) >= calls, f"only {len(steps)} calls were seen"
    assert named <= {*steps}


@pytest.mark.parametrize(
    ("process", "named"),
    [("launcher", {"map ids"}), ("init", {"rootfs", "rootfs overlay", "mount nodes", "mount cover", "script"})],
    ids=["launcher", "init"],
)
def test_so_it_is_for_a_job_with_all_that_there_is(folder, tmp_path, monkeypatch, image, process, named):
    """An image of its own with a writable layer, a device node, a file of batchns's, binds that are id-mapped, a
    script, and the host's network with rates.
    """

    def full(folder: Path) -> Plan:
        isolation = Isolation(rootfs=str(image), overlay=1 << 20, binds=(Bind(str(folder), "/mnt/deep/er"),))
        plan = make_plan(folder, script="test -e /bin/sh", isolation=isolation)
        more = (Mount("nodes", "/dev", options=("unit/one c 1 3",)), Mount("cover", "/etc/hosts", "/etc/hosts"))
        return plan._replace(
            rootfs=plan.rootfs._replace(image=True),
            mounts=(*plan.mounts[:-2], *more, *plan.mounts[-2:]),
            network=network_plan("host", plan.attempt, "", 50_000_000, 50_000_000, 1500),
            base=plan.base._replace(own_network=False),
        )

    steps = each_failure(folder, monkeypatch, tmp_path, process, full)
    assert named <= {*steps}
    assert [path for path in loops() if path == str(image)] == []


@pytest.fixture
def image() -> Iterator[Path]:
    """A shell, in a squashfs."""
    need_squashfs()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "batchns-test", "/srv"], check=True)
    try:
        yield image_in(Path("/srv"))
    finally:
        subprocess.run(["umount", "-l", "/srv"], check=True)


def loops() -> list[str]:
    return [path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")]


def each_failure(folder: Path, monkeypatch, tmp_path: Path, process: str, make: Make) -> list[str]:
    control = inject(monkeypatch, tmp_path, process)
    driver = open_driver()
    driver.prepare()
    try:
        steps: list[str] = in_launcher(
            lambda launcher: fail_each_call(launcher, folder, driver, control, make), timeout=240
        )
        return steps
    finally:
        driver.release()


def inject(monkeypatch, tmp_path: Path, process: str) -> Path:
    """Launchers from here on let a call of this process fail: the one whose number is in the file."""
    control = tmp_path / "control"
    control.write_bytes(b"0".ljust(16))
    values = {"root": client._PACKAGE_ROOT, "process": process, "errno": EIO, "control": str(control)}
    program = INJECT
    for name, value in values.items():
        program = program.replace("{" + name + "}", str(value)).replace("{" + name + "!r}", repr(value))
    monkeypatch.setattr(client, "_PROGRAM", program)
    return control


@pytest.mark.parametrize("terminal", [False, True], ids=["descriptors", "terminal"])
def test_whatever_fails_in_entering_is_named_and_the_job_goes_on(folder, tmp_path, monkeypatch, terminal):
    control = inject(monkeypatch, tmp_path, "enterer")
    plan = make_plan(folder, command=("sleep", "60"))

    async def work(launcher):
        null = os.open("/dev/null", os.O_RDWR)
        pid = (await launcher.launch(plan, null, null, null)).pid
        (launcher_pid,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        before = len(os.listdir(f"/proc/{launcher_pid}/fd"))
        descriptors = None if terminal else (null, null, null)
        steps = []
        for number in range(1, 1000):
            control.write_bytes(str(number).encode().ljust(16))
            step = ""
            try:
                entered = await launcher.enter(plan.attempt, ("true",), descriptors=descriptors)
                if entered.terminal is not None:
                    os.close(entered.terminal)
                await entered.wait()
            except StepError as error:
                assert "injected" in str(error) or error.errno == EIO, str(error)
                step = error.step
            if not control.read_bytes().endswith(b"fired"):
                break
            steps.append(step)
        os.close(null)
        assert inits() == [str(pid)], "the job goes on"
        assert len(os.listdir(f"/proc/{launcher_pid}/fd")) == before
        return steps

    steps = in_launcher(work, timeout=120)
    assert len(steps) >= 50, f"only {len(steps)} calls were seen"
    named = {"enter namespaces", "enter user namespace", "identity", "exec"}
    assert named | ({"terminal"} if terminal else set()) <= {*steps}


async def fail_each_call(launcher, folder, driver, control, make: Make) -> list[str]:
    """The step that each failure was told as ("" where the job ran all the same), until no call is left to fail."""
    steps = []
    await launch_once(launcher, folder, driver, make)  # the zygote's own beginning is not a launch
    for number in range(1, 1000):
        control.write_bytes(str(number).encode().ljust(16))
        steps.append(await launch_once(launcher, folder, driver, make))
        if not control.read_bytes().endswith(b"fired"):
            return steps[:-1]
    pytest.fail("the injections never came to an end")


def plain(folder: Path) -> Plan:
    plan = make_plan(folder, command=("true",))
    address = f"10.213.255.{1 + int(plan.attempt.partition('-')[2]) % 250}"
    return plan._replace(network=network_plan("private", plan.attempt, address, 50_000_000, 50_000_000, 1500))


async def launch_once(launcher, folder, driver, make: Make) -> str:
    plan = make(folder)
    cgroup = driver.plan(plan.attempt, Limits(cpu_shares=512, memory=64 << 20, pids=32, devices=BASE))
    plan = plan._replace(cgroup=cgroup)
    step = ""
    null = os.open("/dev/null", os.O_RDWR)
    try:
        await launcher.launch(plan, null, null, null)
        ended = await launcher.wait(plan.attempt)
        assert ended.exit_code == 0 or "injected" in ended.unread
        assert all("injected" in told for told in ended.left)
    except StepError as error:
        assert "injected" in error.path or error.errno == EIO, str(error)
        assert error.step
        step = error.step
    finally:
        os.close(null)
    assert [path for path in cgroup.directories if Path(path).exists()] == []
    assert not os.path.exists(plan.record)
    assert inits() == []
    return step
