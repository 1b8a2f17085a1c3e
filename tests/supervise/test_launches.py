"""Launches that hang: each is ended within its bound, and none is in another's way."""

from __future__ import annotations

from pathlib import Path

import pytest
from supervise_fakes import Behaviour, bench, spec

from batchns.model.lifecycle import State
from batchns.supervise import launches

S = State
HANGS = Behaviour(launch_seconds=10_000)


def test_a_launch_that_hangs_is_killed_within_its_bound(tmp_path: Path) -> None:
    """The launcher tells of the end of an init that is killed; only this fake one does not (see the next test)."""
    here = bench(tmp_path, {"stuck": HANGS.killed_in_launch()})
    result = here.run([spec(tmp_path, "stuck", time_limit=5.0)])["7"]
    assert result.state is S.FAILED
    assert result.reason == (
        "the launch did not finish within 1m - see that the file systems of its cwd and binds answer"
    )
    assert here.host.kills == [(launches.TIMEOUT, "abcde-0")]
    assert here.watcher.states("7") == [S.PENDING, S.STARTING, S.COMPLETING, S.FAILED]
    assert here.runs.taken == []


def test_a_launch_that_hangs_is_given_up_when_the_launcher_does_not_answer_either(tmp_path: Path) -> None:
    here = bench(tmp_path, {"stuck": HANGS})
    result = here.run([spec(tmp_path, "stuck")])["7"]
    assert (result.state, here.watcher.views[-1][0]) == (S.NODE_FAIL, 70)
    assert result.reason == "it was to end while it was being launched, and the launcher does not answer"


def test_a_launch_that_was_too_slow_but_came_to_an_end_is_ended_all_the_same(tmp_path: Path) -> None:
    here = bench(tmp_path, {"slow": Behaviour(launch_seconds=61, seconds=100)})
    result = here.run([spec(tmp_path, "slow", max_retries=1)])["7"]
    assert result.reason.startswith("the launch did not finish within 1m")
    assert (result.state, result.attempts) == (S.FAILED, 1)


def test_a_launch_that_hangs_is_tried_again_where_the_job_allows_it(tmp_path: Path) -> None:
    here = bench(tmp_path, {"stuck": [HANGS.killed_in_launch(), Behaviour()]})
    result = here.run([spec(tmp_path, "stuck", max_retries=1)])["7"]
    assert (result.state, result.attempts) == (S.COMPLETED, 2)


@pytest.mark.parametrize("hanging", [1, 20])
def test_launches_that_hang_do_not_keep_others_from_starting(tmp_path: Path, hanging: int) -> None:
    """Each holds one of the places for a moment only."""
    here = bench(tmp_path, {"stuck": HANGS.killed_in_launch()}, cpus=30)
    jobs = [spec(tmp_path, "stuck", tasks=hanging, priority=9), spec(tmp_path, "good")]
    results = here.run(jobs)
    assert results["8"].state is S.COMPLETED
    (started,) = [when for when, job, _ in here.host.launched if job == "8"]
    assert started <= launches.SLOW * (hanging // launches.PLACES)


def test_a_launch_that_hangs_can_be_interrupted(tmp_path: Path) -> None:
    here = bench(tmp_path, {"stuck": HANGS.killed_in_launch()})

    async def stop(_: object) -> None:
        here.supervisor.kill()

    result = here.run([spec(tmp_path, "stuck")], stop)["7"]
    assert (result.state, result.reason) == (S.CANCELLED, "interrupted")


def test_an_address_that_is_still_in_use_is_left_for_another_once(tmp_path: Path) -> None:
    """The kernel removes the last holder's link in the background."""
    here = bench(tmp_path)
    here.host.taken = {"10.213.0.1"}
    assert here.run([spec(tmp_path)])["7"].state is S.COMPLETED
    assert here.host.addresses == ["10.213.0.1", "10.213.0.2"]
    assert here.runs.taken == []

    here = bench(tmp_path)
    here.host.taken = {"10.213.0.1", "10.213.0.2"}
    result = here.run([spec(tmp_path)])["7"]
    assert (result.state, result.reason) == (S.FAILED, "network: add the route: 10.213.0.2: File exists")
    assert here.runs.taken == []
