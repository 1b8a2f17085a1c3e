"""Whoever watches the API is told of every answer, of refusals and defects too."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import define, field

from .fake import FakeService, running
from .raw import ask


@define
class Listener:
    heard: list[tuple[str, str, int]] = field(factory=list)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        assert 0 <= seconds < 10
        self.heard.append((route, method, status))

    async def scrape(self, accept: str) -> tuple[str, bytes]:
        return "text/plain", b""

    async def ill(self) -> str:
        return ""

    def unready(self) -> str:
        return "drained"


@pytest.mark.parametrize(
    ("method", "target", "heard"),
    [
        ("GET", "/v1/you", ("/v1/you", "GET", 200)),
        ("GET", "/v1/jobs/404", ("/v1/jobs/{id}", "GET", 404)),
        ("GET", "/v1/jobs/break", ("/v1/jobs/{id}", "GET", 500)),
        ("GET", "/nowhere", ("other", "GET", 404)),
        ("BREW", "/v1/you", ("/v1/you", "other", 405)),
        ("get", "/nowhere", ("other", "other", 404)),
        ("DELETE", "/nowhere", ("other", "DELETE", 404)),
    ],
)
def test_of_each_answer(
    service: FakeService, tmp_path: Path, method: str, target: str, heard: tuple[str, str, int]
) -> None:
    listener = Listener()
    with running(service, tmp_path, monitor=listener) as server:
        assert ask(server.socket, method, target).status == heard[2]
    assert listener.heard == [heard]


@pytest.mark.parametrize(
    ("method", "target", "status"), [("GET", "/metrics", 200), ("GET", "/readyz", 503), ("BREW", "/readyz", 405)]
)
def test_what_monitors_ask_is_no_answer_of_the_api(
    service: FakeService, tmp_path: Path, method: str, target: str, status: int
) -> None:
    """A probe of a drained node would be a failure every few seconds."""
    listener = Listener()
    with running(service, tmp_path, monitor=listener) as server:
        assert ask(server.socket, method, target).status == status
    assert listener.heard == []
