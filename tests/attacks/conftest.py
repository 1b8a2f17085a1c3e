"""One daemon for all attacks, with two users."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..daemon.live import live
from ..people import users, way_for_all
from .modes import MALLORY, SETTINGS, VICTOR, World, world


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.attack)


@pytest.fixture(scope="session")
def machine(_alone: None) -> Iterator[World]:
    with way_for_all(), users(mallory=MALLORY, victor=VICTOR), live(SETTINGS) as daemon, world(daemon) as made:
        yield made
