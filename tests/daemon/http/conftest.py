"""A server with a service that is all in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .fake import FakeService, Running, running


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def server(service: FakeService, tmp_path: Path) -> Iterator[Running]:
    with running(service, tmp_path) as server:
        yield server
