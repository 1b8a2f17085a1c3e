"""AppArmor and SELinux: which of them runs here, and what a process says that it will be from its next exec on.

1. The kernel takes that of the process itself only, at the file's write. A child has it from its parent, so that it
   holds for a posix_spawn, too.
2. The file is opened below a descriptor of the process's own folder: in another PID namespace /proc shows none.

Sources: proc_pid_attr(5), aa_change_onexec(2), setexeccon(3), Documentation/admin-guide/LSM/index.rst.
"""

from __future__ import annotations

import os
import time

APPARMOR, SELINUX = "AppArmor", "SELinux"
_FILES = {APPARMOR: ("apparmor/exec", "exec {}"), SELINUX: ("exec", "{}")}  # below /proc/thread-self/attr
_MOMENT = 0.05  # seconds


def running(*, proc: str = "/proc", sys: str = "/sys") -> frozenset[str]:
    """Those of APPARMOR and SELINUX that this kernel was booted with."""
    found = set()
    if _text(f"{sys}/module/apparmor/parameters/enabled").startswith("Y"):
        found.add(APPARMOR)
    if "\tselinuxfs\n" in _text(f"{proc}/filesystems"):  # registered only where SELinux was not switched off
        found.add(SELINUX)
    return frozenset(found)


def open_own() -> int:
    """A descriptor of this process's folder for `set_on_exec`."""
    return os.open("/proc/thread-self/attr", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def set_on_exec(own: int, module: str, name: str) -> None:
    """The profile or label that what is executed next has. `own`: of `open_own`."""
    file, form = _FILES[module]
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC, dir_fd=own)
    try:
        os.write(fd, form.format(name).encode())
    finally:
        os.close(fd)


def held(pid: int | str, module: str) -> str:
    """What the kernel says that process `pid` is: "batch (enforce)", a label; "" where it cannot be read.

    By system calls that every job's filter allows to its init.
    """
    path = os.path.join(f"/proc/{pid}/attr", os.path.dirname(_FILES[module][0]), "current")
    return _text(path).rstrip("\0\n")


def spawned(pid: int, module: str, name: str) -> str:
    """As `held`, of a child that was spawned to be `name`. posix_spawn(3) returns when the child has let go of our
    memory, a moment before it is something else (begin_new_exec in fs/exec.c): while it is what we are, look again.
    """
    ours, end = held("self", module), time.monotonic() + _MOMENT
    while True:
        found = held(pid, module)
        if found != ours or found.partition(" ")[0] == name or time.monotonic() > end:
            return found


def _text(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 1 << 16).decode(errors="replace")
        finally:
            os.close(fd)
    except OSError:  # ENOENT: not built in, or over; EINVAL: built in and not running
        return ""
