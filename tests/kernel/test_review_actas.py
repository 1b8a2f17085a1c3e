"""Acting as a user: what the user may not open is not opened, wherever it lies; and the thread comes back as it was."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from batchns.kernel.actas import acting_as

pytestmark = pytest.mark.kernel
SECRET = "/proc/sys/net/ipv4/tcp_fastopen_key"  # 0600 of root
USER = 4242


def status() -> list[str]:
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return [line for line in lines if line.startswith(("Uid", "Gid", "Groups", "CapEff", "CapPrm"))]


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY])
def test_a_switch_of_the_kernel_that_only_root_may_open_is_not_opened(flags: int) -> None:
    """It asks for the effective uid: a job could have had its output there, and have it read to its owner."""
    before = status()
    with acting_as(USER, USER, (USER,)), pytest.raises(PermissionError):
        os.open(SECRET, flags)
    assert status() == before
    os.close(os.open(SECRET, os.O_RDONLY))


def test_no_capability_is_left_and_other_threads_stay_as_they_are() -> None:
    before, during, after = status(), dict[str, str](), list[str]()
    acting, seen = threading.Event(), threading.Event()

    def act() -> None:
        with acting_as(USER, USER, (USER,)):
            during.update(line.split(":\t", 1) for line in status())  # type: ignore[arg-type]
            acting.set()
            seen.wait(5)
        after.extend(status())

    thread = threading.Thread(target=act)
    thread.start()
    assert acting.wait(5)
    meanwhile = status()
    seen.set()
    thread.join()
    assert int(during["CapEff"], 16) == 0
    assert during["Uid"].split() == ["0", str(USER), "0", str(USER)]  # real, effective, saved, of file systems
    assert meanwhile == before
    assert after == before


def test_what_is_made_is_the_users(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(parent.stat().st_mode | 0o011)
    with acting_as(USER, USER + 1, (USER + 1,)):
        os.close(os.open(tmp_path / "file", os.O_CREAT | os.O_WRONLY, 0o600))
    found = (tmp_path / "file").stat()
    assert (found.st_uid, found.st_gid) == (USER, USER + 1)
