"""What is told of the job's /tmp where a bind takes its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import batchns

pytestmark = pytest.mark.kernel


def test_the_disk_behind_a_bind_on_tmp_is_not_told_as_the_scratch_limit(folder: Path) -> None:
    (folder / "data").mkdir()
    job = f'[[job]]\ncwd = "/"\nscript = "touch /tmp/here"\nisolation.binds = ["{folder}/data:/tmp"]\n'
    (folder / "jobs.toml").write_text(f'{job}name = "unasked"\n{job}name = "asked"\nresources.scratch = "1MiB"\n')
    ran = batchns("run", "--json", "jobs.toml", cwd=folder)
    assert ran.code == 0, ran.stderr
    assert (folder / "data" / "here").exists()
    assert "scratch" not in ran.jobs["unasked"]["limits"]
    assert ran.jobs["asked"]["limits"]["scratch"] == {"value": None, "why": "a bind takes the place of /tmp"}
