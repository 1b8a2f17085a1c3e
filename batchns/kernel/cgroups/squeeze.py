"""Memory of a frozen job given back: what the kernel can reclaim goes, and the limit follows down to what is left.

1. Nothing is ever killed for it. v1 refuses a limit below the usage (EBUSY). v2 would kill for a memory.max below it,
   so that is written only above the usage, and only for a job that is frozen and so cannot grow meanwhile.
2. Nothing is swapped: what a job was promised is memory.
3. Small steps, each followed by as long a pause: at most half of one CPU, and over within the time it was given.

Sources: cgroup-v2.rst, "Memory Interface Files"; cgroup-v1/memory.rst, 3 and 5; mm/memcontrol.c, memory_max_write.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import time
from collections.abc import Callable

from batchns.kernel.cgroups import files, parse
from batchns.kernel.cgroups.interface import Squeezed

STEP = 32 << 20  # bytes asked for at a time: some 10 ms of clean page cache
_LEAST = 256 << 10  # when not even that is found, nothing is left to reclaim
# What the network may still deliver to a frozen job's sockets, and what its processes need to die of a SIGKILL.
MARGIN = 2 << 20
_TRIES = 8  # of bounding a job whose usage moves


def v1(directory: str, timeout: float) -> Squeezed:
    """Squeeze the frozen job whose memory cgroup is `directory`; see `Driver.squeeze`.

    By lowering memory.limit_in_bytes: memory.force_empty does it all in one call that nobody can end.
    memory.swappiness 0 keeps its anonymous memory out of swap.

    Raises:
        OSError: FileNotFoundError where there is no such cgroup, else the file and the value.
    """
    deadline = time.monotonic() + timeout
    path = f"{directory}/memory.limit_in_bytes"
    usage = _reader(f"{directory}/memory.usage_in_bytes")
    limit = int(files.read(path))
    files.write(f"{directory}/memory.swappiness", "0")

    def push(size: int) -> None:
        _attempt(path, _pages(max(usage() - size, 0)), errno.EBUSY)

    _reclaim(usage, push, deadline)
    margin = MARGIN
    for _ in range(_TRIES):
        if _attempt(path, min(_pages(usage() + margin), limit), errno.EBUSY):
            return Squeezed(int(files.read(path)))
        margin *= 2
    v1_undo(directory, limit)
    return Squeezed(None, f"{path}: the job's memory grows, though it is frozen")


def v1_undo(directory: str, memory: int | None) -> None:
    """See `Driver.unsqueeze`. The swappiness is the parent's again, which a new cgroup gets."""
    files.write(f"{directory}/memory.limit_in_bytes", "-1" if memory is None else str(memory))
    above = files.read_if_there(f"{os.path.dirname(directory)}/memory.swappiness")
    if above is not None:
        files.write(f"{directory}/memory.swappiness", above.strip())


def v2(directory: str, timeout: float) -> Squeezed:
    """Squeeze the frozen job whose cgroup is `directory`; see `Driver.squeeze`.

    By memory.reclaim (Linux 5.19), else by memory.high, which reclaims down to it when it is written.

    Raises:
        OSError: FileNotFoundError where there is no such cgroup, else the file and the value.
    """
    deadline = time.monotonic() + timeout
    usage = _reader(f"{directory}/memory.current")
    path = f"{directory}/memory.max"
    limit = parse.number(files.read(path))  # None: "max"
    _no_swap(directory, "0")
    by = _by_reclaim if os.path.exists(f"{directory}/memory.reclaim") else _by_high
    _reclaim(usage, lambda size: by(directory, usage, size), deadline)
    wanted = _pages(usage() + MARGIN)
    if limit is not None and limit <= wanted:
        return Squeezed(limit)
    files.write(path, str(wanted))
    return Squeezed(parse.number(files.read(path)))


def v2_undo(directory: str, memory: int | None) -> None:
    """See `Driver.unsqueeze`. memory.high as well, should a squeeze have died with it lowered."""
    files.write(f"{directory}/memory.max", "max" if memory is None else str(memory))
    files.write(f"{directory}/memory.high", "max")
    if memory is None:
        _no_swap(directory, "max")


def _reclaim(usage: Callable[[], int], push: Callable[[int], None], deadline: float) -> None:
    """Ask for less and less at a time, until nothing more is found or `deadline` passes."""
    size = STEP
    while size >= _LEAST and (begun := time.monotonic()) < deadline:
        before = usage()
        push(size)
        if before - usage() < size // 2:
            size //= 2
        now = time.monotonic()
        time.sleep(max(min(now - begun, deadline - now), 0.0))


def _by_reclaim(directory: str, usage: Callable[[], int], size: int) -> None:
    _attempt(f"{directory}/memory.reclaim", size, errno.EAGAIN)  # EAGAIN: it found less than that


def _by_high(directory: str, usage: Callable[[], int], size: int) -> None:
    path = f"{directory}/memory.high"
    try:
        files.write(path, str(_pages(max(usage() - size, 0))))
    finally:
        files.write(path, "max")  # a thaw that came too early would find the job slowed down


def _attempt(path: str, value: int, refusal: int) -> bool:
    """Write `value`; False where the kernel says `refusal`."""
    try:
        files.write(path, str(value))
    except OSError as error:
        if error.errno != refusal:
            raise
        return False
    return True


def _reader(path: str) -> Callable[[], int]:
    return lambda: int(files.read(path))


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _no_swap(directory: str, value: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # swap is not accounted, or there is none
        files.write(f"{directory}/memory.swap.max", value)
