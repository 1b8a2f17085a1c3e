"""The `batchns` command as a user runs it, and a look at everything it could leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from ..alone import end_with_parent, own_cgroups, sweep_corner

RUN_FOLDER = Path("/run/batchns")
_started: list[subprocess.Popen[str]] = []


@frozen(kw_only=True)
class Ran:
    """One call of `batchns`."""

    code: int
    stdout: str
    stderr: str

    @property
    def jobs(self) -> dict[str, dict[str, Any]]:
        """The `--json` objects by job name (array tasks: by job id)."""
        objects = [json.loads(line) for line in self.stdout.splitlines() if line.startswith("{")]
        return {job["name"] if "_" not in job["job_id"] else job["job_id"]: job for job in objects}


def batchns(*arguments: str, cwd: Path, timeout: float = 90, **options: Any) -> Ran:
    """Run the command to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "batchns", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
        preexec_fn=end_with_parent,
        **options,
    )
    return Ran(code=done.returncode, stdout=done.stdout, stderr=done.stderr)


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Start the command and leave it running; what a failed test forgets is ended after it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "batchns", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        preexec_fn=end_with_parent,
        text=True,
    )
    _started.append(process)
    return process


def end_started() -> None:
    """End what a failed test forgot, so that it fails alone: the next one must not find it, or what it left."""
    forgotten = [process for process in _started if process.poll() is None]
    _started.clear()
    for process in forgotten:
        process.kill()
        process.communicate()
    if forgotten:
        until(lambda: not on_this_machine()["processes"])
        sweep_corner()


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    yield
    end_started()


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """Wait for a condition and return its value; fails when it does not come true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.02)
    return value


def on_this_machine() -> dict[str, Any]:
    """Everything that batchns makes on a machine, as it is now."""
    # os.walk passes over folders that vanish while it looks.
    cgroups = [
        os.path.join(place, name)
        for top in own_cgroups()
        for place, names, _ in os.walk(top)
        for name in names
        if name.startswith("batchns")
    ]
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    network = os.readlink("/proc/self/ns/net")  # where every launcher of this test run is, and no other
    processes = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if (
                entry.name.isdigit()
                and b"batchns.launch.launcher" in (entry / "cmdline").read_bytes()
                and os.readlink(entry / "ns/net") == network
            ):
                processes.append(entry.name)
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    return {
        "cgroups": sorted(cgroups),
        "links": sorted(name for _, name in socket.if_nameindex() if name.startswith("bns")),
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "loops": sorted(name for name in os.listdir("/sys/block") if Path("/sys/block", name, "loop").exists()),
        "processes": processes,
        "children": children,
        "run folder": sorted(str(path) for path in RUN_FOLDER.rglob("*")) if RUN_FOLDER.exists() else [],
        "tables": [line for line in tables.splitlines() if "batchns" in line],
        "forwarding": _switches("ipv4/conf/*/forwarding", "ipv6/conf/*/forwarding", "ipv6/conf/*/accept_ra"),
    }


def _switches(*patterns: str) -> dict[str, str]:
    """The switches of all interfaces; those of a link that vanishes meanwhile are gone, and no error."""
    found = {}
    for path in (path for pattern in patterns for path in Path("/proc/sys/net").glob(pattern)):
        with contextlib.suppress(OSError):
            found[str(path)] = path.read_text()
    return found


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails when the machine is not as it was before the test (the run folder itself and its locks may be there)."""
    before = _settled(on_this_machine())
    yield
    end_started()
    end = time.monotonic() + 5
    while (after := _settled(on_this_machine())) != before and time.monotonic() < end:
        time.sleep(0.05)  # the kernel removes links in the background
    assert after == before


def _settled(seen: dict[str, Any]) -> dict[str, Any]:
    kept = [path for path in seen["run folder"] if "/run-" in path or "/making-" in path or "/slots/" in path]
    interfaces = {path: text for path, text in seen["forwarding"].items() if "/bns" not in path}
    return {**seen, "run folder": kept, "forwarding": interfaces}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
