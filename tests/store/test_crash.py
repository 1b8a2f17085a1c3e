"""What was acknowledged outlives whatever ends or fails under it. The long version: python -m tests.store.crash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import crash

ROOT = Path(__file__).parent.parent.parent


def run(folder: Path, *options: str) -> str:
    """In a process of its own: it forks, and nothing else of this one is to be copied."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.crash", folder, *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_killed_at_any_moment(tmp_path: Path) -> None:
    assert "150 rounds" in run(tmp_path, "--kills", "150")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
class TestAtEachCall:
    """Every n-th call of a store's life, from its first page to its last sync."""

    @pytest.mark.parametrize(
        ("call", "every"), [("pwrite64", "9"), ("fdatasync", "1"), ("ftruncate", "1"), ("unlink", "1")]
    )
    def test_killed(self, tmp_path: Path, call: str, every: str) -> None:
        assert "0 things wrong" in run(tmp_path, "--each", call, "--every", every)

    @pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
    @pytest.mark.parametrize(("call", "every"), [("pwrite64", "17"), ("fdatasync", "2")])
    def test_failed(self, tmp_path: Path, call: str, every: str, error: str) -> None:
        """One error refuses at most one batch, and what was refused does not come back, not even after a crash."""
        lines = run(tmp_path, "--each", call, "--fail", error, "--every", every).splitlines()
        assert len(lines) == 3
        assert not any(" 0 refused" in line for line in lines)


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk(tmp_path: Path) -> None:
    """In a mount namespace of its own."""
    script = 'mount -t tmpfs -o size=3m none "$1" && exec "$2" -m tests.store.full "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", tmp_path, sys.executable],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "3 refused" in done.stdout


class TestTheTestItself:
    """It would notice."""

    def test_what_was_acknowledged_and_is_not_there(self, tmp_path: Path) -> None:
        path = tmp_path / crash.NAME
        told = crash.Told(acknowledged={0, 1})
        crash.Store.open(path).close()
        assert any("batch 0 was acknowledged, and lacks job 1" in text for text in crash.wrong(path, range(2), told))

    def test_what_was_refused_and_is_there(self, tmp_path: Path) -> None:
        path = tmp_path / crash.NAME
        with crash.Store.open(path) as store:
            store.commit(crash.batches.batch(0))
        assert crash.wrong(path, range(2), crash.Told(refused={0})) == ["batch 0 was refused, and is there"]
        assert crash.wrong(path, range(2), crash.Told(acknowledged={0}, refused={1})) == []
