"""Reading and writing cgroup files: the only place where the drivers and the launcher touch them.

1. A failed call says which file, which value and which errno: the message is enough to repeat it by hand.
2. One call is few system calls: a cgroup file is small, so one read takes all of it.
3. Nothing here waits longer than it is told to.

The launcher imports this, so it imports next to nothing itself.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator

_CHUNK = 1 << 16
_GONE = (errno.ENOENT, errno.ENODEV)  # ENODEV: opened before its cgroup was removed
_OFF = errno.EOPNOTSUPP  # of pressure files, where PSI is off since the boot: psi_show in kernel/sched/psi.c


def read(path: str) -> str:
    """The whole text of `path`.

    Raises:
        OSError: with the path.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _read_all(descriptor)
    except OSError as error:
        raise _told(error, "read", path) from None
    finally:
        os.close(descriptor)


def read_if_there(path: str) -> str | None:
    """The text of `path`; None where there is no such file, or no longer."""
    try:
        return read(path)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise


def write(path: str, value: str) -> None:
    """Write `value` in one call, as cgroup files want it.

    Raises:
        OSError: with the path, and the value in its message.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    except OSError as error:
        raise _told(error, f"write {value!r}", path) from None
    finally:
        os.close(descriptor)


def write_and_read_back(path: str, value: str) -> str:
    """Write `value`, then read what the kernel made of it, through one descriptor.

    Raises:
        OSError: with the path, and the value in its message.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
        return os.pread(descriptor, _CHUNK, 0).decode()
    except OSError as error:
        raise _told(error, f"write {value!r}", path) from None
    finally:
        os.close(descriptor)


def listing(directory: str) -> list[str]:
    """The names in `directory`, sorted; none where it is not there."""
    try:
        return sorted(os.listdir(directory))
    except OSError as error:
        if error.errno in _GONE:
            return []
        raise


def children(directory: str) -> list[str]:
    """The cgroups directly below, as paths; none where the directory itself is not there."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError as error:
        if error.errno in _GONE:
            return []
        raise


def tree(directory: str) -> Iterator[str]:
    """`directory` and every cgroup below it, the deepest first."""
    for child in children(directory):
        yield from tree(child)
    yield directory


def remove_tree(directory: str, timeout: float) -> bool:
    """Remove a cgroup and those that were made below it; False when one is still busy after `timeout` seconds.

    A cgroup stays busy for a moment after its last process is gone: the kernel lets go of it asynchronously.
    What is not there is no error.
    """
    deadline = time.monotonic() + timeout
    pause = 0.0005
    while True:
        if _remove_once(directory):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def _remove_once(directory: str) -> bool:
    try:
        os.rmdir(directory)  # nearly always there is nothing below: no listing then
    except OSError as error:
        if error.errno in _GONE:
            return True
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
    else:
        return True
    below = children(directory)
    gone = [_remove_once(child) for child in below]
    return bool(below) and all(gone) and _remove_once(directory)


class KeptOpen:
    """Files that are read again and again: a pread on a kept descriptor costs a tenth of open, read, close.

    At most `limit` descriptors are held; the least recently used one is closed first.
    """

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._open: dict[str, int] = {}  # in order of use

    def read(self, path: str) -> str | None:
        """The text of `path`; None where there is no such file, or no longer, or the kernel has switched off what it
        tells.

        Raises:
            OSError: with the path.
        """
        descriptor = self._open.pop(path, None)
        if descriptor is not None:
            try:
                text = os.pread(descriptor, _CHUNK, 0).decode()
            except OSError as error:
                if error.errno == _OFF:
                    self._open[path] = descriptor
                    return None
                os.close(descriptor)
                if error.errno not in _GONE:
                    raise _told(error, "read", path) from None
            else:
                self._open[path] = descriptor
                return text
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _GONE or error.errno == _OFF:
                return None
            raise
        self._open[path] = descriptor
        if len(self._open) > self._limit:
            os.close(self._open.pop(next(iter(self._open))))
        try:
            return os.pread(descriptor, _CHUNK, 0).decode()
        except OSError as error:
            if error.errno in _GONE or error.errno == _OFF:
                return None
            raise _told(error, "read", path) from None

    def close(self, paths: Iterable[str]) -> None:
        """Close what is held of these."""
        for path in paths:
            descriptor = self._open.pop(path, None)
            if descriptor is not None:
                os.close(descriptor)

    def forget(self, directory: str) -> None:
        """Close what is held below `directory` ("" for all)."""
        for path in [path for path in self._open if path.startswith(f"{directory}/")]:
            os.close(self._open.pop(path))


def _read_all(descriptor: int) -> str:
    chunks = []
    while chunk := os.read(descriptor, _CHUNK):
        chunks.append(chunk)
        if len(chunk) < 2048:  # the kernel fills a page with whole, short lines: that little is the end
            break
    return b"".join(chunks).decode()


def _told(error: OSError, what: str, path: str) -> OSError:
    number = error.errno or 0
    return OSError(number, f"{what}: {os.strerror(number)}", path)
