"""Thin, typed wrappers of the system calls that Python's `os` lacks.

1. One function makes one call and raises `OSError` with the call's name, the kernel's errno and the path.
2. The interpreter's lock is kept during a call (`PyDLL`): the launcher is single-threaded, and its child after
   `clone3` must not meet a lock in an unknown state. `openat2` can let go of it, for threads: it may wait for a server.
3. Few imports: the launcher and every sandbox load this.

Constants are those of the Linux UAPI headers named beside them.
"""

from __future__ import annotations

import ctypes
import os
import struct

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_unlocked = ctypes.CDLL(None, use_errno=True)
_unlocked.syscall.restype = ctypes.c_long
# Looked up here, once: each init would look up its own.
_unshare, _setns, _pivot_root, _umount2 = _libc.unshare, _libc.setns, _libc.pivot_root, _libc.umount2
_sethostname, _prctl, _capset = _libc.sethostname, _libc.prctl, _libc.capset

# include/uapi/linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_INTO_CGROUP = 0x200000000

# include/uapi/linux/mount.h
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x00000004
MOVE_MOUNT_T_EMPTY_PATH = 0x00000040
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7
FSPICK_CLOEXEC = 1
FSPICK_EMPTY_PATH = 8
MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008
MOUNT_ATTR_IDMAP = 0x00100000
MS_SLAVE = 1 << 19
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

# include/uapi/linux/fcntl.h
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100

# include/uapi/linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# include/uapi/linux/prctl.h, securebits.h, capability.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NOROOT = 1 << 0
SECBIT_NO_SETUID_FIXUP = 1 << 2
SECBIT_KEEP_CAPS = 1 << 4
SECBIT_NO_CAP_AMBIENT_RAISE = 1 << 6
_SECBITS = SECBIT_NOROOT | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_CAP_AMBIENT_RAISE
SECBITS_LOCKED = _SECBITS | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 7  # each lock is the bit after it
CAP_KILL = 5
CAP_SETGID = 6
CAP_SETUID = 7
_CAPABILITY_VERSION_3 = 0x20080522

CLOSE_RANGE_CLOEXEC = 4
KEYCTL_JOIN_SESSION_KEYRING = 1  # include/uapi/linux/keyctl.h

# Numbers from 424 on are the same on every architecture (include/uapi/asm-generic/unistd.h).
_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
_NR_FSOPEN = 430
_NR_FSCONFIG = 431
_NR_FSMOUNT = 432
_NR_FSPICK = 433
_NR_CLONE3 = 435
_NR_CLOSE_RANGE = 436
_NR_OPENAT2 = 437
_NR_MOUNT_SETATTR = 442
_NR_KEYCTL = 250 if os.uname().machine == "x86_64" else 219


def _fail(call: str, path: str = "") -> OSError:
    errno = ctypes.get_errno()
    return OSError(errno, f"{call}: {os.strerror(errno)}", path or None)


def _syscall(call: str, path: str, number: int, *args: object, library: ctypes.CDLL = _libc) -> int:
    result: int = library.syscall(ctypes.c_long(number), *args)
    if result < 0:
        raise _fail(call, path)
    return result


def call(name: str, number: int, *args: int | bytes | None) -> int:
    """One that has no function here: numbers are passed as they are, bytes by their address."""
    return _syscall(name, "", number, *(ctypes.c_long(one) if isinstance(one, int) else one for one in args))


def clone3(flags: int, *, cgroup: int = -1) -> tuple[int, int]:
    """Fork with new namespaces: (pid, pidfd) in the parent, (0, -1) in the child. clone3(2).

    `cgroup` is a descriptor of a cgroup v2 directory that the child is born in (with CLONE_INTO_CGROUP, which this
    function adds). Python's fork hooks do not run: call it from a single-threaded process only. With CLONE_PARENT the
    child is a child of the caller's parent.
    """
    pidfd = ctypes.c_int(-1)
    if cgroup >= 0:
        flags |= CLONE_INTO_CGROUP
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
    # set_tid_size, cgroup
    exit_signal = 0 if flags & CLONE_PARENT else 17  # the kernel takes the caller's own
    pointer = ctypes.addressof(pidfd)
    args = struct.pack("=11Q", flags | CLONE_PIDFD, pointer, 0, 0, exit_signal, 0, 0, 0, 0, 0, max(cgroup, 0))
    pid = _syscall("clone3", "", _NR_CLONE3, args, ctypes.c_size_t(len(args)))
    return (pid, pidfd.value) if pid else (0, -1)


def unshare(flags: int) -> None:
    """Leave the named namespaces for fresh ones. unshare(2)."""
    if _unshare(ctypes.c_int(flags)) < 0:
        raise _fail("unshare")


def setns(fd: int, kind: int = 0) -> None:
    """Enter the namespace (or, for a pidfd, the namespaces in `kind`). setns(2)."""
    if _setns(ctypes.c_int(fd), ctypes.c_int(kind)) < 0:
        raise _fail("setns")


def openat2(dirfd: int, path: str, flags: int, mode: int = 0, resolve: int = 0, *, release_lock: bool = False) -> int:
    """Open with restrictions on how the path is resolved; the descriptor is close-on-exec. openat2(2).

    `release_lock`: other threads go on meanwhile.
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    arguments = (ctypes.c_int(dirfd), os.fsencode(path), how, ctypes.c_size_t(len(how)))
    return _syscall("openat2", path, _NR_OPENAT2, *arguments, library=_unlocked if release_lock else _libc)


def open_tree(dirfd: int, path: str, flags: int) -> int:
    """A descriptor of a mount, or (OPEN_TREE_CLONE) of a detached copy of it. open_tree(2)."""
    flags |= OPEN_TREE_CLOEXEC
    return _syscall("open_tree", path, _NR_OPEN_TREE, ctypes.c_int(dirfd), os.fsencode(path), ctypes.c_uint(flags))


def move_mount(from_fd: int, to_fd: int, path: str = "") -> None:
    """Attach the detached mount `from_fd` at `path` below `to_fd` ("": at `to_fd` itself). move_mount(2)."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if path else MOVE_MOUNT_T_EMPTY_PATH)
    _syscall(
        "move_mount",
        path,
        _NR_MOVE_MOUNT,
        ctypes.c_int(from_fd),
        b"",
        ctypes.c_int(to_fd),
        os.fsencode(path),
        ctypes.c_uint(flags),
    )


def mount_setattr(
    fd: int, *, attr_set: int = 0, attr_clear: int = 0, propagation: int = 0, userns: int = 0, recursive: bool = False
) -> None:
    """Change flags, propagation or id map of the mount that `fd` refers to. mount_setattr(2), struct mount_attr."""
    attr = struct.pack("=QQQQ", attr_set, attr_clear, propagation, userns)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _syscall(
        "mount_setattr",
        "",
        _NR_MOUNT_SETATTR,
        ctypes.c_int(fd),
        b"",
        ctypes.c_uint(flags),
        attr,
        ctypes.c_size_t(len(attr)),
    )


def fsmount(kind: str, options: tuple[tuple[str, str], ...], attributes: int) -> int:
    """A detached mount of a new file system instance: fsopen(2), fsconfig(2) for each option, fsmount(2).

    An option without a value ("") is a flag. `attributes` are MOUNT_ATTR_* flags.
    """
    context = _syscall("fsopen", kind, _NR_FSOPEN, kind.encode(), ctypes.c_uint(FSOPEN_CLOEXEC))
    try:
        for key, value in options:
            command = FSCONFIG_SET_STRING if value else FSCONFIG_SET_FLAG
            text = value.encode() if value else None
            _fsconfig(f"{kind} {key}={value}", context, command, key.encode(), text)
        _fsconfig(kind, context, FSCONFIG_CMD_CREATE, None, None)
        return _syscall(
            "fsmount",
            kind,
            _NR_FSMOUNT,
            ctypes.c_int(context),
            ctypes.c_uint(FSMOUNT_CLOEXEC),
            ctypes.c_uint(attributes),
        )
    finally:
        os.close(context)


def reconfigure(fd: int, options: tuple[tuple[str, str], ...]) -> None:
    """Change options of the file system that `fd` refers to: fspick(2), fsconfig(2) for each option."""
    flags = ctypes.c_uint(FSPICK_CLOEXEC | FSPICK_EMPTY_PATH)
    context = _syscall("fspick", "", _NR_FSPICK, ctypes.c_int(fd), b"", flags)
    try:
        for key, value in options:
            _fsconfig(f"{key}={value}", context, FSCONFIG_SET_STRING, key.encode(), value.encode())
        _fsconfig("", context, FSCONFIG_CMD_RECONFIGURE, None, None)
    finally:
        os.close(context)


def _fsconfig(path: str, context: int, command: int, key: bytes | None, value: bytes | None) -> None:
    _syscall("fsconfig", path, _NR_FSCONFIG, ctypes.c_int(context), ctypes.c_uint(command), key, value, ctypes.c_int(0))


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root and put the old root at `old`. pivot_root(2)."""
    if _pivot_root(os.fsencode(new), os.fsencode(old)) < 0:
        raise _fail("pivot_root", new)


def umount_detach(path: str) -> None:
    """Detach the mount at `path` and all below it. umount2(2) with MNT_DETACH."""
    if _umount2(os.fsencode(path), ctypes.c_int(MNT_DETACH)) < 0:
        raise _fail("umount2", path)


def sethostname(name: str) -> None:
    """sethostname(2)."""
    text = name.encode()
    if _sethostname(text, ctypes.c_size_t(len(text))) < 0:
        raise _fail("sethostname", name)


def prctl(option: int, value: int, second: int = 0) -> None:
    """prctl(2) with one argument or two."""
    zero = ctypes.c_ulong(0)
    if _prctl(ctypes.c_int(option), ctypes.c_ulong(value), ctypes.c_ulong(second), zero, zero) < 0:
        raise _fail(f"prctl({option}, {value})")


def set_name(name: str) -> None:
    """What ps and top call this process: at most 15 letters. prctl(2), PR_SET_NAME."""
    if _prctl(ctypes.c_int(PR_SET_NAME), name.encode()) < 0:
        raise _fail("prctl(PR_SET_NAME)")


def set_capabilities(mask: int, *, inherited: int = 0) -> None:
    """Permitted and effective set become `mask` (bit n: capability n), the inheritable set `inherited`. capset(2)."""
    low, high = mask & 0xFFFFFFFF, mask >> 32
    inherited_low, inherited_high = inherited & 0xFFFFFFFF, inherited >> 32
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if _capset(header, struct.pack("=6I", low, low, inherited_low, high, high, inherited_high)) < 0:
        raise _fail("capset")


def close_range(first: int, last: int, flags: int = 0) -> None:
    """Close the descriptors from `first` to `last`, or (CLOSE_RANGE_CLOEXEC) mark them. close_range(2)."""
    _syscall("close_range", "", _NR_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_uint(flags))


def join_new_session_keyring() -> None:
    """Leave the session keyring for a new, empty one. keyctl(2)."""
    _syscall("keyctl", "", _NR_KEYCTL, ctypes.c_int(KEYCTL_JOIN_SESSION_KEYRING), None)
