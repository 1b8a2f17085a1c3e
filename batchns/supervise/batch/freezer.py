"""Stopping all of a job without a cgroup: SIGSTOP to every process below its init, until none of them runs.

init itself goes on: it has to reap. Whatever is stopped here dies by SIGKILL like anything else, so a job that is
frozen needs nobody to thaw it before its end.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

ROUNDS = 100  # a job that forks faster than it can be stopped is given up
_PAUSE = 0.01  # seconds
_STOP_BIT = 1 << (signal.SIGSTOP - 1)  # proc_pid_status(5)


def stop(init: int) -> bool:
    """Whether everything below `init` stands still."""
    for _ in range(ROUNDS):
        running = [pid for pid in below(init) if not _stands(pid)]
        if not running:
            return True
        for pid in running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        time.sleep(_PAUSE)
    return False


def go_on(init: int) -> None:
    """The youngest first: whoever waits for a child finds it running."""
    for pid in reversed(below(init)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def below(init: int) -> list[int]:
    """All descendants, parents before their children."""
    children = _children if os.path.exists("/proc/thread-self/children") else _by_parent()
    found: list[int] = []
    left = [init]
    while left:
        for child in children(left.pop()):
            found.append(child)
            left.append(child)
    return found


def _children(pid: int) -> list[int]:
    """proc_pid_task(5), children: there with CONFIG_PROC_CHILDREN only."""
    found = []
    for thread in _threads(pid):
        path = f"/proc/{pid}/task/{thread}/children"
        # A thread that has ended has left its children to others.
        with suppress(FileNotFoundError, ProcessLookupError), open(path) as file:  # noqa: PTH123
            found += [int(word) for word in file.read().split()]
    return found


def _by_parent() -> Callable[[int], list[int]]:
    """The same from every process's own word: proc_pid_stat(5)."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{name}/stat") as file:  # noqa: PTH123
                found.setdefault(int(file.read().rpartition(")")[2].split()[1]), []).append(int(name))
    return lambda pid: found.get(pid, [])


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return []


def _stands(pid: int) -> bool:
    """Whether all threads do: a leader that has ended says nothing of the others."""
    return _thread_stands(f"/proc/{pid}") and all(_thread_stands(f"/proc/{pid}/task/{one}") for one in _threads(pid))


def _thread_stands(folder: str) -> bool:
    """Stopped, over, or deep in the kernel with the signal waiting: as the parent of a vfork(2) whose child is stopped.

    None of these runs an instruction of its own again before it is told to go on.
    """
    try:
        with open(f"{folder}/status") as file:  # noqa: PTH123
            fields = dict(line.split(":", 1) for line in file)
    except (FileNotFoundError, ProcessLookupError):
        return True
    state = fields["State"].strip()[0]
    pending = int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)
    return state in "TtZX" or (state == "D" and bool(pending & _STOP_BIT))
