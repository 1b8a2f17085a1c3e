"""Who can hold up a run by a lock: nobody but root, and not for ever."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from batchns.errors import HostError
from batchns.kernel.cgroups import common
from batchns.kernel.cgroups.common import Common


def test_a_lock_on_the_cgroup_itself_which_anyone_can_take_holds_up_nobody(tmp_path: Path) -> None:
    group = Common(str(tmp_path), f"{tmp_path}/locks")
    group.hold()
    stranger = os.open(group.path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(stranger, fcntl.LOCK_EX)
    second = Common(str(tmp_path), f"{tmp_path}/locks")
    holding = threading.Thread(target=second.hold, daemon=True)
    holding.start()
    holding.join(5)
    assert not holding.is_alive()
    os.close(stranger)
    second.release()
    group.release()
    assert not Path(group.path).exists()


def test_the_lock_can_be_opened_by_its_owner_only(tmp_path: Path) -> None:
    group = Common(str(tmp_path), f"{tmp_path}/run/locks")
    group.hold()
    assert stat.S_IMODE(os.stat(tmp_path / "run/locks").st_mode) == 0o700
    assert stat.S_IMODE(os.stat(group.lock).st_mode) == 0o600
    group.release()


def test_a_lock_that_is_kept_is_waited_for_within_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "LOCK_SECONDS", 0.2)
    group = Common(str(tmp_path), str(tmp_path))
    with Path(group.lock).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        began = time.monotonic()
        with pytest.raises(HostError, match=f"by another batchns - see which process it is with: fuser {group.lock}"):
            group.hold()
        assert 0.2 <= time.monotonic() - began < 2
    group.hold()
    group.release()
