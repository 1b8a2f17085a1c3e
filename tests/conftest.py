"""Tests as root get a corner of the machine to themselves: see `alone`. Others run as they are."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .alone import alone


@pytest.fixture(scope="session", autouse=True)
def _alone(request: pytest.FixtureRequest) -> Iterator[None]:
    if os.geteuid() == 0 and any(item.get_closest_marker("kernel") for item in request.session.items):
        with alone():
            yield
    else:
        yield


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk: in a tmpfs the cache would be the file itself, which no reclaim takes away."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True).stdout
    if kind.strip() != "tmpfs":
        yield tmp_path
        return
    if not Path("/dev/ubda").exists():
        pytest.skip("there is no disk to write to")
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "/dev/ubda", "512M"], check=True)
    subprocess.run(["mount", "/dev/ubda", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)
