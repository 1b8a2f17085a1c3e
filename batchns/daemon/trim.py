"""Keeps output files of running jobs under `output.max_size`: their beginning and their end stay, the middle goes.

1. Only through duplicates of the descriptors that jobs write to, never by path; and nothing that was in a file before.
2. A file that grows is looked at the sooner the nearer it is to its bound, one that does not every few seconds.
3. The server of a file system may never answer: each file system is looked at by a thread of its own.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Sequence
from errno import EINTR
from functools import partial
from time import monotonic

import trio
from attrs import define, field

from batchns.daemon.cut import Bounds, Impossible, Way, cut, taken
from batchns.daemon.files import Closed, Descriptor, FileId, SharedFiles
from batchns.supervise.ports import Blocking
from batchns.units import format_size

_SHORTEST, _LONGEST = 0.1, 4.0  # seconds between two looks at a file
_STEP = 0.5  # files that do not grow are looked at together
_PATIENCE = 10.0  # seconds for a file system to answer
_LOCK_SECONDS = 1.0  # for a reader to let go of a file; else the next look cuts it


@define(eq=False)
class _File:
    """One file that jobs write to. `start`: where the first of them began; `jobs`: how many there are."""

    descriptor: Descriptor
    id: FileId
    start: int
    what: str
    jobs: int = 1
    way: Way | None = Way.COLLAPSE  # None: it cannot be cut
    due: float = 0.0
    wait: float = _SHORTEST
    looked: float = 0.0
    was: int = 0
    trouble: str = ""


@define(eq=False)
class Trimmer:
    """`most`: bytes on the disk that each file may take; None: nothing is trimmed."""

    most: int | None
    shared: SharedFiles
    blocking: Blocking
    _files: dict[FileId, _File] = field(init=False, factory=dict)
    _away: dict[int, float] = field(init=False, factory=dict)  # file systems that are being looked at, and since when
    _woken: trio.Event = field(init=False, factory=trio.Event)

    def add(self, fd: int, what: str, start: int | None = None, found: os.stat_result | None = None) -> FileId | None:
        """A job begins to write to `fd`, which stays the caller's. Does not block, but for fstat(2) without `found`.

        `what`: the file, as an administrator is told of it. `start`: what lies before it is never touched; None: all
        that is there now, as for a job that has not begun.
        Returns what `remove` takes; None: it is no plain file.
        """
        found = os.fstat(fd) if found is None else found
        if not stat.S_ISREG(found.st_mode):
            return None
        file = (found.st_dev, found.st_ino)
        start = found.st_size if start is None else start
        if known := self._files.get(file):
            known.jobs += 1
            known.start = min(known.start, start)
        else:
            descriptor = Descriptor(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))
            self._files[file] = _File(descriptor, file, start, what)
        self._woken.set()
        return file

    async def remove(self, file: FileId | None) -> None:
        """A job has ended: the last look at its file, when no other job writes to it."""
        known = self._files.get(file) if file else None
        if known is None:
            return
        known.jobs -= 1
        if known.jobs:
            return
        del self._files[known.id]

        def leave() -> None:
            try:
                self._look(known)
            finally:
                known.descriptor.close()

        with trio.move_on_after(_PATIENCE):
            await self.blocking(leave, late=_ignore)

    def troubles(self) -> tuple[str, ...]:
        """What an administrator should know."""
        late = {device for device, since in self._away.items() if monotonic() - since > _PATIENCE}
        silent = [file.what for file in self._files.values() if file.id[0] in late]
        hanging = (f"output.max_size: {silent[0]}: its file system does not answer",) if silent else ()
        told = {file.id[0]: file.trouble for file in list(self._files.values()) if file.trouble}
        return (*told.values(), *hanging)  # one for each file system

    async def run(self) -> None:
        """Trim, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    self._woken = trio.Event()
                    with trio.move_on_after(self._start_looks(nursery)):
                        await self._woken.wait()
                    await trio.sleep(0)
        finally:
            with trio.move_on_after(_PATIENCE, shield=True):
                await self.blocking(self._close_all, late=_ignore)

    def _close_all(self) -> None:
        for file in self._files.values():
            file.descriptor.close()

    def _start_looks(self, nursery: trio.Nursery) -> float:
        """Look at the files whose time it is. Returns seconds until the next one's."""
        now = monotonic()
        due: dict[int, list[_File]] = {}
        soonest = now + 3600.0
        for file in self._files.values():
            if file.way is None or file.id[0] in self._away:
                continue
            if file.due <= now:
                due.setdefault(file.id[0], []).append(file)
            else:
                soonest = min(soonest, file.due)
        for device, files in due.items():
            self._away[device] = now
            nursery.start_soon(self._look_at, device, files)
        return max(soonest - now, _SHORTEST)

    async def _look_at(self, device: int, files: Sequence[_File]) -> None:
        try:
            await self.blocking(partial(self._look_at_each, files), late=_ignore)
        finally:
            self._away.pop(device, None)
            self._woken.set()

    def _look_at_each(self, files: Sequence[_File]) -> None:
        for file in files:
            self._look(file)

    def _look(self, file: _File) -> None:
        """In a thread."""
        try:
            file.descriptor.use(partial(self._trim, file))
        except Closed:
            pass
        except Impossible:
            file.way = None
            self._tell(file, "its file system frees no part of a file, so it grows without bound")
        except OSError as error:
            if error.errno != EINTR:
                file.wait = _LONGEST
                self._tell(file, error.strerror or str(error))
        now = monotonic()
        file.looked = now
        # Those that wait longest wait for the same moments, so that one thread looks at all of them.
        file.due = now + file.wait if file.wait < _STEP else (now + file.wait) // _STEP * _STEP

    def _trim(self, file: _File, fd: int) -> None:
        most, way = self.most, file.way
        if most is None or way is None:
            file.wait = _LONGEST
            return
        now = taken(fd, file.start)
        if now > most:
            with self.shared.sharing(file.id) as shared:
                if not shared.lock.acquire(timeout=_LOCK_SECONDS):
                    file.wait = _SHORTEST
                    return
                try:
                    file.way = cut(fd, Bounds.of(file.start, most), shared, way)
                finally:
                    shared.lock.release()
            file.trouble = ""
            file.wait, file.was = _SHORTEST, taken(fd, file.start)
            return
        grown = now - file.was
        file.was = now
        if grown > 0 and file.looked:
            rate = grown / max(monotonic() - file.looked, 0.001)
            file.wait = min(max((most - now) / rate / 4, _SHORTEST), _LONGEST)
        else:
            file.wait = min(file.wait * 2, _LONGEST)

    def _tell(self, file: _File, why: str) -> None:
        file.trouble = f"output.max_size: {file.what}: {why} (bound: {format_size(self.most or 0)})"


def _ignore(value: object) -> None:
    pass
