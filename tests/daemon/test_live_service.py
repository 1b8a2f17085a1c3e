"""A daemon as a service: what its manager hears, what it forgets, and lists of more than a page."""

from __future__ import annotations

import json
import signal
import socket
import time

import pytest

from batchns.wire.types import MOST_ROWS

from ..system.conftest import until
from .live import live

pytestmark = pytest.mark.kernel


def test_the_service_manager_hears_when_it_is_ready_reloads_and_stops(
    _alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"batchns-test-{time.monotonic_ns()}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(10)

        def heard() -> str:
            return manager.recv(999).decode().split("\n")[0]

        with live() as daemon:
            assert heard() == "READY=1"
            assert daemon.daemon is not None
            for settings in ("", "[nonsense]\n"):
                daemon.configure(settings)
                daemon.daemon.send_signal(signal.SIGHUP)
                assert (heard(), heard()) == ("RELOADING=1", "READY=1")
            assert "is not used" in daemon.said
            daemon.configure("")
            daemon.stop()
            assert heard() == "STOPPING=1"
            daemon.start()
            assert heard() == "READY=1"
        assert heard() == "STOPPING=1"


def test_a_daemon_that_is_started_forgets_what_is_older_than_it_is_to_keep(_alone: None) -> None:
    with live() as daemon:
        job = daemon.submit("--", "true")
        daemon.over(job)
        time.sleep(1.2)
        daemon.restart()
        assert daemon("history", "--json").stdout.count("\n") == 1  # 90 days are not over
        daemon.configure('[history]\nkeep = "1s"\n')
        daemon.restart()
        until(lambda: daemon("history", "--json").stdout == "")
        assert daemon("show", job).code == 2
        young = daemon.submit("--", "true")
        daemon.over(young)
        assert daemon("show", young).code == 0


def test_ps_lists_more_than_a_page_and_why_says_how_far_it_has_looked(_alone: None) -> None:
    tasks = MOST_ROWS + 200
    with live() as daemon:
        array = daemon.submit("--array", f"0-{tasks - 1}", "--hold", "--", "true")
        rows = [json.loads(line)["id"] for line in daemon("ps", "--json").stdout.splitlines()]
        assert rows == [f"{array}_{number}" for number in range(tasks)]
        assert len(daemon("top").stdout.splitlines()) > tasks
        later = daemon.submit("--begin", "+2h", "--", "true")
        assert "  it may begin in 2h (" in daemon("why", later).stdout
        (why,) = [json.loads(line) for line in daemon("why", "--json", later).stdout.splitlines()]
        assert 7100 < why["at"] - time.time() <= 7200
        assert daemon("cancel", array, later).code == 0  # one question ends so many
