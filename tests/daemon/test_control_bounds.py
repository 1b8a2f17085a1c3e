"""What one user may change within an hour is bounded: each change is an entry of the journal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from batchns.daemon import control
from batchns.daemon.control import Control
from batchns.daemon.service import Peer, Refused

NOTHING: Any = SimpleNamespace()


def test_changes_of_one_user_are_bounded_for_an_hour_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MOST_CHANGES", 100)
    now = 0.0
    names = ("config", "loop", "books", "effects", "owners", "places", "inbox")
    here = Control(**dict.fromkeys(names, NOTHING), clock=lambda: now)
    ada, bob = (Peer(uid=uid, gid=uid, user=str(uid)) for uid in (1, 2))
    here._check_changes(ada, 60)
    here._check_changes(ada, 40)
    with pytest.raises(Refused, match="100 jobs were changed within the hour"):
        here._check_changes(ada, 1)
    here._check_changes(bob, 100)
    now = 3601.0
    here._check_changes(ada, 100)
