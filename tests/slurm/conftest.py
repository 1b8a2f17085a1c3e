"""A Slurm of scripts for unit tests. They run as whoever runs them: that root has no jobs on a cluster is set aside."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.fake import FakeSlurm


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    for module in ("engine", "submitting"):
        monkeypatch.setattr(f"batchns.slurm.{module}.user_name", lambda: "alice")
    made = FakeSlurm(tmp_path)
    made.put("user", "alice")
    monkeypatch.setattr("tests.slurm.fake.user_name", lambda: "alice")
    return made
