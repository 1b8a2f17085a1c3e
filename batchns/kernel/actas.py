"""Acting as a user on file systems, for the time of an open: what that user may not reach, is not reached.

1. Only the file system's ids change, and only the calling thread's: the system calls are made directly, since the
   library's own functions change all threads.
2. Leaving host uid 0 takes the capabilities over files (CAP_DAC_OVERRIDE and the like) out of the effective set, and
   coming back puts them in again: capabilities(7), setfsuid(2).
3. Every change is read back. A thread that cannot come back must do nothing more: that is a defect, not an error.
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
_NOBODY = ctypes.c_uint(0xFFFFFFFF)  # setfsuid(-1) changes nothing and tells what is
_NR_SETGROUPS, _NR_SETFSUID, _NR_SETFSGID = (116, 122, 123) if os.uname().machine == "x86_64" else (159, 151, 152)


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
    _set_groups(groups)
    try:
        _become(uid, gid)
        yield
    finally:
        _become(os.geteuid(), os.getegid())
        _set_groups(before)


def _become(uid: int, gid: int) -> None:
    for number, value in ((_NR_SETFSGID, gid), (_NR_SETFSUID, uid)):
        _libc.syscall(ctypes.c_long(number), ctypes.c_uint(value))
        if _libc.syscall(ctypes.c_long(number), _NOBODY) != value:
            raise OSError(EPERM, f"setfsuid, setfsgid: this process may not act as {uid}:{gid}")


def _set_groups(groups: Sequence[int]) -> None:
    packed = struct.pack(f"={len(groups)}I", *groups)
    if _libc.syscall(ctypes.c_long(_NR_SETGROUPS), ctypes.c_size_t(len(groups)), packed) < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"setgroups: {os.strerror(errno)}")
