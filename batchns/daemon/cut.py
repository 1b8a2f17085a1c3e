"""Taking the middle out of an output file while a job appends to it.

1. What a job appends is never touched: an append finds the end of the file under the inode's lock, which fallocate(2)
   takes too, and what is written here lies far before the end.
2. The file stays one of whole lines: a line says how much was left out, and replaces what would be half a line.
3. Nothing is remembered between two cuts but the file: the line of the first is found and renewed by the next.

FALLOC_FL_COLLAPSE_RANGE (ext4, xfs) takes the range out; FALLOC_FL_PUNCH_HOLE (tmpfs, btrfs, ...) leaves a hole that
takes no room. fallocate(2), include/uapi/linux/falloc.h.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from errno import EDQUOT, EINTR, EINVAL, ENODEV, ENOSPC, ENOSYS, EOPNOTSUPP

from attrs import frozen

from batchns.daemon.files import Shared

_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE, _FALLOC_FL_COLLAPSE_RANGE = 0x01, 0x02, 0x08
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
# A collapse needs blocks of whole clusters and, on a full disk, room for its own bookkeeping; a hole needs neither.
_NOT_COLLAPSED = (EOPNOTSUPP, EINVAL, ENOSYS, ENOSPC, EDQUOT)
_NO_WAY = (EOPNOTSUPP, EINVAL, ENOSYS, ENODEV)
_LOOK = 1 << 16  # bytes around the cut in which the ends of its lines are looked for
_SAYS = b"[batchns: %d bytes left out here, see output.max_size]"
_SAID = re.compile(rb"\n?\[batchns: ([0-9]{1,18}) bytes left out here, see output\.max_size\] *\n")
_ROOM = len(_SAYS) + 18 + 2  # the line with the largest number, and the ends of lines around it


class Way(Enum):
    """How the middle of a file is let go of. A file in which there is a hole is cut by holes from then on."""

    COLLAPSE = "collapse"
    PUNCH = "punch"


class Impossible(Exception):
    """The file system frees no part of a file."""


@frozen
class Bounds:
    """What of a file stays: from `start` on, `head` bytes and the last `tail`. Before `start` nothing is changed."""

    start: int
    head: int
    tail: int

    @classmethod
    def of(cls, start: int, most: int) -> Bounds:
        """An eighth of `most` is the head, half of it the tail: the rest is what may grow until the next cut."""
        return cls(start, most // 8, most // 2)


def cut(fd: int, bounds: Bounds, shared: Shared, way: Way = Way.COLLAPSE) -> Way:
    """Take out what lies between head and tail, with the lock of `shared` held. `fd` can write. Blocks.

    Returns the way in which it was done: the one to begin with for the next cut.

    Raises:
        Impossible: the file system cannot do it.
        OSError: it did not.
    """
    size = os.fstat(fd).st_size
    unit = 1 << 16 if bounds.head < 1 << 22 else 1 << 20  # whole blocks, and clusters of any usual file system
    first = -(-(bounds.start + bounds.head) // unit) * unit
    length = (size - bounds.tail - first) // unit * unit
    if length <= 0:
        return way
    with _reopened(fd) as both:
        if way is Way.COLLAPSE:
            try:
                _collapse(fd, both, (bounds.start, first, length), shared)
                return Way.COLLAPSE
            except OSError as error:
                if error.errno not in _NOT_COLLAPSED:
                    raise
        try:
            _punch(fd, both, (bounds.start, first, length), shared)
            return Way.PUNCH
        except OSError as error:
            if error.errno in _NO_WAY:
                raise Impossible from None
            raise


def taken(fd: int, start: int) -> int:
    """Bytes on the disk that were written from `start` on."""
    found = os.fstat(fd)
    return min(found.st_size, found.st_blocks * 512) - start


@contextmanager
def _reopened(fd: int) -> Iterator[int | None]:
    """The same file, to be read, and written elsewhere than at its end; None: this cannot be had (NFS, for one)."""
    try:
        both = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)  # a lease is not waited for
    except OSError:
        both = None
    try:
        yield both
    finally:
        if both is not None:
            os.close(both)


def _collapse(fd: int, both: int | None, where: tuple[int, int, int], shared: Shared) -> None:
    start, first, length = where
    line, said, old_end = _line_before(both, start, first)
    _fallocate(fd, _FALLOC_FL_COLLAPSE_RANGE, first, length)
    end = first
    if both is not None:
        end = _line_end(both, max(first, line + _ROOM))
        left_out = said + length + end - (old_end if said else line)
        _write_line(both, line, end, left_out)
    shared.collapsed(first, length, line, end)


def _punch(fd: int, both: int | None, where: tuple[int, int, int], shared: Shared) -> None:
    start, first, length = where
    line, _, _ = _line_before(both, start, first)
    end, hole = first + length, first
    if both is not None:
        end, hole = _line_end(both, end), line + _ROOM
    _fallocate(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, hole, end - hole)
    if both is not None:
        _write_line(both, line, line + _ROOM, end - line)
    shared.punched(line, end)


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    while _libc.fallocate(fd, mode, offset, length) < 0:
        if (errno := ctypes.get_errno()) != EINTR:
            raise OSError(errno, f"fallocate: {os.strerror(errno)}")


def _line_before(both: int | None, start: int, first: int) -> tuple[int, int, int]:
    """Where the line begins in which the cut is; what it says was left out (0: it does not say); where it ends then."""
    if both is None:
        return first, 0, first
    begin = max(start, first - _LOOK)
    text = os.pread(both, first - begin, begin)
    found = text.rfind(b"\n") + 1
    line = begin + found if found or begin == start else first
    said = _SAID.match(os.pread(both, _LOOK * 2, line))
    return (line, int(said[1]), line + said.end()) if said else (line, 0, line)


def _line_end(both: int, offset: int) -> int:
    """Behind the next end of a line; `offset` where there is none nearby."""
    return offset + os.pread(both, _LOOK, offset).find(b"\n") + 1


def _write_line(both: int, line: int, end: int, left_out: int) -> None:
    """The line, as long as what it replaces. One that replaces the middle of a longer one has ends of its own."""
    before = os.pread(both, 1, line - 1) if line else b"\n"
    text = (b"" if before == b"\n" else b"\n") + _SAYS % left_out
    os.pwrite(both, text.ljust(end - line - 1) + b"\n", line)
