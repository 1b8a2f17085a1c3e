"""Loads a compiled seccomp filter into the calling process, for good: what it execs and forks is under it too.

1. Few imports: the job's init loads this.
2. The interpreter's lock is kept (`PyDLL`), as in `batchns.kernel.syscalls`.
"""

from __future__ import annotations

import ctypes
import os
import struct

_libc = ctypes.PyDLL(None, use_errno=True)

_PR_SET_SECCOMP = 22  # include/uapi/linux/prctl.h
_SECCOMP_MODE_FILTER = 2  # include/uapi/linux/seccomp.h
INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter, include/uapi/linux/filter.h: code, jt, jf, k
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS, include/uapi/linux/bpf_common.h


def load(program: bytes) -> None:
    """Put the calling thread under `program`, an array of struct sock_filter. seccomp(2), SECCOMP_SET_MODE_FILTER.

    The form of prctl(2) is used, which is the same without flags: its number does not depend on the architecture.
    Needs no_new_privs (or CAP_SYS_ADMIN). Filters add up: the strictest decides.

    Raises:
        ValueError: `program` is no whole number of instructions, or there are too many or none of them.
        OSError: EACCES without no_new_privs; EINVAL for a program that the kernel's checker refuses, or a kernel
            without CONFIG_SECCOMP_FILTER.
    """
    count, rest = divmod(len(program), INSTRUCTION.size)
    if rest or not 0 < count <= MAX_INSTRUCTIONS:
        raise ValueError(f"{len(program)} bytes are no seccomp program")
    # Its address, without a type of its own for each length: that would cost each init some 70 us.
    address = ctypes.c_void_p.from_buffer(ctypes.c_char_p(program)).value
    header = struct.pack("@HP", count, address)  # struct sock_fprog
    zero = ctypes.c_ulong(0)
    if _libc.prctl(ctypes.c_int(_PR_SET_SECCOMP), ctypes.c_ulong(_SECCOMP_MODE_FILTER), header, zero, zero) < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"seccomp: {os.strerror(errno)}")
