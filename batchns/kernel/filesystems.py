"""File systems that are the kernel itself: what they show, and let change, is the machine's and not a user's.

Magic numbers: include/uapi/linux/magic.h. Names: /proc/filesystems, and the ninth word or so of mountinfo,
proc_pid_mountinfo(5).
"""

from __future__ import annotations

import ctypes
import os

OF_THE_KERNEL = {
    "proc": 0x9FA0,
    "sysfs": 0x62656572,
    "cgroup": 0x27E0EB,
    "cgroup2": 0x63677270,
    "debugfs": 0x64626720,
    "tracefs": 0x74726163,
    "configfs": 0x62656570,
    "securityfs": 0x73636673,
    "selinuxfs": 0xF97CFF8C,
    "bpf": 0xCAFE4A11,
    "devpts": 0x1CD1,
    "mqueue": 0x19800202,
    "binfmt_misc": 0x42494E4D,
    "nsfs": 0x6E736673,
    "pstore": 0x6165676C,
    "efivarfs": 0xDE5E81E4,
    "resctrl": 0x7655821,
    "fusectl": 0x65735543,
}
_BY_NUMBER = {number: name for name, number in OF_THE_KERNEL.items()}
_ESCAPED = {b"\\": b"\\134", b" ": b"\\040", b"\t": b"\\011", b"\n": b"\\012"}
_STATFS = ctypes.c_long * 16  # struct statfs: 120 bytes, f_type first

_libc = ctypes.PyDLL(None, use_errno=True)


def kernels(fd: int) -> str:
    """The name of the kernel's own file system that `fd` (an O_PATH one will do) is in; "" in any other.

    Raises:
        OSError: as of fstatfs(2).
    """
    found = _STATFS()
    if _libc.fstatfs(ctypes.c_int(fd), found) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"fstatfs: {os.strerror(number)}")
    return _BY_NUMBER.get(found[0] & 0xFFFFFFFF, "")


def read_whole(fd: int) -> bytes:
    """A file of /proc from its beginning."""
    parts = []
    position = 0
    while part := os.pread(fd, 1 << 16, position):
        parts.append(part)
        position += len(part)
    return b"".join(parts)


def kernels_below(folder: str, mounts: bytes) -> str:
    """The same of what is mounted below `folder`. `mounts`: what mountinfo says. Pure."""
    path = os.fsencode(folder.rstrip("/"))
    for letter, written in _ESCAPED.items():
        path = path.replace(letter, written)
    beginning = b" %s/" % path
    if beginning not in mounts:
        return ""
    for line in mounts.splitlines():
        words = line.split(b" ")
        kind = words[words.index(b"-") + 1].decode()
        if b" %s/" % words[4] != beginning and (b" %s/" % words[4]).startswith(beginning) and kind in OF_THE_KERNEL:
            return kind
    return ""
