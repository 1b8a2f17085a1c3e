"""A corner of the machine for one test run: nobody else's work disturbs its measurements of what is left behind.

1. Network: a namespace of its own, with an uplink, so that firewall and forwarding are not the machine's.
2. Mounts: a namespace of its own (shared, as a host's mounts are), with empty folders where batchns keeps its state.
3. cgroups: one of its own below each v1 cgroup that it is in. A pure v2 host is used as it is: there a cgroup with
   processes cannot hand controllers down.

All of it goes when the test process ends, however it ends, but for empty cgroups: the next test run removes those.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pyroute2 import IPRoute

from batchns.kernel import syscalls
from batchns.kernel.cgroups import files, members
from batchns.kernel.cgroups.detect import Mount, open_driver, parse_mountinfo, parse_own
from batchns.kernel.cgroups.v2 import CONTROLLERS
from batchns.model.config import Config
from batchns.supervise.sweep import sweep

UPLINK = "up0"
_ADDRESS = "192.0.2.1"  # TEST-NET-1, RFC 5737
_CLONE_FS, _CLONE_NEWNET = 0x200, 0x40000000
_PREFIX = "test-batchns."
_OURS = 0o1755  # the mode of a folder that a test run has made


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """This process, and what it starts, in its own corner; and back."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_own_cgroups())
        stack.enter_context(_own_mounts())
        stack.enter_context(_own_network())
        stack.callback(sweep_corner)
        yield


def own_cgroups() -> list[str]:
    """The folders below which all cgroups of this test run are."""
    return [*_v1_cgroups(), *_v2_mount_with_controllers()]


def end_with_parent() -> None:
    """For a child between fork and exec: an interrupted or killed test run takes it along, with a word of warning."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGTERM)


def sweep_corner() -> None:
    """What killed runs of batchns have left in this corner."""
    sweep(Config().paths.run, open_driver())


@contextlib.contextmanager
def _own_network() -> Iterator[None]:
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.unshare(_CLONE_NEWNET)
    try:
        with IPRoute() as ipr:
            ipr.link("set", index=1, state="up")
            ipr.link("add", ifname=UPLINK, kind="veth", peer={"ifname": "up1"})
            index = ipr.link_lookup(ifname=UPLINK)[0]
            ipr.addr("add", index=index, address=_ADDRESS, prefixlen=24)
            ipr.link("set", index=ipr.link_lookup(ifname="up1")[0], state="up")
            ipr.link("set", index=index, state="up")
        yield
    finally:
        syscalls.setns(before, _CLONE_NEWNET)
        os.close(before)


@contextlib.contextmanager
def _own_mounts() -> Iterator[None]:
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    folder = os.getcwd()
    # Who removes a folder takes what others have mounted there, in whatever namespace: the last one does.
    others = os.open("/run", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(others, fcntl.LOCK_SH)
    for path in (Config().paths.run, Config().paths.state):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
            os.chmod(path, _OURS)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    try:
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "--make-rshared", "/"], check=True)
        for path in (Config().paths.run, Config().paths.state):
            subprocess.run(["mount", "-t", "tmpfs", "batchns-tests", path], check=True)
        yield
    finally:
        syscalls.unshare(_CLONE_FS)  # threads that tests have started share it, and setns(2) would refuse
        syscalls.setns(before, syscalls.CLONE_NEWNS)
        os.close(before)
        os.chdir(folder)
        with contextlib.suppress(OSError):  # there are others, or somebody uses it by now
            fcntl.flock(others, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in (Config().paths.run, Config().paths.state):
                if stat.S_IMODE(os.stat(path).st_mode) == _OURS:
                    os.rmdir(path)
        os.close(others)


@contextlib.contextmanager
def _own_cgroups() -> Iterator[None]:
    above = _v1_cgroups()
    _remove_those_of_dead_runs(above)
    name = f"{_PREFIX}{os.getpid()}"
    try:
        for group in above:
            os.mkdir(f"{group}/{name}")
            for file in ("cpuset.cpus", "cpuset.mems"):  # a cpuset without them takes no process
                if text := files.read_if_there(f"{group}/{file}"):
                    files.write(f"{group}/{name}/{file}", text.strip())
            files.write(f"{group}/{name}/cgroup.procs", str(os.getpid()))
        yield
    finally:
        for group in above:
            files.write(f"{group}/cgroup.procs", str(os.getpid()))
            _remove(f"{group}/{name}")


def _v1_cgroups() -> list[str]:
    """Where this process is in each v1 hierarchy, and in a v2 one that hands out no controllers."""
    own = parse_own(Path("/proc/self/cgroup").read_text())
    found = []
    for mount in _mounts():
        if mount.point in _v2_mount_with_controllers():
            continue
        path = own.get(mount.controllers[0] if mount.controllers else "", "/")
        below = path.removeprefix(mount.root.rstrip("/"))
        found.append(f"{mount.point}/{below.strip('/')}".rstrip("/"))
    return found


def _v2_mount_with_controllers() -> list[str]:
    """Controllers that batchns uses: hugetlb and the like do not make a hybrid host's tree a pure v2 one."""
    points = [mount.point for mount in _mounts() if mount.version == 2]
    return [point for point in points if {*Path(point, "cgroup.controllers").read_text().split()} & {*CONTROLLERS}]


def _mounts() -> list[Mount]:
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text(), "/sys/fs/cgroup")


def _remove_those_of_dead_runs(above: list[str]) -> None:
    for group in above:
        for left in Path(group).glob(f"{_PREFIX}*"):
            if not os.path.exists(f"/proc/{left.name.removeprefix(_PREFIX)}"):
                _remove(str(left))


def _remove(group: str) -> None:
    members.kill_all([group])
    if os.path.isdir(group) and not files.remove_tree(group, 5):
        raise AssertionError(f"{group} has processes that do not end: {members.pids([group])}")
