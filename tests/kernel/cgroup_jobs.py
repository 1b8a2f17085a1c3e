"""Processes inside cgroups for the tests: forked here, killed by pid, their cgroups removed whatever happens.

A payload is a function that runs in a forked child and never returns to the test.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import pytest
from attrs import Factory, define

from batchns.kernel.cgroups import actions
from batchns.kernel.cgroups.detect import open_driver
from batchns.kernel.cgroups.interface import CgroupPlan, Driver, Limits

PTRACE_TRACEME = 0
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="cgroups are made by root")


def open_or_skip() -> Driver:
    """This host's driver, prepared."""
    driver = open_driver()
    driver.prepare()
    return driver


def hybrid() -> bool:
    """Whether this host has v1 hierarchies beside a v2 one, so that there are two drivers to test."""
    return os.geteuid() == 0 and open_driver().mode == "hybrid"


def without_v2(folder: Path) -> str:
    """A /proc for `open_driver` that shows a hybrid host's v1 hierarchies only."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines(keepends=True)
    (folder / "self").mkdir()
    (folder / "self" / "mountinfo").write_text("".join(line for line in mounts if " - cgroup2 " not in line))
    (folder / "self" / "cgroup").write_text(Path("/proc/self/cgroup").read_text())
    return str(folder)


def in_vm() -> bool:
    """User Mode Linux: system calls and forks are slow there, and its clock does not see stolen time."""
    return "User Mode" in Path("/proc/cpuinfo").read_text()


def name(suffix: str) -> str:
    """A job's name of this test run; the dots keep it apart from batchns's own jobs, which a sweep may remove."""
    return f"test.{os.getpid()}.{suffix}"


def join(plan: CgroupPlan) -> None:
    """What the launcher does for a child, for a child that is already there."""
    if plan.into:
        Path(plan.into, "cgroup.procs").write_text("0")
    for tasks in plan.joins:
        Path(tasks).write_text("0")


@define
class Job:
    """One job's cgroups, and the processes that a test put there."""

    driver: Driver
    name: str
    limits: Limits = Factory(Limits)
    plan: CgroupPlan = Factory(CgroupPlan)
    values: dict[str, str | int] = Factory(dict)
    children: list[int] = Factory(list)

    def __enter__(self) -> Job:
        self.plan = self.driver.plan(self.name, self.limits)
        self.values = actions.apply(self.plan)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.driver.kill(self.name, 5)
        self.let_go()
        self.reap()
        self.driver.remove(self.name)

    def let_go(self) -> None:
        """Thaw by hand: where the driver has failed to, waiting for a killed child would never end."""
        for directory in self.plan.directories:
            for file, thawed in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                with contextlib.suppress(OSError):
                    Path(directory, file).write_text(thawed)

    def reap(self) -> list[int]:
        """Wait for all children, killing those that still run; their wait statuses."""
        statuses = []
        for pid in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            statuses.append(os.waitpid(pid, 0)[1])
        self.children.clear()
        return statuses

    def spawn(self, payload: Callable[[], object]) -> int:
        """Fork a child into the job; returns once it is inside and about to run `payload`."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reader)
                join(self.plan)
                os.write(writer, b"in")
                os.close(writer)
                payload()
            finally:
                os._exit(99)
        self.children.append(pid)
        os.close(writer)
        told = os.read(reader, 2)
        os.close(reader)
        assert told == b"in", "the child could not join its cgroups"
        return pid


@contextlib.contextmanager
def jobs(driver: Driver, *wanted: tuple[str, Limits]) -> Iterator[list[Job]]:
    """Several jobs at once."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Job(driver, name, limits)) for name, limits in wanted]


def spin() -> None:
    while True:
        pass


def sleep() -> None:
    time.sleep(60)


def ignore_signals() -> None:
    for number in range(1, signal.NSIG):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    spin()


def fork_on() -> None:
    """A storm: every process makes children and dies soon, so that no list of pids stays true."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        try:
            pid = os.fork()
        except OSError:
            continue  # the pids limit
        if pid and os.getpid() % 3 == 0:
            os._exit(0)


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    spin()


def traced_and_stopped() -> None:
    """A tracer that waits for ever, with a tracee that has stopped under ptrace."""
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).ptrace(PTRACE_TRACEME, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGUSR1)
        spin()
    os.waitpid(pid, 0)
    spin()


def vfork_and_wait(counter: Path) -> None:
    """A parent that waits inside vfork for a child that counts on."""
    pid = ctypes.CDLL(None).syscall(_VFORK)
    if pid == 0:
        count(counter)
    spin()


_VFORK = {"x86_64": 58}.get(os.uname().machine, -1)


def count(path: Path) -> None:
    """Write progress into `path`: one byte after another."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    while True:
        os.write(descriptor, b".")
        for _ in range(2000):
            pass


def fork_and_count(path: Path) -> None:
    """Make progress only by forking: each child adds one byte and ends."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    while True:
        pid = os.fork()
        if pid == 0:
            os.write(descriptor, b".")
            os._exit(0)
        os.waitpid(pid, 0)


def cpu_seconds(pid: int) -> float:
    """User and system time of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def last_cpu(pid: int) -> int:
    """The CPU on which `pid` ran last."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[36])


def within(seconds: float, done: Callable[[], bool]) -> bool:
    """Whether `done` comes true in time."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
