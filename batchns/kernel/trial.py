"""Trying a kernel feature for real, in a forked child, and leaving nothing behind.

1. A trial runs in a child: what it unshares, mounts or makes goes away with that child.
2. A trial returns a word about what it saw, or raises `OSError`; it proves an effect wherever one can be seen.
3. An ordinary user's trial enters a user namespace first, as the sandbox would have to.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import frozen

from batchns.kernel import syscalls, userns

if TYPE_CHECKING:
    from pyroute2 import IPRoute

ID_START = 1_000_000_000  # where trial id maps begin on the host
ID_COUNT = 65536
IDS = ((0, ID_START, ID_COUNT),)

# A table as jobs' firewall rules need it: an address translated on its way out, a drop by interface name.
_NFT_RULES = """
table ip batchns-probe {
  chain out { type nat hook postrouting priority 100; ip saddr 10.213.0.0/16 masquerade; }
  chain in { type filter hook input priority 0; iifname "bnx*" drop; }
}
"""

_PR_SET_SECCOMP = 22  # include/uapi/linux/prctl.h
_SECCOMP_MODE_FILTER = 2  # include/uapi/linux/seccomp.h


@frozen
class Outcome:
    """`text` is what the trial saw, or the error's text; `errno` is 0 when it succeeded."""

    errno: int
    text: str

    @property
    def ok(self) -> bool:
        return self.errno == 0


def attempt(trial: Callable[[], str], timeout: float = 10.0) -> Outcome:
    """Run `trial` in a forked child. A child that does not end within `timeout` seconds is killed: ETIMEDOUT.

    Raises:
        RuntimeError: the trial raised anything but OSError (a defect, its traceback is on stderr).
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        try:
            _run_child(trial, writer)
        finally:
            os._exit(1)  # never back into the caller's stack
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        answer = answers.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
        return Outcome(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    if not os.WIFEXITED(status) or os.WEXITSTATUS(status):
        raise RuntimeError(f"the trial {trial!r} ended with wait status {status}")
    code, _, text = answer.partition(" ")
    return Outcome(int(code), text)


def _run_child(trial: Callable[[], str], writer: int) -> None:
    try:
        answer = f"0 {trial()}"
    except OSError as error:
        answer = f"{error.errno or errno.EIO} {error.strerror or error}"
    os.write(writer, answer.encode(errors="replace")[:4096])
    os._exit(0)


def enter(flags: int) -> str:
    """Unshare `flags`; an ordinary user becomes root of a user namespace of their own first."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        syscalls.unshare(flags)
        return ""
    syscalls.unshare(flags | syscalls.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        _write(f"/proc/self/{name}", text)
    return ""


def _write(path: str, text: str) -> None:
    # One write call: the kernel takes an id map as a whole or not at all.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def user_namespace() -> str:
    """A user namespace whose ids are mapped from outside, as the sandbox does it (root), or by oneself (a user)."""
    if os.geteuid() != 0:
        return enter(0)
    os.close(userns.make_mapped((IDS, IDS)))
    return ""


def idmapped_folder(path: str) -> str:
    """A detached copy of the mount at `path` with shifted ids: its owner must appear shifted."""
    enter(syscalls.CLONE_NEWNS)
    return _shift(syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE))


def idmapped_tmpfs() -> str:
    """The same on a new tmpfs that is mounted nowhere."""
    enter(syscalls.CLONE_NEWNS)
    return _shift(syscalls.fsmount("tmpfs", (("size", "64k"),), 0))


def _shift(mount: int) -> str:
    owner = os.fstat(mount).st_uid
    syscalls.mount_setattr(mount, attr_set=syscalls.MOUNT_ATTR_IDMAP, userns=userns.make_mapped((IDS, IDS)))
    seen = os.fstat(mount).st_uid
    if owner < ID_COUNT and seen != ID_START + owner:
        raise OSError(errno.EOVERFLOW, f"the owner {owner} appears as {seen}, not as {ID_START + owner}")
    return f"uid {owner} appears as {seen}"


def private_proc() -> str:
    """A PID namespace whose first process mounts a fresh /proc and finds itself to be 1."""
    enter(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS)
    return _in_child_of_namespace(_mount_proc)


def _in_child_of_namespace(trial: Callable[[], str]) -> str:
    outcome = attempt(trial)
    if not outcome.ok:
        raise OSError(outcome.errno, outcome.text)
    return outcome.text


def _mount_proc() -> str:
    # The new instance is reached through its descriptor, so nothing of the host's mounts is touched.
    proc = syscalls.fsmount("proc", (), syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV)
    found = os.readlink("self", dir_fd=proc)
    if found != "1":
        raise OSError(errno.EINVAL, f"the first process of a PID namespace is {found}")
    return ""


def nftables() -> str:
    """Load rules as jobs need them into a fresh network namespace."""
    enter(syscalls.CLONE_NEWNET)
    done = subprocess.run(["nft", "-f", "-"], input=_NFT_RULES, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise OSError(errno.EOPNOTSUPP, said[0] if said else f"nft ended with {done.returncode}")
    return ""


def veth() -> str:
    """Make a veth pair in a fresh network namespace."""
    enter(syscalls.CLONE_NEWNET)
    return _rtnetlink(lambda route: route.link("add", ifname="bnx0", kind="veth", peer="bnx1"))


def shaper() -> str:
    """Put a token bucket (tbf) on the loopback device of a fresh network namespace."""
    enter(syscalls.CLONE_NEWNET)
    return _rtnetlink(lambda route: route.tc("add", "tbf", index=1, rate=1_250_000, burst=131_072, latency=50_000))


def _rtnetlink(request: Callable[[IPRoute], object]) -> str:
    from pyroute2 import IPRoute  # 50 ms, which every batchns run would pay: it tries user namespaces
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as route:
            request(route)
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from None
    return ""


class _Instruction(ctypes.Structure):
    """struct sock_filter, include/uapi/linux/filter.h."""

    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    """struct sock_fprog, include/uapi/linux/filter.h."""

    _fields_ = (("len", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


def seccomp() -> str:
    """Load a filter that answers one unused call with EPERM, and make that call."""
    # Load the call's number; equal to ours: return ERRNO | EPERM, else ALLOW (include/uapi/linux/bpf_common.h).
    number = 1_000_000  # no kernel has this call: without the filter the answer is ENOSYS
    rows = ((0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | errno.EPERM), (0x06, 0, 0, 0x7FFF0000))
    code = (_Instruction * len(rows))(*(_Instruction(*row) for row in rows))
    program = _Program(len(rows), code)
    libc = ctypes.CDLL(None, use_errno=True)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    zero = ctypes.c_ulong(0)
    address = ctypes.c_ulong(ctypes.addressof(program))
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), address, zero, zero) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    libc.syscall(ctypes.c_long(number))
    if ctypes.get_errno() != errno.EPERM:
        raise OSError(errno.EINVAL, "a filter was loaded and has no effect")
    return ""
