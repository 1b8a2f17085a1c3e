"""In short what `python -m tests.campaign_launcher` does: a launcher, or its client, is killed at any moment."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import kept_kills
from .kept_kills import KillPoints, Point, has_strace
from .kept_world import World, world

pytestmark = pytest.mark.kernel

POINTS = 20  # of each kind, another choice each time


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


@pytest.fixture
def points(kept: World, monkeypatch: pytest.MonkeyPatch) -> KillPoints:
    if not has_strace():
        pytest.skip("no strace that may trace")
    return KillPoints(kept, monkeypatch)


def some(found: list[Point]) -> list[Point]:
    """Half of them from the moment on at which a launch goes on by itself: init is told that it is mapped."""
    assert len(found) > 50, "the launcher's calls have not been seen"
    told = found.index(("sendto", 1)) if ("sendto", 1) in found else 0
    around = found[told : told + POINTS // 2]
    others = [point for point in found if point not in around]
    return sorted([*around, *random.sample(others, POINTS - len(around))], key=found.index)


@pytest.mark.slow
def test_a_launcher_that_is_killed_at_any_call_of_a_launch_and_an_end(kept, points):
    found = kept_kills.after_a_start(kept, points, some)
    assert found["kills"] == POINTS
    assert found["ended"] and found["did not run"]


@pytest.mark.slow
def test_a_launcher_that_is_killed_at_any_call_of_an_adoption_and_an_end(kept, points):
    found = kept_kills.after_adopting(kept, points, some)
    assert (found["kills"], found["ended"]) == (POINTS, POINTS), "what runs always ends with its own exit code"


@pytest.mark.long
def test_a_launcher_that_is_killed_while_it_adopts_what_another_was_killed_at(kept, points):
    """Once before its init was noted, once before it was told to go on, once when it was and that was not noted."""
    for first, outcome in (
        (("renameat", 1), "did not run"),
        (("sendto", 1), "did not run"),
        (("renameat", 2), "ended"),
    ):
        found = kept_kills.while_adopting_a_launch(kept, points, first, lambda calls: random.sample(calls, POINTS // 3))
        assert found[outcome] == POINTS // 3


@pytest.mark.long
@pytest.mark.parametrize("victims", [("launcher",), ("client",), ("client", "launcher")], ids="+".join)
def test_kills_at_random_moments_under_load(kept, victims):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    found = kept_kills.at_random(kept, victims, 6, random.Random(seed), jobs=60)
    assert found["ended"]
