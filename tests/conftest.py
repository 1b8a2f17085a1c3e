"""Tests as root get a corner of the machine to themselves: see `alone`. Others run as they are."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .alone import alone


@pytest.fixture(scope="session", autouse=True)
def _alone(request: pytest.FixtureRequest) -> Iterator[None]:
    if os.geteuid() == 0 and any(item.get_closest_marker("kernel") for item in request.session.items):
        with alone():
            yield
    else:
        yield
