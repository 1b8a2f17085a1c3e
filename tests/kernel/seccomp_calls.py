"""Attempts at system calls, run in a child with or without the filter: the number of each, and what it answered."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
from collections.abc import Callable

from batchns.kernel import syscalls
from batchns.kernel.seccomp.load import load

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call(number: int, *arguments: int | bytes | None) -> int:
    """The errno of a raw system call, 0 for success."""
    converted = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return ctypes.get_errno() if _libc.syscall(ctypes.c_long(number), *converted) < 0 else 0


def in_child(attempt: Callable[[], int], program: bytes | None) -> int:
    """What `attempt` returns (0 to 254) in a forked child, under `program` if there is one; -n: killed by signal n."""
    pid = os.fork()
    if pid == 0:
        try:
            if program is not None:
                syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
                load(program)
            os._exit(attempt())
        finally:
            os._exit(255)
    status = os.waitpid(pid, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def getpid_by_int_0x80() -> int:
    """0 if the 32-bit call 20 answers with this process's number: the kernel runs 32-bit calls of 64-bit processes."""
    code = b"\xb8" + struct.pack("<I", 20) + b"\xcd\x80\xc3"  # mov eax, 20; int 0x80; ret
    page = mmap.mmap(-1, len(code), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    return 0 if function() == os.getpid() else 1


def clone_with(flags: int, number: int) -> int:
    """The errno of clone(2) with these flags; its child ends at once."""
    pid = _libc.syscall(ctypes.c_long(number), ctypes.c_long(flags | signal.SIGCHLD), None, None, None, None)
    if pid == 0:
        os._exit(0)
    if pid > 0:
        os.waitpid(pid, 0)
    return ctypes.get_errno() if pid < 0 else 0
