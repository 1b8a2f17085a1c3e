"""What is only attacked on a machine that nobody else uses: how it dumps core, and how many processes it may have."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..daemon.live import OVER, Live, toml
from ..system.conftest import until
from .modes import MALLORY, World
from .scene import throwaway

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not throwaway(), reason="would change the machine that it is shown on"),
]
PATTERN, PID_MAX = Path("/proc/sys/kernel/core_pattern"), Path("/proc/sys/kernel/pid_max")
CRASH = "import ctypes, os\nfor _ in range(5):\n    if os.fork() == 0: ctypes.string_at(0)\n    os.wait()\n"
BOMB = """
import os, time
taken = 0
try:
    while taken < 500:
        if os.fork() == 0: time.sleep(600)
        taken += 1
except OSError: pass
open("full", "w").close()
time.sleep(600)
"""


@pytest.fixture
def daemon(machine: World) -> Iterator[Live]:
    yield machine.daemon
    machine.daemon.clear()


@pytest.fixture
def dumps(tmp_path: Path) -> Iterator[Path]:
    """What the kernel starts, as root of the host, for each crash, writes a line there."""
    program, log, before = Path("/tmp/core-program"), Path("/tmp/core-dumps"), PATTERN.read_text()
    program.write_text(f"#!/bin/sh\n/bin/cat > /dev/null\necho $1 >> {log}\n")
    program.chmod(0o755)
    log.write_text("")
    try:
        PATTERN.write_text(f"|{program} %P")
        yield log
    finally:
        PATTERN.write_text(before)


@pytest.mark.parametrize(("user", "identity"), [("mallory", "self"), ("mallory", "root"), (None, "private")])
def test_crashes_of_a_job_start_no_program_of_the_hosts(
    daemon: Live, dumps: Path, user: str | None, identity: str
) -> None:
    """A storm of crashes would have the host run one program of root's for each. Crashes outside of a job do."""
    ids = {"user": MALLORY, "group": MALLORY, "extra_groups": []}
    subprocess.run(["/usr/bin/python3", "-c", CRASH], check=False, cwd="/", **ids)  # type: ignore[call-overload]
    until(lambda: dumps.read_text().count("\n") >= 5, 20)
    dumps.write_text("")
    folder = daemon.folder(user)
    text = toml(name="crash", command=["/usr/bin/python3", "-c", CRASH], **{"isolation.identity": identity})
    (folder / "crash.toml").write_text(text + 'resources.cpus = 0.2\nresources.memory = "64MiB"\n')
    ran = daemon("submit", "--parsable", "crash.toml", user=user, cwd=folder)
    assert daemon.over(ran.stdout.strip(), 60).state in OVER
    time.sleep(1)
    assert dumps.read_text() == ""


def test_many_jobs_leave_the_machine_processes(machine: World) -> None:
    """Each has fewer than it was given; all together want more than there may be. Each as a process could have them."""
    before = PID_MAX.read_text()
    daemon = machine.daemon
    try:
        PID_MAX.write_text("1200")
        daemon.restart()
        jobs: list[str] = []
        folders = [daemon.folder("mallory") for _ in range(3)]
        for folder in folders:
            (folder / "bomb.toml").write_text(
                toml(name="bomb", command=["/usr/bin/python3", "-c", BOMB])
                + 'resources = { cpus = 0.2, memory = "256MiB", pids = 510 }\n'
            )
            ran = daemon("submit", "--parsable", "bomb.toml", user="mallory", cwd=folder)
            assert ran.code == 0, ran
            jobs.append(ran.stdout.strip())
        end = time.monotonic() + 90
        while time.monotonic() < end and not all((folder / "full").exists() for folder in folders):
            for _ in range(5):
                assert os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1] == 0
            time.sleep(0.3)
        assert {daemon.state(job) for job in jobs} <= {"RUNNING", "OUT_OF_MEMORY"}, [daemon.row(job) for job in jobs]
    finally:
        PID_MAX.write_text(before)
        daemon.clear()
        daemon.restart()
