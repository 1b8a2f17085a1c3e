"""The directory `batchns` of one hierarchy, below which every job has its own.

1. Whoever uses it holds a shared lock on it, and the kernel drops that lock when the holder dies.
2. It is removed only under the exclusive lock: no run can take it away from another, however they interleave.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from batchns.errors import HostError
from batchns.kernel.cgroups import files

GROUP = "batchns"
_TRIES = 50  # of making it while others remove it: each try loses only to a run that ends at that very moment


class Common:
    """`parent` is the absolute path of the cgroup below which batchns works."""

    def __init__(self, parent: str) -> None:
        self.parent = parent
        self.path = f"{parent}/{GROUP}"
        self._held: int | None = None

    def __repr__(self) -> str:
        return f"Common({self.parent!r})"

    def hold(self) -> None:
        """Make the directory unless it is there, and hold it until `release`. May be called again.

        Raises:
            HostError: it cannot be made, with what to do about it.
        """
        if self._held is not None:
            if _is_at(self._held, self.path):
                return
            os.close(self._held)
            self._held = None
        for _ in range(_TRIES):
            try:
                self._held = self._make_and_lock()
            except OSError as error:
                raise HostError(
                    f"cannot make the cgroup {self.path}: {os.strerror(error.errno or 0)}", _hint(error.errno)
                ) from None
            if self._held is not None:
                return
        raise HostError(f"the cgroup {self.path} is removed again and again", "stop what removes it")

    def _make_and_lock(self) -> int | None:
        """The locked descriptor; None when the directory was removed meanwhile."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path, 0o755)
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _is_at(descriptor, self.path):
            return descriptor
        os.close(descriptor)
        return None

    def release(self) -> None:
        """Let go of the directory, and remove it when it is empty and nobody else holds it."""
        descriptor, self._held = self._held, None
        if descriptor is None:
            try:
                descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, self.path):
                os.rmdir(self.path)
        except OSError as error:
            # EWOULDBLOCK: another run holds it. The others: it has jobs, it is gone, or it is not ours to remove.
            expected = (errno.EWOULDBLOCK, errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT, errno.EACCES, errno.EPERM)
            if error.errno not in expected:
                raise
        finally:
            os.close(descriptor)

    def names(self) -> set[str]:
        return {path.rpartition("/")[2] for path in files.children(self.path)}


def _is_at(descriptor: int, path: str) -> bool:
    """Whether `path` still is the directory that is open: a removed one can be made again under its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _hint(number: int | None) -> str:
    if number == errno.ENOENT:
        return "its parent does not exist: make it, or change parent under [cgroup] in batchns.toml"
    if number == errno.EROFS:
        return "mount the cgroup file system read-write, or run batchns outside of this container"
    return (
        "run batchns as root, or in a cgroup that is delegated to you: "
        "systemd-run --user --scope -p Delegate=yes batchns ..."
    )
