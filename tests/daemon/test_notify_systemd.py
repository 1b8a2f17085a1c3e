"""What the daemon tells the service manager, at a socket as systemd's."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from batchns.daemon.notify_systemd import ServiceManager


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_it_says_what_sd_notify_says(tmp_path: Path, abstract: bool) -> None:
    name = f"@batchns-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name[1:] if abstract else name)
        listening.settimeout(5)
        manager = ServiceManager.of_environment({"NOTIFY_SOCKET": name})
        manager.ready("3 jobs run")
        assert listening.recv(999) == b"READY=1\nSTATUS=3 jobs run"
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        manager.reloading()
        first, second = listening.recv(999).decode().split("\n")
        assert first == "RELOADING=1" and before <= int(second.removeprefix("MONOTONIC_USEC=")) < before + 5_000_000
        manager.status("a name with\nREADY=1 in it")
        assert listening.recv(999) == b"STATUS=a name with READY=1 in it"
        manager.stopping()
        assert listening.recv(999) == b"STOPPING=1"


def test_without_a_manager_it_says_nothing_and_without_a_listener_it_goes_on(tmp_path: Path) -> None:
    ServiceManager.of_environment({}).ready()
    ServiceManager(str(tmp_path / "nobody")).ready()


def test_a_manager_that_does_not_read_is_not_waited_for_long(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        manager = ServiceManager(str(tmp_path / "notify"))
        full = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        with full, pytest.raises(BlockingIOError):
            while True:
                full.sendto(b"x", str(tmp_path / "notify"))
        began = time.monotonic()
        manager.status("x")
        assert time.monotonic() - began < 5
