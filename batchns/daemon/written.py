"""The files that running jobs write to: kept small while they run, and followed by whoever reads them.

What is trimmed after a restart has to be the file that the job opened, from where the job began: that is noted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence

import trio
from attrs import define, field

from batchns.daemon.files import FileId
from batchns.daemon.logs import reopen_output
from batchns.daemon.recorder import Recorder
from batchns.daemon.service import Refused
from batchns.daemon.trim import Trimmer
from batchns.errors import SCARCE, host_error
from batchns.model.submitter import Submitter
from batchns.store.interface import Json
from batchns.supervise.ports import Blocking

_PREFIX = "written "


@define(kw_only=True, eq=False)
class Written:
    """By attempt. `opened` is the hook of `supervise.outputs.Outputs`."""

    trimmer: Trimmer
    recorder: Recorder
    blocking: Blocking
    start: Callable[..., object]  # a task, as of trio.Nursery.start_soon
    _files: dict[str, list[FileId]] = field(init=False, factory=dict)
    _over: dict[str, trio.Event] = field(init=False, factory=dict)
    _untrimmed: dict[str, str] = field(init=False, factory=dict)  # why

    def opened(self, attempt: str, files: Sequence[tuple[int, os.stat_result]]) -> None:
        """An attempt's files, before it runs.

        Raises:
            OSError: EMFILE, there is no descriptor left to look at one; `ended` forgets the others.
        """
        notes = []
        for fd, found in files:
            file = self.trimmer.add(fd, f"output of attempt {attempt}", found=found)
            if file is not None:
                self._files.setdefault(attempt, []).append(file)
                notes.append([*file, found.st_size])
        self._over.setdefault(attempt, trio.Event())
        if notes:
            self.recorder.keep(_PREFIX + attempt, notes)

    def restore(
        self, attempt: str, paths: Sequence[str | None], owner: Submitter | None, notes: Mapping[str, Json]
    ) -> None:
        """Those of an attempt that an earlier process launched, by what it noted. `owner` None: there is no such user.

        Nobody waits for a file system here: each file is opened in a task, and what cannot be is told.
        """
        self._over.setdefault(attempt, trio.Event())
        starts = {(device, inode): size for device, inode, size in notes.get(_PREFIX + attempt) or ()}
        if owner is not None and starts:
            for path in dict.fromkeys(filter(None, paths)):
                self.start(self._reopen, attempt, path, owner, starts)

    async def _reopen(self, attempt: str, path: str, owner: Submitter, starts: Mapping[FileId, int]) -> None:
        try:
            fd, file = await reopen_output(path, owner, starts, self.blocking)
        except Refused as error:
            if attempt in self._over and path != os.devnull:
                self._untrimmed[attempt] = f"output.max_size: {path} is not trimmed: {error.message}"
            return
        try:
            if attempt in self._over and (known := self.trimmer.add(fd, path, starts[file])) is not None:
                self._files.setdefault(attempt, []).append(known)
        except OSError as error:
            if error.errno not in SCARCE:
                raise
            self._untrimmed[attempt] = f"output.max_size: {path} is not trimmed: {host_error(error)}"
        finally:
            os.close(fd)

    def sweep(self, attempts: Collection[str], notes: Mapping[str, Json]) -> None:
        """What was noted of others than these is of no use any more."""
        for name in notes:
            if name.startswith(_PREFIX) and name.removeprefix(_PREFIX) not in attempts:
                self.recorder.keep(name, None)

    def troubles(self) -> tuple[str, ...]:
        """What an administrator should know."""
        return tuple(self._untrimmed.values())

    def running(self, attempt: str) -> trio.Event:
        """Set when nothing is written by the attempt any more."""
        over = self._over.get(attempt)
        if over is None:
            over = trio.Event()
            over.set()
        return over

    def ended(self, attempt: str) -> None:
        """The attempt is over."""
        over = self._over.pop(attempt, None)
        if over is not None:
            over.set()
        self._untrimmed.pop(attempt, None)
        for file in self._files.pop(attempt, ()):
            self.start(self.trimmer.remove, file)
        self.recorder.keep(_PREFIX + attempt, None)
