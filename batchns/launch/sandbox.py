"""Building the sandbox: the checklist that a job's first process works through, as host root, before it is init.

1. A step is a small operation; one loop performs the plan's mounts in their order.
2. What a path names is opened once, without following links, and the mount is attached to that descriptor.
3. A failure is a StepError with the step's name, the path and the kernel's errno. The launcher undoes the rest.

The order is mount_namespaces(7)'s: everything is set up in the initial user namespace, so that the job, which
enters its own at the end, owns none of it and can undo none of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from errno import EACCES, EINVAL, ELOOP, ENODEV, ENOENT, EOVERFLOW, EPERM, EROFS
from typing import NamedTuple

from batchns.errors import StepError
from batchns.kernel import syscalls as sys
from batchns.kernel.actas import acting_as
from batchns.kernel.filesystems import kernels
from batchns.launch import rootfs, scratch
from batchns.launch.covers import cover
from batchns.launch.plan import Mount, Owner, Plan, Rootfs

SCRIPT = "/run/batchns/script"
OWN_ROOT_NEEDS = ("/proc", "/sys", "/dev", "/tmp", "/var/tmp", "/run")  # mount points of every sandbox

_NO_LINKS = sys.RESOLVE_NO_SYMLINKS | sys.RESOLVE_NO_MAGICLINKS
_BENEATH = sys.RESOLVE_BENEATH | _NO_LINKS
_QUIET = sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NODEV | sys.MOUNT_ATTR_NOEXEC
DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_DEV_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)


class Root(NamedTuple):
    """The new root under construction: a descriptor of its mount, and one of the namespace for id-mapped binds.

    What a job names is looked up as its `submitter`, and so is what is missing made, but in the sandbox's own file
    systems: those have the devices of `made`, and nothing in them is anybody else's.
    """

    fd: int
    made: set[int]
    idmap: int = -1
    submitter: Owner | None = None  # None: nothing of a job's has been named yet


def make_root() -> Root:
    """Clone the host's tree read-only on top of `/`, with slave propagation from the host.

    The mounts are made slaves first: what the host mounts later still arrives, what is mounted here stays here.
    """
    leave_host()
    tree = sys.open_tree(sys.AT_FDCWD, "/", sys.OPEN_TREE_CLONE | sys.AT_RECURSIVE)
    attributes = sys.MOUNT_ATTR_RDONLY | sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NODEV
    sys.mount_setattr(tree, attr_set=attributes, recursive=True)
    sys.move_mount(tree, sys.AT_FDCWD, "/")
    return Root(tree, set())


def leave_host() -> Root:
    """Make all mounts of this namespace slaves of the host's. There is no root of the job's own yet."""
    host = sys.open_tree(sys.AT_FDCWD, "/", 0)
    sys.mount_setattr(host, propagation=sys.MS_SLAVE, recursive=True)
    os.close(host)
    return Root(-1, set())


def make_own_root(root: Root, plan: Rootfs) -> Root:
    """Another root than the host's, with the mount points that the sandbox needs.

    Raises:
        StepError: step "rootfs", what cannot be used as one.
    """
    made = root._replace(fd=rootfs.mount(plan, root.idmap, root.submitter or Owner()))
    made.made.add(os.fstat(made.fd).st_dev)
    for target in OWN_ROOT_NEEDS:
        try:
            os.close(_open(made, target, create=True))
        except OSError as error:
            hint = "in a root file system this is a folder, and no symbolic link"
            raise StepError("rootfs", f"{plan.source}{target}", error.errno or 0, hint) from None
    return made


def perform(root: Root, mounts: tuple[Mount, ...]) -> None:
    """Perform the plan's mounts in their order.

    Raises:
        StepError: step "mount KIND", path, errno.
    """
    for mount in mounts:
        try:
            OPERATIONS[mount.kind](root, mount)
        except OSError as error:
            path, hint = _explain(mount, error)
            raise StepError(f"mount {mount.kind}", path, error.errno or 0, hint) from None


def write_script(root: Root, text: str) -> None:
    """Put the job's script into the sandbox's own /run, readable and executable, writable by nobody inside."""
    folder = os.path.dirname(SCRIPT)
    fd = _open(root, folder, create=True)
    script = os.open(os.path.basename(SCRIPT), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755, dir_fd=fd)
    os.write(script, text.encode())
    os.close(script)
    os.close(fd)


def pivot(root: Root) -> None:
    """Make the new root the root and let go of the old one. pivot_root(2), "pivot_root(".", ".")"."""
    os.fchdir(root.fd)
    sys.pivot_root(".", ".")
    sys.umount_detach(".")
    os.chdir("/")
    os.close(root.fd)


def join_cgroups(plan: Plan) -> None:
    """Move this process, and with it all that follows, into the job's v1 cgroups.

    Writing "0" to `tasks` moves only the writer and spares the lock that writing a pid to `cgroup.procs` takes.
    """
    for path in plan.cgroup.joins:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)
        except OSError as error:
            raise StepError("join cgroup", path, error.errno or 0) from None


def _open(root: Root, target: str, *, create: bool = False) -> int:
    """A descriptor of `target` inside the new root; with `create`, missing folders are made on the way."""
    relative = target.strip("/") or "."
    try:
        return _look_up(root, relative)
    except FileNotFoundError:
        if not create:
            raise
    parent, name = os.path.split(relative)
    above = _open(root, parent or "/", create=True)
    try:
        with _maker(root, above):
            os.mkdir(name, 0o755, dir_fd=above)
        return sys.openat2(above, name, os.O_PATH, resolve=_BENEATH)
    finally:
        os.close(above)


def _look_up(root: Root, relative: str) -> int:
    """As the submitter: that a name is there is not told to who may not know. As root in what is the sandbox's own."""
    try:
        with _acting(root.submitter):
            return sys.openat2(root.fd, relative, os.O_PATH, resolve=_BENEATH)
    except PermissionError:
        found = _look_up_as_root(root, relative)
        if found < 0:
            raise
        return found


def _look_up_as_root(root: Root, relative: str) -> int:
    """-1: it is not there, or not the sandbox's own."""
    try:
        found = sys.openat2(root.fd, relative, os.O_PATH, resolve=_BENEATH)
    except OSError:
        return -1
    if os.fstat(found).st_dev in root.made:
        return found
    os.close(found)
    return -1


def _maker(root: Root, folder: int) -> AbstractContextManager[None]:
    """Who makes what is missing in the folder: another bind's is the host's."""
    return nullcontext() if os.fstat(folder).st_dev in root.made else _acting(root.submitter)


def _acting(submitter: Owner | None) -> AbstractContextManager[None]:
    return nullcontext() if submitter is None else acting_as(*submitter)


def _attach(root: Root, fd: int, target: str, *, create: bool = False) -> None:
    place = _open(root, target, create=create)
    try:
        sys.move_mount(fd, place)
    finally:
        os.close(place)
        os.close(fd)


def _pairs(options: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, _, value in (option.partition("=") for option in options))


def _tmpfs(root: Root, mount: Mount) -> None:
    made = sys.fsmount("tmpfs", _pairs(mount.options), sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NODEV)
    root.made.add(os.fstat(made).st_dev)
    _attach(root, made, mount.target)


def _resize(root: Root, mount: Mount) -> None:
    place = _open(root, mount.target)
    try:
        sys.reconfigure(place, _pairs(mount.options))
    finally:
        os.close(place)


def _disk(root: Root, mount: Mount) -> None:
    """The file system in the file `source`, at each target in the options."""
    for fd, target in zip(scratch.mount(mount.source, len(mount.options)), mount.options, strict=True):
        _attach(root, fd, target)


def _dev(root: Root, mount: Mount) -> None:
    fd = sys.fsmount("tmpfs", _pairs(mount.options), sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NOEXEC)
    root.made.add(os.fstat(fd).st_dev)
    place = _open(root, mount.target)
    sys.move_mount(fd, place)
    os.close(place)
    for name, major, minor in DEVICES:
        if mount.source:
            _bind_device(f"{mount.source}/{name}", fd, name)
        else:
            os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=fd)
    for name, value in _DEV_LINKS:
        os.symlink(value, name, dir_fd=fd)
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(name, 0o755, dir_fd=fd)
    # What is mounted below stays writable; the folder itself needs no more entries.
    sys.mount_setattr(fd, attr_set=sys.MOUNT_ATTR_RDONLY)
    os.close(fd)


def _nodes(root: Root, mount: Mount) -> None:
    """Device nodes of the job's own, each option "NAME KIND MAJOR MINOR", in the /dev that is read-only by now.

    Open to all: who may open one is said by the device rules.
    """
    folder = _open(root, mount.target)
    try:
        sys.mount_setattr(folder, attr_clear=sys.MOUNT_ATTR_RDONLY)
        for option in mount.options:
            name, kind, major, minor = option.rsplit(" ", 3)
            above = os.path.dirname(name)
            if above:
                os.close(_open(root, f"{mount.target}/{above}", create=True))
            mode = (stat.S_IFBLK if kind == "b" else stat.S_IFCHR) | 0o666
            os.mknod(name, mode, os.makedev(int(major), int(minor)), dir_fd=folder)
        sys.mount_setattr(folder, attr_set=sys.MOUNT_ATTR_RDONLY)
    finally:
        os.close(folder)


def _bind_device(source: str, folder: int, name: str) -> None:
    """The host's own node: nobody but root makes one, and on a user's tmpfs none would work."""
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=folder))
    node = sys.open_tree(sys.AT_FDCWD, source, sys.OPEN_TREE_CLONE)
    sys.move_mount(node, folder, name)
    os.close(node)


def _devpts(root: Root, mount: Mount) -> None:
    attributes = sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NOEXEC
    _attach(root, sys.fsmount("devpts", _pairs(mount.options), attributes), mount.target)


def _kernel_file_system(root: Root, mount: Mount) -> None:
    attributes = _QUIET | (sys.MOUNT_ATTR_RDONLY if "ro" in mount.options else 0)
    _attach(root, sys.fsmount(mount.kind, (), attributes), mount.target)


def _read_only(root: Root, mount: Mount) -> None:
    place = _open(root, mount.target)
    tree = sys.open_tree(place, "", sys.OPEN_TREE_CLONE | sys.AT_RECURSIVE | sys.AT_EMPTY_PATH)
    sys.mount_setattr(tree, attr_set=sys.MOUNT_ATTR_RDONLY, recursive=True)
    sys.move_mount(tree, place)
    os.close(tree)
    os.close(place)


def _mask(root: Root, mount: Mount) -> None:
    place = _open(root, mount.target)
    if stat.S_ISDIR(os.fstat(place).st_mode):
        cover = sys.fsmount("tmpfs", (("size", "4k"), ("mode", "000")), _QUIET | sys.MOUNT_ATTR_RDONLY)
    else:
        cover = sys.open_tree(root.fd, "dev/null", sys.OPEN_TREE_CLONE)  # read-only, as the sandbox's /dev is
    sys.move_mount(cover, place)
    os.close(cover)
    os.close(place)


def _bind(root: Root, mount: Mount) -> None:
    with _acting(root.submitter):
        source = sys.openat2(sys.AT_FDCWD, mount.source, os.O_PATH, resolve=_NO_LINKS)
    kind = kernels(source)
    if kind:
        raise StepError("mount bind", mount.source, EPERM, of_the_kernel(kind))
    tree = sys.open_tree(source, "", sys.OPEN_TREE_CLONE | sys.AT_RECURSIVE | sys.AT_EMPTY_PATH)
    folder = stat.S_ISDIR(os.fstat(source).st_mode)
    os.close(source)
    attributes = sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NODEV
    if "ro" in mount.options:
        attributes |= sys.MOUNT_ATTR_RDONLY
    if "idmap" in mount.options:
        sys.mount_setattr(tree, attr_set=attributes | sys.MOUNT_ATTR_IDMAP, userns=root.idmap, recursive=True)
    else:
        sys.mount_setattr(tree, attr_set=attributes, recursive=True)
    try:
        if not folder:
            _make_file(root, mount.target)
        _attach(root, tree, mount.target, create=True)
    except OSError as error:
        if error.errno not in (EACCES, EPERM, EOVERFLOW):
            raise
        raise StepError("mount bind", mount.target, error.errno, _NO_PLACE) from None


def of_the_kernel(kind: str) -> str:
    """What to do about a bind of it."""
    return f"{kind} there is of the kernel: bind another folder"


def _make_file(root: Root, target: str) -> None:
    """An empty file to mount another one on, unless there is something already."""
    above, name = os.path.split(target)
    folder = _open(root, above, create=True)
    try:
        with _maker(root, folder):
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=folder))
    except FileExistsError:
        pass
    finally:
        os.close(folder)


def _cover(root: Root, mount: Mount) -> None:
    cover(root.fd, mount.source, mount.target)


OPERATIONS: dict[str, Callable[[Root, Mount], None]] = {
    "dev": _dev,
    "devpts": _devpts,
    "nodes": _nodes,
    "tmpfs": _tmpfs,
    "resize": _resize,
    "disk": _disk,
    "mqueue": _kernel_file_system,
    "proc": _kernel_file_system,
    "sysfs": _kernel_file_system,
    "readonly": _read_only,
    "mask": _mask,
    "cover": _cover,
    "bind": _bind,
}


_NO_PLACE = (
    "the submitter may not go there, or may make nothing in that folder of the host's: make it there first, or bind to "
    "a folder below /tmp"
)
_NO_IDMAP = (
    "its file system cannot be id-mapped: use a folder on ext4, xfs, btrfs or tmpfs, or run the job as an ordinary "
    'user (batchns run --user NAME) with identity = "self"'
)


def _explain(mount: Mount, error: OSError) -> tuple[str, str]:
    """The path to name in the message, and what to do about it."""
    if mount.kind == "cover" and error.errno == EROFS:
        return mount.target, "the root file system has no such file: make an empty one in it"
    if mount.kind == "disk":
        loop = "loop devices and ext4 are needed for scratch on disk: modprobe -a loop ext4"
        return mount.source, loop if "loop" in str(error.filename or "") or error.errno == ENODEV else ""
    if mount.kind != "bind":
        return mount.target, ""
    call = str(error.strerror or "")
    if error.errno == EINVAL and call.startswith("mount_setattr"):
        return mount.source, _NO_IDMAP
    if error.errno == ELOOP:
        path = error.filename or mount.source
        return str(path), "a symbolic link is not followed here: write the real path (readlink -f)"
    if error.errno == EROFS:
        return mount.target, "the root is read-only: bind to a folder that exists, or to one below /tmp"
    if error.errno == ENOENT:
        return mount.source, "write a path that exists on this host"
    if error.errno == EACCES:
        return mount.source, "write a path that the submitter may enter"
    return mount.source, ""
