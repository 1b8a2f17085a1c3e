"""A small system in a squashfs, for jobs to have as their root."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest


def need_squashfs() -> None:
    """Skip the test where the kernel has none."""
    if not re.search(r"\bsquashfs$", Path("/proc/filesystems").read_text(), re.MULTILINE):
        pytest.skip("this kernel has no squashfs")


def image_in(folder: Path) -> Path:
    """A shell, and a file /who that says "the image"; readable for everybody."""
    need_squashfs()
    root, made = folder / "root", folder / "system.squashfs"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/sh")
    (root / "who").write_text("the image\n")
    subprocess.run(["mksquashfs", root, made, "-quiet", "-no-progress"], check=True, stdout=subprocess.DEVNULL)
    made.chmod(0o644)
    return made
