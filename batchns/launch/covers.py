"""Files of batchns's own over files of the new root: /etc/resolv.conf, /etc/hosts.

1. Such a file may be a symbolic link, into the sandbox's own empty /run too: it is followed inside the new root, and
   what it leads to is made there.
2. What covers it is mounted read-only, so nothing is written into the root itself.
"""

from __future__ import annotations

import os
import stat
from errno import ELOOP

from batchns.kernel import syscalls as sys

_INSIDE = sys.RESOLVE_IN_ROOT | sys.RESOLVE_NO_MAGICLINKS
_MOST_LINKS = 8
_ATTRIBUTES = sys.MOUNT_ATTR_RDONLY | sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NODEV | sys.MOUNT_ATTR_NOEXEC


def cover(root: int, source: str, target: str) -> None:
    """Mount the host's file `source` over `target` of the root that descriptor `root` stands for.

    Raises:
        OSError: EROFS and the like where `target` is not there and cannot be made, or what open_tree(2) says.
    """
    tree = sys.open_tree(sys.AT_FDCWD, source, sys.OPEN_TREE_CLONE)
    try:
        sys.mount_setattr(tree, attr_set=_ATTRIBUTES)
        place = open_file(root, target)
        try:
            sys.move_mount(tree, place)
        finally:
            os.close(place)
    finally:
        os.close(tree)


def open_file(root: int, path: str) -> int:
    """A descriptor (O_PATH) of the file that `path` leads to, made where it is missing.

    Raises:
        OSError: it cannot be made, or links lead nowhere.
    """
    for _ in range(_MOST_LINKS):
        above, name = os.path.split(path)
        folder = _open_folder(root, above)
        try:
            found = _open_or_make(folder, name)
            if not stat.S_ISLNK(os.fstat(found).st_mode):
                return found
            os.close(found)
            # Not normalised: what ".." means depends on where the links above have led.
            path = os.path.join(above, os.readlink(name, dir_fd=folder))
        finally:
            os.close(folder)
    raise OSError(ELOOP, os.strerror(ELOOP), path)


def _open_folder(root: int, path: str) -> int:
    relative = path.strip("/") or "."
    try:
        return sys.openat2(root, relative, os.O_PATH | os.O_DIRECTORY, resolve=_INSIDE)
    except FileNotFoundError:
        above, name = os.path.split(relative)
    folder = _open_folder(root, above)
    try:
        os.mkdir(name, 0o755, dir_fd=folder)
        return sys.openat2(folder, name, os.O_PATH | os.O_DIRECTORY, resolve=sys.RESOLVE_NO_SYMLINKS)
    finally:
        os.close(folder)


def _open_or_make(folder: int, name: str) -> int:
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder))
        return os.open(name, flags, dir_fd=folder)
