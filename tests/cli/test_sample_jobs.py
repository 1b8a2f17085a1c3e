"""The sample jobs are right by the rules of job files, and the check of how they ended notices when they did not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

JOBS = Path(__file__).parent.parent.parent / "jobs"


def expect(tmp_path: Path, *records: tuple[str, str]) -> subprocess.CompletedProcess[str]:
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps({"name": name, "state": state}) + "\n" for name, state in records))
    (tmp_path / "a.toml").write_text('name = "good"\n')
    (tmp_path / "b.toml").write_text('[[job]]\nname = "bad"\nenv = { EXPECT_STATE = "TIMEOUT" }\n')
    command = [sys.executable, str(JOBS / "expect.py"), str(tmp_path), str(results)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class TestExpect:
    def test_says_that_a_job_failed_as_meant(self, tmp_path: Path) -> None:
        done = expect(tmp_path, ("good", "COMPLETED"), ("bad", "TIMEOUT"))
        assert done.returncode == 0
        assert "bad   failed as meant: TIMEOUT" in done.stdout

    @pytest.mark.parametrize(
        "records",
        [
            [("good", "COMPLETED"), ("bad", "COMPLETED")],
            [("good", "COMPLETED"), ("bad", "OUT_OF_MEMORY")],
            [("good", "FAILED"), ("bad", "TIMEOUT")],
            [("good", "COMPLETED"), ("good", "FAILED"), ("bad", "TIMEOUT")],
            [("good", "COMPLETED")],
            [],
        ],
    )
    def test_notices_a_job_that_ended_otherwise_or_not_at_all(
        self, tmp_path: Path, records: list[tuple[str, str]]
    ) -> None:
        done = expect(tmp_path, *records)
        assert done.returncode == 1
        assert "WRONG" in done.stdout


@pytest.mark.parametrize(("seconds", "code"), [(0.9, 0), (0.0, 1)])
def test_notices_a_job_that_was_not_frozen_as_meant(tmp_path: Path, seconds: float, code: int) -> None:
    (tmp_path / "batchns.toml").write_text("[queues.urgent]\n")  # settings are no job
    (tmp_path / "a.toml").write_text('name = "long"\nenv = { EXPECT_FROZEN = "0.5" }\n')
    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps({"name": "long", "state": "COMPLETED", "frozen_seconds": seconds}) + "\n")
    command = [sys.executable, str(JOBS / "expect.py"), str(tmp_path), str(results)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("frozen as meant: 0.9 s" if code == 0 else "WRONG: frozen for 0.0 s") in done.stdout


def test_every_sample_is_described() -> None:
    described = (JOBS / "README.md").read_text()
    assert [path.name for path in JOBS.glob("*.toml") if f"`{path.name}`" not in described] == []
