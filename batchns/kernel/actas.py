"""Acting as a user on file systems, for the time of an open: what that user may not reach, is not reached.

1. Only the effective ids change, which those of the file system follow, and only the calling thread's: the system calls
   are made directly, since the library's own functions change all threads. The file system's ids alone would not do:
   /proc/sys asks for the effective ones (fs/proc/proc_sysctl.c, test_perm), and root's capabilities would stay.
2. Leaving effective uid 0 empties the effective set of capabilities, and coming back, which the saved id allows, fills
   it again: capabilities(7), setresuid(2).
3. Every change is checked. A thread that cannot come back must do nothing more: that is a defect, not an error.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import EPERM

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_SAME = ctypes.c_uint(0xFFFFFFFF)
_NR_SETGROUPS, _NR_SETRESUID, _NR_SETRESGID = (116, 117, 119) if os.uname().machine == "x86_64" else (159, 147, 149)


@contextmanager
def acting_as(uid: int, gid: int, groups: Sequence[int]) -> Iterator[None]:
    """The calling thread opens, makes and resolves as this user. Without effect for the user it is anyway.

    Raises:
        OSError: EPERM, it may not act as that user.
    """
    if uid == os.geteuid():
        yield
        return
    before = os.getgroups()
    own_uid, own_gid = os.geteuid(), os.getegid()
    _set_groups(groups)
    try:
        _set_effective(_NR_SETRESGID, gid)
        _set_effective(_NR_SETRESUID, uid)
        yield
    finally:
        _set_effective(_NR_SETRESUID, own_uid)
        _set_effective(_NR_SETRESGID, own_gid)
        _set_groups(before)


def _set_effective(call: int, value: int) -> None:
    if _libc.syscall(ctypes.c_long(call), _SAME, ctypes.c_uint(value), _SAME) < 0:
        raise OSError(EPERM, f"setresuid, setresgid: this process may not act as {value}")


def _set_groups(groups: Sequence[int]) -> None:
    packed = struct.pack(f"={len(groups)}I", *groups)
    if _libc.syscall(ctypes.c_long(_NR_SETGROUPS), ctypes.c_size_t(len(groups)), packed) < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"setgroups: {os.strerror(errno)}")
