"""Who asks is told by the kernel: as seen by processes of other users."""

from __future__ import annotations

import grp
import json
import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from batchns.daemon.http import Limits
from batchns.daemon.http.peers import Peers
from batchns.daemon.service import Peer

from .fake import FakeService, Running, running
from .raw import all_of, answer_of, ask, connect, eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")

NOBODY = 65534
STRANGER = 12345  # in no user database


def as_user(uid: int, gid: int, do: Callable[[], Any]) -> Any:
    """What `do` returns in a process of that user, as JSON."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            os.write(writing, json.dumps(do()).encode() + b"\n")
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.readline()
    os.waitpid(child, 0)
    return json.loads(data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One that other users may enter, as /run/batchns is; pytest's own are not."""
    for part in (tmp_path, *tmp_path.parents):
        if part != Path("/tmp") and part.is_relative_to("/tmp"):
            part.chmod(0o755)
    return tmp_path


@pytest.fixture
def server(service: FakeService, folder: Path) -> Any:
    with running(service, folder) as server:
        yield server


def test_each_user_is_who_they_are(server: Running) -> None:
    assert pwd.getpwuid(NOBODY).pw_name == "nobody"
    for uid, user in ((NOBODY, "nobody"), (STRANGER, str(STRANGER)), (0, "root")):
        you = as_user(uid, uid, lambda: ask(server.socket, "GET", "/v1/you").json)
        assert (you["uid"], you["user"], you["admin"]) == (uid, user, uid == 0)


def test_what_a_request_says_of_its_sender_is_not_believed(server: Running, service: FakeService) -> None:
    headers = ("X-User: root", "X-Uid: 0", "Authorization: Basic cm9vdDo=", "X-Forwarded-User: root")
    you = as_user(STRANGER, STRANGER, lambda: ask(server.socket, "GET", "/v1/you", None, *headers).json)
    assert (you["uid"], you["admin"]) == (STRANGER, False)


def test_what_only_administrators_may_is_refused_to_others(server: Running) -> None:
    answer = as_user(NOBODY, NOBODY, lambda: ask(server.socket, "POST", "/v1/node/drain", {}).json)
    assert answer["code"] == "forbidden"
    assert ask(server.socket, "POST", "/v1/node/drain", {}).status == 200


@pytest.mark.parametrize("named", ["user", "group"])
def test_administrators_are_named_by_user_or_group(service: FakeService, folder: Path, named: str) -> None:
    group = grp.getgrgid(NOBODY).gr_name
    settings = {"admins": frozenset({"nobody"})} if named == "user" else {"admin_groups": frozenset({group})}
    with running(service, folder, **settings) as server:
        assert as_user(NOBODY, NOBODY, lambda: ask(server.socket, "GET", "/v1/you").json)["admin"] is True
        assert as_user(STRANGER, NOBODY, lambda: ask(server.socket, "GET", "/v1/you").json)["admin"] is False


def test_with_sudo_s_like_it_is_the_user_of_now(server: Running) -> None:
    """A process that has changed its user before it connects is the new one."""
    code = f"""
import http.client, socket
s = socket.socket(socket.AF_UNIX); s.connect({str(server.socket)!r})
s.sendall(b"GET /v1/you HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
r = http.client.HTTPResponse(s); r.begin(); print(r.read().decode())
"""
    run = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable, "-I", "-c", code]
    if not os.access(sys.executable, os.X_OK) or Path(sys.executable).resolve().is_relative_to("/root"):
        run[6] = "/usr/bin/python3"
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=30)
    assert json.loads(done.stdout)["user"] == "nobody"


def test_a_slow_user_database_holds_up_nobody_else(
    service: FakeService, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked in a thread, and its answer is remembered."""
    looked_up = []

    def slow(self: Peers, uid: int, gid: int) -> Peer:
        looked_up.append(uid)
        if uid == STRANGER:
            time.sleep(1.0)
        return Peer(uid=uid, gid=gid, user=f"u{uid}")

    monkeypatch.setattr(Peers, "_look_up", slow)
    with running(service, folder) as server:
        child = os.fork()
        if child == 0:
            try:
                os.setuid(STRANGER)
                ask(server.socket, "GET", "/v1/you")
            finally:
                os._exit(0)
        while STRANGER not in looked_up:
            time.sleep(0.01)
        before = time.monotonic()
        for _ in range(5):
            assert ask(server.socket, "GET", "/v1/you").json["user"] == "u0"
        assert time.monotonic() - before < 0.8
        os.waitpid(child, 0)
    assert looked_up.count(0) == 1


def test_what_is_remembered_of_users_is_bounded_in_time() -> None:
    async def main() -> None:
        peers = Peers(frozenset(), frozenset())
        first = await peers.by_uid(0, 0)
        assert await peers.by_uid(0, 0) is first
        clock.jump(11.0)
        assert await peers.by_uid(0, 0) is not first
        assert await peers.by_name("no such user") is None
        assert (await peers.by_name("root")) == first

    clock = trio.testing.MockClock()
    trio.run(main, clock=clock)


def test_one_user_s_connections_are_not_the_others(service: FakeService, folder: Path) -> None:
    """Whoever has all of theirs is refused the next; when all are taken, root still gets in."""
    with running(service, folder, Limits(per_user=3, connections=4, idle=60)) as server:

        def hold() -> list[int]:
            held = [connect(server.socket) for _ in range(5)]
            for connection in held:
                with suppress(BrokenPipeError):
                    connection.sendall(b"GET /v1/you HTTP/1.1\r\nHost: x\r\n\r\n")
            statuses = [answer_of(connection).status for connection in held]
            if os.fork() == 0:  # keeps them until the server ends
                os.close(0)
                for connection in held:
                    all_of(connection)
                os._exit(0)
            return statuses

        assert as_user(STRANGER, STRANGER, hold) == [200, 200, 200, 503, 503]
        assert as_user(NOBODY, NOBODY, hold) == [200, 503, 503, 503, 503]
        assert ask(server.socket, "GET", "/v1/you").status == 200


def flood(socket: Path) -> None:
    with connect(socket, 60) as connection:
        while True:
            connection.sendall(b"GET /v1/jobs?limit=1000 HTTP/1.1\r\nHost: x\r\n\r\n")
            answer_of(connection)


def test_a_flood_of_one_user_holds_up_nobody_else(service: FakeService, folder: Path) -> None:
    """A user with all their connections asks for the largest page again and again; others wait for a few of these."""
    service.rows *= 300
    with running(service, folder) as server:
        flooders = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                try:
                    os.setuid(STRANGER)
                    threads = [threading.Thread(target=flood, args=(server.socket,)) for _ in range(30)]
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
                finally:
                    os._exit(0)
            flooders.append(child)
        try:
            assert eventually(lambda: len(service.asked) > 100)
            times = []
            for _ in range(20):
                before = time.monotonic()
                assert ask(server.socket, "GET", "/v1/you").status == 200
                times.append(time.monotonic() - before)
            assert sorted(times)[10] < 0.5
        finally:
            for child in flooders:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
