"""What a job has written, for those who ask the daemon for it.

1. A file is opened with the rights of the job's owner, who may have replaced it by anything: no link is followed, and
   only a plain file with one name is read.
2. One piece at a time: whoever reads slowly holds back only themselves, and costs one piece of memory.
3. What is read is what the job wrote, in order and once. Where the trimmer has taken something out, a line says so.
4. The server of a file system may never answer: everything is done in threads, and not waited for for ever.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Callable, Container
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import TypeVar

import trio
from attrs import define, field, frozen

from batchns.daemon.files import Closed, Descriptor, FileId, Position, Shared, SharedFiles
from batchns.daemon.service import Refused
from batchns.kernel import syscalls
from batchns.kernel.actas import acting_as
from batchns.model.submitter import Submitter
from batchns.supervise.ports import Blocking
from batchns.units import format_duration

T = TypeVar("T")
TIMEOUT = 30.0  # seconds for a file system to answer
PIECE = 1 << 16  # bytes
MOST_TAIL = 1 << 28  # bytes at the end of a file in which its last lines are looked for
POLL = 0.25  # seconds between two looks at files that somebody follows
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_RESOLVE = syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
_REFUSALS = {
    errno.ENOENT: ("not_found", "it is not there (any more)"),
    errno.ENOTDIR: ("not_found", "it is not there (any more)"),
    errno.EACCES: ("forbidden", "the job's owner may not read it (any more)"),
    errno.EPERM: ("forbidden", "the job's owner may not read it (any more)"),
    errno.ELOOP: ("conflict", "a symbolic link is in the way"),
    errno.ENXIO: ("conflict", "it is not a plain file (any more)"),
}


@frozen
class Output:
    """The file of one attempt. `over` is set when nothing is written to it any more."""

    path: str
    over: trio.Event


async def reopen_output(
    path: str, owner: Submitter, files: Container[FileId], blocking: Blocking
) -> tuple[int, FileId]:
    """A descriptor to write with, of an output file that a job opened before: for `Trimmer.add` after a restart.

    Raises:
        Refused: as `LogReader`; conflict where by now a file is at `path` that is none of `files`.
    """

    def reopen() -> tuple[int, FileId]:
        fd = _open(path, owner, os.O_WRONLY | os.O_APPEND)
        found = os.fstat(fd)
        file = (found.st_dev, found.st_ino)
        if file not in files:
            os.close(fd)
            raise Refused("conflict", f"{path}: it is another file by now")
        return fd, file

    return await bounded(path, reopen, blocking, late=_close)


async def bounded(path: str, function: Callable[[], T], blocking: Blocking, *, late: Callable[[T], None]) -> T:
    """`function`, which waits for the file system of `path`, in a thread.

    Raises:
        Refused: unavailable, there was no answer in time, or an error.
    """
    try:
        with trio.move_on_after(TIMEOUT):
            return await blocking(function, late=late)
    except OSError as error:
        raise Refused("unavailable", f"{path}: {os.strerror(error.errno or 0)}") from None
    raise Refused(
        "unavailable",
        f"{path}: no answer from the file system within {format_duration(TIMEOUT)}",
        "see that its server is up",
    )


def _open(path: str, owner: Submitter, flags: int) -> int:
    """
    Raises:
        Refused: it is not there, its owner may not read or write it, or it is no plain file with one name.
    """
    try:
        with acting_as(owner.uid, owner.gid, owner.groups):
            fd = syscalls.openat2(syscalls.AT_FDCWD, path, flags | _FLAGS, 0, _RESOLVE, release_lock=True)
    except OSError as error:
        code, what = _REFUSALS.get(error.errno or 0, ("unavailable", os.strerror(error.errno or 0)))
        raise Refused(code, f"{path}: {what}") from None
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(fd)
        names = "it has other names (hard links)" if stat.S_ISREG(found.st_mode) else "it is not a plain file"
        raise Refused("conflict", f"{path}: {names}")
    return fd


@define(eq=False)
class _Reading:
    """One file that is being read: all that threads need of it. `end` is where to stop, unless it is followed."""

    path: str
    descriptor: Descriptor
    id: FileId
    shared: Shared
    leave: Callable[[], object]  # the shared file
    at: Position = field(factory=Position)
    end: Position = field(factory=lambda: Position(stop=True))
    broken: bool = False  # the last piece ended within a line
    in_hole: bool = False  # what comes first may be the rest of a block that was let go of

    @classmethod
    def open(cls, path: str, owner: Submitter, files: SharedFiles, tail: int | None, start: int = 0) -> _Reading:
        """
        Raises:
            Refused: see `_open`.
        """
        with ExitStack() as stack:
            fd = _open(path, owner, os.O_RDONLY)
            descriptor = Descriptor(fd)
            stack.callback(descriptor.close)
            found = os.fstat(fd)
            leaving = stack.enter_context(ExitStack())
            file = (found.st_dev, found.st_ino)
            reading = cls(path, descriptor, file, leaving.enter_context(files.sharing(file)), leaving.close)
            with reading.shared.lock:
                reading.end.offset = os.fstat(fd).st_size
                reading.at.offset = start
                reading.shared.positions += [reading.at, reading.end]
            leaving.callback(reading._forget)
            if tail is not None:
                reading.seek_tail(fd, tail)
            stack.pop_all()
            return reading

    def close(self) -> None:
        """In a thread."""
        self.leave()
        self.descriptor.close()

    def _forget(self) -> None:
        with self.shared.lock:
            own = (self.at, self.end)
            self.shared.positions[:] = [one for one in self.shared.positions if one not in own]

    def piece(self, fd: int, *, to_end: bool) -> bytes:
        """The next piece; b"": there is none (yet)."""
        with self.shared.lock:
            self.in_hole = self.in_hole and not self.at.moved
            while True:
                if os.fstat(fd).st_size < self.at.offset:  # the job, or its owner, has begun anew
                    self.at.offset, self.at.moved = 0, True
                most = PIECE if not to_end else min(PIECE, max(self.end.offset - self.at.offset, 0))
                data = os.pread(fd, most, self.at.offset)
                end = self.at.offset + len(data)
                if b"\0" in data:
                    data, end = self._around_hole(fd, data)
                elif data:
                    self.in_hole = False
                if data or end == self.at.offset:
                    break
                self.at.offset = end
            self.at.offset = end
            if not data:
                return data
            if self.at.moved:
                self.at.moved = False
                data = b"\n" + data if self.broken else data
            self.broken = not data.endswith(b"\n")
            return data

    def _around_hole(self, fd: int, data: bytes) -> tuple[bytes, int]:
        """The piece without what is no data of the job's, and the offset behind it. A hole is let go of in blocks."""
        offset = self.at.offset
        if self.in_hole:
            self.in_hole = False
            return data.lstrip(b"\0"), offset + len(data)
        size = os.fstat(fd).st_size
        hole = os.lseek(fd, offset, os.SEEK_HOLE)
        if hole >= min(size, offset + 2 * PIECE):
            return data, offset + len(data)
        data = os.pread(fd, hole - offset, offset).rstrip(b"\0")
        self.in_hole = True
        try:
            return data, os.lseek(fd, hole, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return data, size  # nothing but the hole follows

    def has_changed(self) -> bool:
        """Whether there is more to read, or something wrong, which `piece` then meets."""
        try:
            return self.descriptor.use(os.fstat).st_size != self.at.offset
        except (OSError, Closed):
            return True

    def seek_tail(self, fd: int, lines: int) -> None:
        """Go to where the last `lines` lines begin: backwards, piece by piece, and not behind a hole or `MOST_TAIL`."""
        self.at.offset = self.end.offset
        wanted, first = lines, True
        least = self.end.offset - MOST_TAIL
        while lines and self.at.offset > 0:
            with self.shared.lock:
                begin, data = self._piece_before(fd)
                if first and data.endswith(b"\n"):
                    wanted += 1
                first = False
                found = len(data)
                while wanted and found >= 0:
                    found = data.rfind(b"\n", 0, found)
                    wanted -= found >= 0
                if found < 0 and begin < least:
                    found = data.find(b"\n")
                if found >= 0 or not data:
                    self.at.offset = begin + found + 1 if data else begin
                    return
                self.at.offset = begin

    def _piece_before(self, fd: int) -> tuple[int, bytes]:
        """The piece that ends here, without holes and what is before them, and where it begins."""
        end = self.at.offset
        begin = max(end - PIECE, 0)
        data = os.pread(fd, end - begin, begin)
        if b"\0" not in data:
            return begin, data
        start = begin
        while (hole := os.lseek(fd, start, os.SEEK_HOLE)) < end:
            try:
                start = min(os.lseek(fd, hole, os.SEEK_DATA), end)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                start = end
            if start == end:
                break
        data = data[start - begin :]
        kept = data.lstrip(b"\0") if start > begin else data
        return end - len(kept), kept


@define(eq=False)
class _Waiting:
    reading: _Reading
    over: trio.Event
    woken: trio.Event = field(factory=trio.Event)


@define(eq=False)
class Follower:
    """Looks at the files that somebody follows, all of a file system in one go, and only while somebody does."""

    blocking: Blocking
    _waiting: set[_Waiting] = field(init=False, factory=set)
    _some: trio.Event = field(init=False, factory=trio.Event)
    _away: set[int] = field(init=False, factory=set)

    async def more(self, reading: _Reading, over: trio.Event) -> None:
        """Wait until there is more to read, or nothing more will come."""
        waiting = _Waiting(reading, over)
        self._waiting.add(waiting)
        self._some.set()
        try:
            await waiting.woken.wait()
        finally:
            self._waiting.discard(waiting)

    async def run(self) -> None:
        """Look, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                if not self._waiting:
                    self._some = trio.Event()
                    await self._some.wait()
                await trio.sleep(POLL)
                by_device: dict[int, list[_Waiting]] = {}
                for waiting in self._waiting:
                    if waiting.over.is_set():
                        waiting.woken.set()
                    else:
                        by_device.setdefault(waiting.reading.id[0], []).append(waiting)
                for device, some in by_device.items():
                    if device not in self._away:
                        self._away.add(device)
                        nursery.start_soon(self._look, device, some)

    async def _look(self, device: int, waiting: list[_Waiting]) -> None:
        def changed() -> list[_Waiting]:
            return [one for one in waiting if one.reading.has_changed()]

        try:
            for one in await self.blocking(changed, late=_ignore):
                one.woken.set()
        finally:
            self._away.discard(device)


@define(eq=False)
class LogReader:
    """What a job's attempts wrote to one of its output files, piece by piece: an async context manager and iterator.

    `outputs`: the attempts' files, in order; with `follow` the next one as soon as it begins, until the job is over.
    `tail`: only the last so many lines of what is there of the first one; None: from byte `start` of it on.
    """

    outputs: AsyncIterator[Output]
    owner: Submitter
    shared: SharedFiles
    follower: Follower
    blocking: Blocking
    tail: int | None = None
    follow: bool = False
    start: int = 0
    begins: int = field(init=False, default=0)  # the byte of the first file at which it begins
    _output: Output | None = field(init=False, default=None)
    _reading: _Reading | None = field(init=False, default=None)

    async def __aenter__(self) -> LogReader:
        """
        Raises:
            Refused: the first file is not there, its owner may not read it, it is no plain file with one name, or no
                answer came.
        """
        try:
            await self._next()
        except BaseException:
            await self._leave()
            raise
        self.begins = self._reading.at.offset if self._reading else 0
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        with trio.CancelScope(shield=True):
            await self._close()
            if aclose := getattr(self.outputs, "aclose", None):
                await aclose()

    def __aiter__(self) -> LogReader:
        return self

    async def __anext__(self) -> bytes:
        """
        Raises:
            Refused: the same of a file that is not the first; or its file system does not answer.
        """
        while self._reading is not None and self._output is not None:
            last = self._output.over.is_set()
            read = partial(self._reading.descriptor.use, partial(self._reading.piece, to_end=not self.follow))
            data = await bounded(self._reading.path, read, self.blocking, late=_ignore)
            if data:
                return data
            if self.follow and not last:
                await self.follower.more(self._reading, self._output.over)
            else:
                await self._next()
        raise StopAsyncIteration

    async def _next(self) -> None:
        """Open the next attempt's file; none is left: nothing is open then."""
        await self._close()
        async for output in self.outputs:
            if output.path != os.devnull:
                opening = partial(_Reading.open, output.path, self.owner, self.shared, self.tail, self.start)
                self._reading = await bounded(output.path, opening, self.blocking, late=_Reading.close)
                self._output, self.tail, self.start = output, None, 0
                return

    async def _close(self) -> None:
        reading, self._reading, self._output = self._reading, None, None
        if reading is not None:
            with trio.move_on_after(TIMEOUT):
                await self.blocking(reading.close, late=_ignore)


def _close(opened: tuple[int, FileId]) -> None:
    os.close(opened[0])


def _ignore(value: object) -> None:
    pass
