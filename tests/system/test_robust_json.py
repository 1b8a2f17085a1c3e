"""`--json` and its readers: one that stalls, one that goes away, none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..alone import end_with_parent
from .conftest import start, until

pytestmark = pytest.mark.kernel

MANY = 'name = "many"\ncommand = ["true"]\narray = "1-120"\n[resources]\ncpus = 0.1\nmemory = "32MiB"\n'


def test_a_reader_that_stalls_holds_up_no_job_and_gets_every_line_later(folder: Path) -> None:
    """120 lines are more than a pipe holds."""
    (folder / "jobs.toml").write_text(MANY)
    process = start("run", "--json", "jobs.toml", cwd=folder)
    assert process.stdout is not None
    until(lambda: len(list(folder.glob("*.out"))) == 120)
    time.sleep(0.5)
    lines = process.stdout.read().splitlines()
    assert {json.loads(line)["state"] for line in lines} == {"COMPLETED"}
    assert len(lines) == 120
    assert process.wait(20) == 0


def test_a_reader_that_goes_away_ends_nothing(folder: Path) -> None:
    (folder / "jobs.toml").write_text(
        '[[job]]\nname = "first"\ncommand = ["true"]\n'
        '[[job]]\nname = "then"\ncommand = ["sh", "-c", "sleep 0.5; touch done"]\ndependency = ["afterok:first"]\n'
        '[[job]]\nname = "last"\ncommand = ["false"]\ndependency = ["afterok:then"]\n'
    )
    process = start("run", "--json", "jobs.toml", cwd=folder)
    assert process.stdout is not None and process.stderr is not None
    assert json.loads(process.stdout.readline())["name"] == "first"
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(20) == 1, "as usual: one job failed"
    assert (folder / "done").exists()
    assert "1 failed" in said
    assert "Traceback" not in said and "Exception" not in said and "Broken" not in said


def test_results_that_cannot_be_written_are_an_error(folder: Path) -> None:
    (folder / "job.toml").write_text('name = "job"\ncommand = ["true"]\n')
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "batchns", "run", "--json", "job.toml"],
            cwd=folder,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=end_with_parent,
            timeout=60,
        )
    assert done.returncode == 125
    assert "batchns: --json: not all results could be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pipe_that_does_not_block_gets_every_line(folder: Path) -> None:
    (folder / "jobs.toml").write_text(MANY)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = subprocess.Popen(
        [sys.executable, "-m", "batchns", "run", "--json", "jobs.toml"],
        cwd=folder,
        stdout=writer,
        stderr=subprocess.DEVNULL,
        preexec_fn=end_with_parent,
    )
    os.close(writer)
    until(lambda: len(list(folder.glob("*.out"))) == 120)
    with os.fdopen(reader) as file:
        assert len(file.read().splitlines()) == 120
    assert process.wait(20) == 0
