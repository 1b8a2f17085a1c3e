"""What is served over TCP to monitors: whoever leaves, and whatever cannot be told, costs nobody else anything."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio

from batchns.daemon.http.scrape import serve_scrapes


class Told:
    broken = False

    async def scrape(self, accept: str) -> tuple[str, bytes]:
        if self.broken:
            raise RuntimeError("a defect")
        return "text/plain", b"x 1\n"

    async def ill(self) -> str:
        return ""

    def unready(self) -> str:
        return "drained"


def serving(told: Told, do: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            port = await nursery.start(serve_scrapes, told, ("127.0.0.1", 0))
            with trio.fail_after(10):
                await do(port)
            nursery.cancel_scope.cancel()

    trio.run(main)


async def get(port: int, path: str) -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    return await trio.to_thread.run_sync(ask)


def test_each_path_says_what_it_is_for() -> None:
    async def do(port: int) -> None:
        found = {path: await get(port, path) for path in ("/metrics", "/healthz", "/readyz", "/v1/jobs")}
        assert found == {
            "/metrics": (200, "x 1\n"),
            "/healthz": (200, "ok\n"),
            "/readyz": (503, "drained\n"),
            "/v1/jobs": (404, "there are /metrics, /healthz and /readyz\n"),
        }

    serving(Told(), do)


def test_a_defect_is_an_answer_and_the_next_one_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()

    async def do(port: int) -> None:
        told.broken = True
        assert await get(port, "/metrics") == (500, "batchns could not tell: its log says why\n")
        told.broken = False
        assert await get(port, "/metrics") == (200, "x 1\n")

    serving(told, do)
    assert "a defect" in caplog.text


def test_who_is_gone_before_being_greeted_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    accept = trio.SocketListener.accept
    gone = []

    def getpeername() -> None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    async def accepted(listener: trio.SocketListener) -> trio.SocketStream:
        stream = await accept(listener)
        if not gone:
            gone.append(stream)
            monkeypatch.setattr(stream.socket, "getpeername", getpeername)
        return stream

    async def do(port: int) -> None:
        with pytest.raises((http.client.HTTPException, OSError)):
            await get(port, "/metrics")
        assert await get(port, "/metrics") == (200, "x 1\n")
        assert len(gone) == 1

    monkeypatch.setattr(trio.SocketListener, "accept", accepted)
    serving(Told(), do)
