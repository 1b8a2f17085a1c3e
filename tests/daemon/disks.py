"""Small file systems of several kinds, and jobs that write numbered lines to them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MIB = 1 << 20


@contextlib.contextmanager
def disk(folder: Path, kind: str, size: int) -> Iterator[Path]:
    """A file system of `kind` on a loop device, mounted below `folder`; tmpfs without a device."""
    point = folder / kind
    point.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tests", str(point)]
    else:
        image = folder / f"{kind}.image"
        with image.open("wb") as file:
            file.truncate(size)
        options = {"ext4": ["-F"], "ext3": ["-F", "-O", "^extent,^64bit"]}.get(kind, [])
        subprocess.run([f"mkfs.{kind}", "-q", *options, str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(point)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"{kind} cannot be mounted here")
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


def append(path: Path) -> int:
    """A descriptor as a job's."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


# Lines "line NUMBER" for so many seconds, or numbers; then the last number on its standard error.
_FLOOD = """
import os, sys, time
seconds, most, pause = float(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
end, number, tail = time.monotonic() + seconds, 0, b" " + b"x" * 80 + b"\\n"
while number < most and time.monotonic() < end:
    os.write(1, b"".join(b"line %09d" % n + tail for n in range(number, min(number + 4000, most))))
    number = min(number + 4000, most)
    if pause: time.sleep(pause)
sys.stderr.write(str(number - 1))
"""


def flood(fd: int, *, seconds: float = 60, most: int = 10**9, pause: float = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _FLOOD, str(seconds), str(most), str(pause)],
        stdout=fd,
        stderr=subprocess.PIPE,
        text=True,
    )


def numbers(lines: list[bytes]) -> list[int]:
    """Of lines that are whole; any other is a failure."""
    found = []
    for line in lines:
        assert line.startswith(b"line ") and line.endswith(b" " + b"x" * 80) and len(line) == 95, line[:200]
        found.append(int(line[5:14]))
    return found


def content(path: Path) -> bytes:
    """What is in a file, without its holes."""
    found = []
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        at = 0
        while at < end:
            at = file.seek(at, os.SEEK_DATA)
            hole = file.seek(at, os.SEEK_HOLE)
            file.seek(at)
            found.append(file.read(hole - at))
            at = hole
    return b"".join(found).replace(b"\0", b"")
