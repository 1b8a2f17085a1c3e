"""An image under fs-verity, where the kernel has that: it measures the file, and no other version of it can be."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from supervise_fakes import inline
from test_images import CONTENT, OTHER, check, reads

from batchns.errors import UserError
from batchns.kernel import verity
from batchns.supervise.images import Images

__all__ = ["reads"]
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not Path("/sys/fs/ext4/features/verity").exists(), reason="this kernel has no fs-verity"),
    pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="no mkfs.ext4"),
]
ENABLE = 0x40806685  # FS_IOC_ENABLE_VERITY
SHA256 = 1
BLOCK = 4096


@pytest.fixture
def folder(_alone: None, tmp_path: Path) -> Iterator[Path]:
    """On an ext4 of its own, which can do it."""
    disk, folder = tmp_path / "disk", tmp_path / "mounted"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-O", "verity", disk], check=True)
    folder.mkdir()
    subprocess.run(["mount", "-o", "loop", disk, folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def enable(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, ENABLE, struct.pack("=IIII", 1, SHA256, BLOCK, 0) + bytes(112))
    finally:
        os.close(fd)


def merkle(content: bytes) -> bytes:
    """The digest of struct fsverity_descriptor: Documentation/filesystems/fsverity.rst."""
    level = content
    while True:
        blocks = [level[at : at + BLOCK].ljust(BLOCK, b"\0") for at in range(0, len(level), BLOCK)]
        hashes = [hashlib.sha256(block).digest() for block in blocks]
        if len(hashes) == 1:
            break
        level = b"".join(hashes)
    head = struct.pack("=BBBBIQ64s", 1, SHA256, 12, 0, 0, len(content), hashes[0])
    return hashlib.sha256(head.ljust(256, b"\0")).digest()


def test_the_kernels_measurement_stands_for_the_content_whatever_is_done_to_the_file(
    folder: Path, reads: list[int]
) -> None:
    image = folder / "system.squashfs"
    image.write_bytes(CONTENT)
    image.chmod(0o644)
    with image.open("rb") as file:
        assert verity.measurement(file.fileno()) is None
    enable(image)
    with image.open("rb") as file:
        assert verity.measurement(file.fileno()) == struct.pack("=HH", SHA256, 32) + merkle(CONTENT)
    with pytest.raises(PermissionError):
        image.open("r+b")

    known = Images(inline)
    check(known, image)
    os.utime(image)
    assert check(known, image).changed == image.stat().st_ctime_ns
    assert len(reads) == 1, "another time of change, and the same measurement"
    with pytest.raises(UserError, match=r"isolation\.rootfs_digest"):
        check(known, image, OTHER)

    other = folder / "other.squashfs"
    other.write_bytes(CONTENT[:-1] + b"X")
    enable(other)
    other.replace(image)
    with pytest.raises(UserError, match=r"isolation\.rootfs_digest"):
        check(known, image)


def test_content_that_was_changed_below_the_file_system_is_not_read(folder: Path) -> None:
    """What makes a measurement enough: the kernel does not hand out another block than the one it has measured."""
    image = folder / "system.squashfs"
    image.write_bytes(CONTENT)
    enable(image)
    disk = folder.parent / "disk"
    os.sync()
    subprocess.run(["umount", folder], check=True)
    whole = disk.read_bytes()
    at = whole.index(CONTENT[:BLOCK])
    with disk.open("r+b") as file:
        file.seek(at)
        file.write(b"changed!")
    subprocess.run(["mount", "-o", "loop", disk, folder], check=True)
    with image.open("rb") as file, pytest.raises(OSError) as refused:
        file.read(BLOCK)
    assert refused.value.errno == errno.EIO
