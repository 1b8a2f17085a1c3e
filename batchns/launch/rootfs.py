"""A root file system of the job's own: a folder or a squashfs image, with a writable layer on top.

1. The lower layer is never written to; what the job writes is in a tmpfs of a given size and goes with the job.
2. Mount points that the image lacks are made in that layer. A job that asked for no writable layer finds its root
   read-only once they are there.
3. An image is read through a loop device that the kernel lets go of with the last mount, however the job ends.
4. What the path names is opened once, as the submitter, without following links.

Sources: mount_setattr(2) on id-mapped mounts, Documentation/filesystems/overlayfs.rst, loop(4).
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from errno import EBUSY, EINVAL, ELOOP, ENOENT, ENOTDIR, ENXIO, EPERM, ESTALE

from batchns.errors import StepError
from batchns.kernel import syscalls as sys
from batchns.kernel.actas import acting_as
from batchns.launch.plan import Owner, Rootfs, Version

# include/uapi/linux/loop.h
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LO_FLAGS_READ_ONLY = 1
_LO_FLAGS_AUTOCLEAR = 4
_LO_FLAGS_DIRECT_IO = 16
_LOOP_CONFIG = struct.Struct("=II52xI176x64x")  # fd, block size, loop_info64 up to its flags, rest of it, reserved
_TRIES = 64  # another process may take the free device first

_NO_LINKS = sys.RESOLVE_NO_SYMLINKS | sys.RESOLVE_NO_MAGICLINKS
_ATTRIBUTES = sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NODEV
_STAGE = "/tmp"  # of the job's mount namespace, and only until the overlay, which keeps its layers, is made
_LEAST = 256 * 1024  # bytes of a layer that has only mount points

_HINTS = {
    ENOENT: "write the path of a folder or a squashfs image on this host",
    ENOTDIR: "write the path of a folder or a squashfs image",
    ELOOP: "a symbolic link is not followed here: write the real path (readlink -f)",
}


def mount(rootfs: Rootfs, idmap: int, submitter: Owner) -> int:
    """Make `rootfs` the top of `/` in this mount namespace: a descriptor of the mount.

    `idmap`: a descriptor of the user namespace that its ids are shifted by, or -1.

    Raises:
        StepError: step "rootfs", the path, errno and what to do.
    """
    try:
        with acting_as(*submitter):
            source = sys.openat2(sys.AT_FDCWD, rootfs.source, os.O_PATH, resolve=_NO_LINKS)
            image = -1
            if stat.S_ISREG(os.fstat(source).st_mode):
                image = sys.openat2(sys.AT_FDCWD, rootfs.source, os.O_RDONLY, resolve=_NO_LINKS)
        if image >= 0:
            _check_image(rootfs, image, submitter)
        elif rootfs.version:
            hint = "it was an image when its digest was checked: submit again"
            raise StepError("rootfs", rootfs.source, ESTALE, hint)
        lower = _folder(source) if image < 0 else _image(image)
        os.close(source)
    except OSError as error:
        number = error.errno or 0
        raise StepError("rootfs", rootfs.source, number, _HINTS.get(number, _why(error))) from None
    shift = sys.MOUNT_ATTR_IDMAP if idmap >= 0 else 0
    try:
        sys.mount_setattr(lower, attr_set=_ATTRIBUTES | sys.MOUNT_ATTR_RDONLY | shift, userns=max(idmap, 0))
    except OSError as error:
        hint = "its file system cannot be id-mapped: run the job as an ordinary user, or unpack it elsewhere"
        raise StepError("rootfs", rootfs.source, error.errno or 0, hint if error.errno == EINVAL else "") from None
    try:
        root = _layered(lower, max(rootfs.overlay, _LEAST))
    except OSError as error:
        hint = "its file system cannot be the lower layer of an overlay: unpack it elsewhere"
        raise StepError("rootfs overlay", rootfs.source, error.errno or 0, hint) from None
    sys.move_mount(root, sys.AT_FDCWD, "/")
    return root


def _check_image(rootfs: Rootfs, image: int, submitter: Owner) -> None:
    """The kernel trusts what is in an image: one that a user could have made is not mounted."""
    if os.geteuid() != 0:
        raise StepError(
            "rootfs", rootfs.source, EPERM, "only root attaches images: unpack it into a folder (unsquashfs)"
        )
    found = os.fstat(image)
    ours = found.st_uid == 0 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not rootfs.image:
        hint = "images come from the folders that batchns.toml lists: [isolation] images; a folder may be anywhere"
        raise StepError("rootfs", rootfs.source, EPERM, hint)
    if rootfs.version and tuple(Version.of(found)) != rootfs.version:
        raise StepError("rootfs", rootfs.source, ESTALE, "it has changed since its digest was checked: submit again")
    if submitter.uid != 0 and not ours:
        raise StepError("rootfs", rootfs.source, EPERM, "an image belongs to root, and nobody else may write to it")


def _why(error: OSError) -> str:
    if "loop" in str(error.filename or ""):
        return "loop devices are needed for an image: modprobe loop, or unpack it into a folder"
    if str(error.strerror or "").startswith(("fsopen", "fsconfig", "fsmount")):
        return "is it a squashfs image, of a compression this kernel knows (zstd)? A folder works, too"
    return ""


def _folder(source: int) -> int:
    if not stat.S_ISDIR(os.fstat(source).st_mode):
        raise OSError(ENOTDIR, os.strerror(ENOTDIR))
    return sys.open_tree(source, "", sys.OPEN_TREE_CLONE | sys.AT_EMPTY_PATH)


def _image(image: int) -> int:
    """A mount of the squashfs that `image` (closed here) holds."""
    try:
        path, device = attach_loop(image)
    finally:
        os.close(image)
    try:
        return sys.fsmount("squashfs", (("source", path), ("ro", "")), sys.MOUNT_ATTR_RDONLY)
    finally:
        os.close(device)  # the mount holds the device; without one it is free again


def attach_loop(image: int, *, writable: bool = False) -> tuple[str, int]:
    """The path and a descriptor of a loop device for `image`. It is free again with its last user."""
    flags = _LO_FLAGS_DIRECT_IO if writable else _LO_FLAGS_READ_ONLY
    setting = _LOOP_CONFIG.pack(image, 0, flags | _LO_FLAGS_AUTOCLEAR)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            device = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, setting)
                return path, device
            except OSError as error:
                os.close(device)
                if error.errno not in (EBUSY, ENXIO):
                    raise OSError(error.errno or 0, error.strerror, path) from None
        raise OSError(EBUSY, os.strerror(EBUSY), path)
    finally:
        os.close(control)


def _layered(lower: int, size: int) -> int:
    """An overlay of `lower` (closed here) and an empty layer of `size` bytes, mounted nowhere yet."""
    stage = sys.fsmount("tmpfs", (("size", str(size)), ("mode", "700")), _ATTRIBUTES)
    sys.move_mount(stage, sys.AT_FDCWD, _STAGE)
    for name in ("lower", "upper", "spare"):
        os.mkdir(name, 0o755, dir_fd=stage)
    sys.move_mount(lower, stage, "lower")
    top = os.fstat(lower)
    os.chown("upper", top.st_uid, top.st_gid, dir_fd=stage)
    os.chmod("upper", stat.S_IMODE(top.st_mode), dir_fd=stage)
    os.close(lower)
    os.close(stage)
    layers = (("lowerdir", f"{_STAGE}/lower"), ("upperdir", f"{_STAGE}/upper"), ("workdir", f"{_STAGE}/spare"))
    try:
        return sys.fsmount("overlay", (("source", "batchns"), *layers), _ATTRIBUTES)
    finally:
        sys.umount_detach(_STAGE)
