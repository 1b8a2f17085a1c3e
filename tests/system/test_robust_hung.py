"""File systems that never answer: they cost their own jobs, and nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from batchns.errors import UserError
from batchns.model.submitter import ROOT
from batchns.supervise import outputs
from batchns.supervise.outputs import Outputs
from batchns.supervise.ports import threads

from ..alone import end_with_parent
from .hung import hung_file_system

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse"),
]


@pytest.fixture
def hung(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with hung_file_system(tmp_path_factory.mktemp("server") / "hung") as point:
        yield point


another_hung = hung  # who creates a file there keeps the folder locked, and the next one in it cannot even be killed


def test_the_event_loop_goes_on_while_an_output_hangs(
    hung: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the job is refused in time, with nothing left open."""
    monkeypatch.setattr(outputs, "TIMEOUT", 0.5)
    before = set(os.listdir("/proc/self/fd"))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await trio.sleep(0.01)
            ticks += 1

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            paths = [("stdout", f"{tmp_path}/good.out"), ("stderr", f"{hung}/job.err")]
            with pytest.raises(UserError, match=rf"{hung}/job\.err: no answer from the file system within 500ms"):
                await Outputs(threads()).open_all("", paths, ROOT)
            nursery.cancel_scope.cancel()

    began = time.monotonic()
    trio.run(main)
    assert time.monotonic() - began < 3
    assert ticks > 10
    os.stat(tmp_path / "good.out")
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1, "all but the file that the hanging thread holds"


_RUN = """
import sys
from batchns.supervise import launches, outputs
launches.SLOW, launches.TIMEOUT, outputs.TIMEOUT = 0.5, 3.0, 2.0
sys.argv = ["batchns", "run", "--json", "jobs.toml"]
from batchns.cli.main import main
main()
"""


def run_with_short_bounds(folder: Path, text: str) -> dict[str, Any]:
    (folder / "jobs.toml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", _RUN], cwd=folder, capture_output=True, text=True, timeout=60, preexec_fn=end_with_parent
    )
    assert "Traceback" not in done.stderr, done.stderr
    return {job["name"]: job for job in map(json.loads, done.stdout.splitlines())}


def test_a_bind_or_output_that_hangs_fails_its_job_and_the_others_run(
    hung: Path, another_hung: Path, folder: Path
) -> None:
    jobs = run_with_short_bounds(
        folder,
        f"""
        [[job]]
        name = "bound"
        command = ["true"]
        time_limit = "1s"
        isolation.binds = ["{hung}/data:/tmp/data"]
        resources.cpus = 0.1
        resources.memory = "32MiB"
        [[job]]
        name = "written"
        command = ["true"]
        stdout = "{another_hung}/log"
        resources.cpus = 0.1
        resources.memory = "32MiB"
        [[job]]
        name = "good"
        command = ["true"]
        resources.cpus = 0.1
        resources.memory = "32MiB"
        """,
    )
    assert {name: job["state"] for name, job in jobs.items()} == {
        "bound": "FAILED",
        "written": "FAILED",
        "good": "COMPLETED",
    }
    assert jobs["bound"]["reason"].startswith("the launch did not finish within 3s")
    assert "no answer from the file system within 2s" in jobs["written"]["reason"]
    assert list(jobs) == ["good", "written", "bound"]
