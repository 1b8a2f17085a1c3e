"""Open output files, as readers and the trimmer share them.

1. A descriptor is used in threads that may hang with its file system; it is closed when the last of them has come
   back, so no thread ever meets a number that is another file's by now.
2. Where a part is taken out of a file, those that read it move along: both hold the file's lock, and nobody reads with
   an offset of before.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from attrs import define, field

T = TypeVar("T")
FileId = tuple[int, int]  # device and inode


class Closed(Exception):
    """The descriptor is not there any more."""


@define(eq=False)
class Descriptor:
    """Owns `fd`."""

    fd: int
    _lock: threading.Lock = field(init=False, factory=threading.Lock)
    _users: int = field(init=False, default=0)
    _closing: bool = field(init=False, default=False)

    def use(self, function: Callable[[int], T]) -> T:
        """`function` of the descriptor, which stays open for so long. In a thread.

        Raises:
            Closed: `close` was called before.
        """
        with self._lock:
            if self._closing:
                raise Closed
            self._users += 1
        try:
            return function(self.fd)
        finally:
            with self._lock:
                self._users -= 1
                last = self._closing and not self._users
            if last:
                os.close(self.fd)

    def close(self) -> None:
        """Once nobody uses it. May wait for the file system where nobody does, so in a thread."""
        with self._lock:
            now = not self._closing and not self._users
            self._closing = True
        if now:
            os.close(self.fd)


@define(eq=False)
class Position:
    """How far somebody has read (`stop`: will read). `moved`: not to where the last piece ended, but to a line."""

    offset: int = 0
    stop: bool = False
    moved: bool = False

    def move(self, line: int, goes_on: int) -> None:
        """What was here is gone: `line` says so, which ends at `goes_on`."""
        self.offset, self.moved = goes_on if self.stop else line, True


@define(eq=False)
class Shared:
    """One file that somebody reads or cuts. Its positions are changed under the lock only."""

    lock: threading.Lock = field(factory=threading.Lock)
    positions: list[Position] = field(factory=list)
    users: int = 0

    def collapsed(self, offset: int, length: int, line: int, goes_on: int) -> None:
        """`length` bytes from `offset` are gone; what was behind them is `length` further ahead now.

        Between `line` and `goes_on`, both of the file as it is now, stands a line that says so: whoever was in what is
        gone reads that line next.
        """
        for position in self.positions:
            if position.offset - length >= goes_on:
                position.offset -= length
            elif position.offset > line:
                position.move(line, goes_on)

    def punched(self, line: int, goes_on: int) -> None:
        """What was between `line` and `goes_on` is a line that says so, and then nothing."""
        for position in self.positions:
            if line < position.offset < goes_on:
                position.move(line, goes_on)


@define(eq=False)
class SharedFiles:
    """All of them, by device and inode, for as long as somebody uses them."""

    _files: dict[FileId, Shared] = field(init=False, factory=dict)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    @contextmanager
    def sharing(self, file: FileId) -> Iterator[Shared]:
        with self._lock:
            shared = self._files.setdefault(file, Shared())
            shared.users += 1
        try:
            yield shared
        finally:
            with self._lock:
                shared.users -= 1
                if not shared.users:
                    del self._files[file]
