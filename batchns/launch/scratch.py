"""Scratch on a disk: a file system of the job's own in a file of root's, which has no name once it is mounted.

1. The file is made by `supervise.scratch_file`, with its room: what the job writes never meets a full disk below it.
2. init attaches, unlinks and mounts it. The kernel lets go of it with the last mount then, however the job ends.
3. Only its folders for the job are mounted, as writable to everybody as a tmpfs is.

Sources: ext4(5), mke2fs(8), loop(4), Documentation/filesystems/ext4/.
"""

from __future__ import annotations

import os

from batchns.kernel import syscalls as sys
from batchns.launch.rootfs import attach_loop

_STAGE = "/tmp"  # of the job's mount namespace, and only until its folders are somewhere else


def mount(path: str, count: int) -> list[int]:
    """`count` folders of the file system in the file, each a mount of its own that is nowhere yet."""
    image = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        name, device = attach_loop(image, writable=True)
    finally:
        os.close(image)
    try:
        os.unlink(path)
        options = (("source", name), ("noinit_itable", ""))
        whole = sys.fsmount("ext4", options, sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NODEV)
    finally:
        os.close(device)  # the mount holds the device; without one it is free again
    sys.move_mount(whole, sys.AT_FDCWD, _STAGE)  # a part of what is mounted nowhere is not to be had before Linux 6.15
    try:
        return [_folder(whole, str(number)) for number in range(count)]
    finally:
        os.close(whole)
        sys.umount_detach(_STAGE)


def _folder(whole: int, name: str) -> int:
    os.mkdir(name, 0o700, dir_fd=whole)
    os.chmod(name, 0o1777, dir_fd=whole)
    return sys.open_tree(whole, name, sys.OPEN_TREE_CLONE)
