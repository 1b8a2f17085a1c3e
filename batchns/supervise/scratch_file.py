"""The file that a job's scratch on disk is in, made before its launch. `launch.scratch` mounts it.

Sources: mke2fs(8), posix_fallocate(3), Documentation/filesystems/ext4/.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress

from batchns.errors import HostError, host_error

_UNIT = 1 << 20
_LEAST = 8 << 20  # bytes of descriptors, bitmaps and folders, whatever the size
_RESERVED = 16 << 20  # the most that ext4 keeps for itself: 2%, at most 4096 blocks
_MAKE = (
    *("mkfs.ext4", "-q", "-F", "-b", "4096", "-i", "16384", "-m", "0", "-O", "^has_journal,^resize_inode"),
    *("-E", "nodiscard,lazy_itable_init=1,root_owner=0:0"),  # a discard would give the room back
)
_MAKE_TIMEOUT = 300.0  # seconds


def file_size(asked: int) -> int:
    """Bytes of the file for `asked` bytes to write: 1/64 of it are inodes, some more what describes them."""
    size = asked + asked // 56 + asked // 200 + min(asked // 45, _RESERVED) + _LEAST
    return -(-size // _UNIT) * _UNIT


def make(path: str, asked: int) -> None:
    """Make the file, with its room and an empty file system. Blocks. One that is there already is replaced.

    Raises:
        HostError: there is no room, or no mkfs.ext4, or the disk does not answer. Nothing is left.
    """
    try:
        remove(path)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, file_size(asked))
        finally:
            os.close(fd)
        done = subprocess.run(
            [*_MAKE, path], capture_output=True, text=True, timeout=_MAKE_TIMEOUT, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            raise HostError(f"scratch on disk: {path}: mkfs.ext4: {done.stderr.strip()}")
    except subprocess.TimeoutExpired:
        remove(path)
        raise HostError(f"scratch on disk: {path}: mkfs.ext4 takes longer than {_MAKE_TIMEOUT:.0f} s") from None
    except FileNotFoundError as error:
        remove(path)
        if error.filename == _MAKE[0]:
            raise HostError("scratch on disk: there is no mkfs.ext4", "apt-get install e2fsprogs") from None
        raise host_error(error) from None
    except OSError as error:
        remove(path)
        hint = "make room in node.scratch_folder, or lower node.scratch_capacity in batchns.toml"
        raise HostError(f"scratch on disk: {path}: {error.strerror}", hint) from None
    except BaseException:
        remove(path)
        raise


def remove(path: str) -> None:
    """The file, unless an init has unlinked it."""
    with suppress(FileNotFoundError):
        os.unlink(path)
