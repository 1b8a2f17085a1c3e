"""A bind on /tmp: what is told of the scratch limit, and what a strict job makes of it."""

from __future__ import annotations

from pathlib import Path

from attrs import evolve
from supervise_fakes import bench, spec

from batchns.model.job import Bind, Isolation
from batchns.model.lifecycle import State


def test_a_strict_job_is_refused_for_a_scratch_that_it_asked_for_only(tmp_path: Path) -> None:
    covered = Isolation(binds=(Bind("/data", "/tmp"),))
    unasked = evolve(spec(tmp_path, "unasked", strict=True), isolation=covered)
    asked = evolve(spec(tmp_path, "asked", strict=True, scratch=1 << 20), isolation=covered)
    results = bench(tmp_path).run([unasked, asked])
    assert results["7"].state is State.COMPLETED
    assert "scratch" not in results["7"].limits
    assert (results["8"].state, results["8"].reason) == (
        State.FAILED,
        "strict: scratch: a bind takes the place of /tmp",
    )
