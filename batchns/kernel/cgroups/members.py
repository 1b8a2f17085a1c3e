"""The processes inside cgroups: who they are, SIGKILL for all of them, waiting until they are gone."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Callable, Iterable

from batchns.kernel.cgroups import files

_THREADED = errno.EOPNOTSUPP  # cgroup.procs of a threaded v2 cgroup; its processes are listed by the domain above


def pids(directories: Iterable[str]) -> list[int]:
    """Every process in `directories` and below, sorted; none in those that are not there."""
    found: set[int] = set()
    for directory in directories:
        for group in files.tree(directory):
            try:
                text = files.read_if_there(f"{group}/cgroup.procs") or ""
            except OSError as error:
                if error.errno != _THREADED:
                    raise
                continue
            found.update(int(line) for line in text.split())
    return sorted(found - {0})  # 0: a process of another PID namespace, out of reach from here


def kill_all(directories: Iterable[str]) -> None:
    """Send SIGKILL to every process inside. A pid that was reused between listing and signal is not hit.

    A process is first pinned by a pidfd, then must still be listed.
    """
    directories = tuple(directories)
    pinned: dict[int, int] = {}
    try:
        for pid in pids(directories):
            try:
                pinned[pid] = os.pidfd_open(pid)
            except OSError as error:
                if error.errno == errno.EMFILE:
                    break  # enough for this round: the caller comes again
                if error.errno not in (errno.ESRCH, errno.EINVAL):
                    raise
        for pid in pids(directories):
            if pid in pinned:
                try:
                    signal.pidfd_send_signal(pinned[pid], signal.SIGKILL)
                except ProcessLookupError:
                    continue  # dead, not yet reaped
    finally:
        for descriptor in pinned.values():
            os.close(descriptor)


def wait_until(done: Callable[[], bool], deadline: float) -> bool:
    """Call `done` until it is true, ever less often; False when `deadline` (time.monotonic) passes first."""
    pause = 0.0002
    while not done():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(pause * 2, 0.01)
    return True


def running(pid: int) -> bool:
    """Whether `pid` is more than a zombie that its parent has not yet reaped (v1 lists those for a while)."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)  # readable once the last thread is gone
        return not poller.poll(0)
    finally:
        os.close(descriptor)
