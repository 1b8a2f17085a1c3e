"""A user namespace to do the launcher's work in where batchns is not root: all capabilities, over nothing but itself.

The caller's uid and gid keep their numbers, and are the only ones: on the host's files it has the rights that it had.
Its groups stay with it and cannot be changed any more (setgroups(2) is denied): user_namespaces(7), "Defining user and
group ID mappings".
"""

from __future__ import annotations

import os

from batchns.kernel import syscalls


def enter() -> None:
    """Put the calling, single-threaded process into such a namespace. The capabilities last until an exec.

    Raises:
        OSError: EPERM, ENOSPC, EUSERS: the host allows users no namespaces, or no more of them.
    """
    uid, gid = os.geteuid(), os.getegid()
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1"), ("uid_map", f"{uid} {uid} 1")):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
