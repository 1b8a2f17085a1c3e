"""The directory `batchns` of one hierarchy, below which every job has its own.

1. Whoever uses it holds a shared lock for it, and the kernel drops that lock when the holder dies.
2. It is removed only under the exclusive lock: no run can take it away from another, however they interleave.
3. The lock is on a file in a folder of root's: the directory itself may be opened, and so be locked, by anyone.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os

from batchns.errors import HostError
from batchns.kernel.cgroups import files
from batchns.kernel.locks import lock_within

GROUP = "batchns"
LOCK_SECONDS = 10.0  # the exclusive lock is held for one rmdir


class Common:
    """`parent` is the absolute path of the cgroup below which batchns works, `locks` the folder for the lock file.

    All that use the same parent must use the same folder.
    """

    def __init__(self, parent: str, locks: str) -> None:
        self.parent = parent
        self.path = f"{parent}/{GROUP}"
        self.lock = f"{locks}/{hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]}"
        self._held: int | None = None

    def __repr__(self) -> str:
        return f"Common({self.parent!r})"

    def hold(self) -> None:
        """Make the directory unless it is there, and hold it until `release`. May be called again.

        Raises:
            HostError: it cannot be made, with what to do about it.
        """
        if self._held is None:
            self._held = self._lock()
        try:
            os.mkdir(self.path, 0o755)
        except FileExistsError:
            if not os.access(self.path, os.W_OK):  # of root's batchns, in whose cgroup this user's is
                self._let_go()
                raise HostError(f"the cgroup {self.path} belongs to another user", _hint(errno.EACCES)) from None
        except OSError as error:
            self._let_go()
            raise HostError(
                f"cannot make the cgroup {self.path}: {os.strerror(error.errno or 0)}", _hint(error.errno)
            ) from None

    def _lock(self) -> int:
        """The lock file's descriptor, with a shared lock."""
        descriptor = self._open_lock()
        if lock_within(descriptor, fcntl.LOCK_SH, LOCK_SECONDS):
            return descriptor
        os.close(descriptor)
        raise HostError(
            f"{self.lock}: locked for more than {LOCK_SECONDS:.0f} s by another batchns",
            f"see which process it is with: fuser {self.lock}",
        )

    def _open_lock(self) -> int:
        try:
            os.makedirs(os.path.dirname(self.lock), mode=0o700, exist_ok=True)
            return os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise HostError(f"{error.filename}: {os.strerror(error.errno or 0)}", "run batchns as root") from None

    def release(self) -> None:
        """Let go of the directory, and remove it when it is empty and nobody else holds it."""
        if self._held is None:
            self._held = self._open_lock()
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rmdir(self.path)
        except OSError as error:
            # EWOULDBLOCK: another run holds it. The others: it has jobs, it is gone, or it is not ours to remove.
            expected = (errno.EWOULDBLOCK, errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT, errno.EACCES, errno.EPERM)
            if error.errno not in expected:
                raise
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def names(self) -> set[str]:
        return {path.rpartition("/")[2] for path in files.children(self.path)}


def _hint(number: int | None) -> str:
    if number == errno.ENOENT:
        return "its parent does not exist: make it, or change parent under [cgroup] in batchns.toml"
    if number == errno.EROFS:
        return "mount the cgroup file system read-write, or run batchns outside of this container"
    return (
        "run batchns as root, or in a cgroup that is delegated to you: "
        "systemd-run --user --scope -p Delegate=yes batchns ..."
    )
