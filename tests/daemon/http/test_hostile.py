"""Clients that mean no good, or do not know better: nobody else notices."""

from __future__ import annotations

import errno
import random
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from batchns.daemon.http import Limits, Settings
from batchns.daemon.http.server import _House

from .fake import FakeService, Running, running
from .raw import all_of, answer_of, ask, connect, eventually, read_until

GOOD = b"GET /v1/jobs/1 HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(200), 400),  # TLS
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /v1/you\r\n\r\n", 400),
        (b"G\0T /v1/you HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /v1/you HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400),
        (b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /v1/you HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20_000, 431),
        (b"GET /v1/you HTTP/1.1\r\n" + b"".join(b"A%d: b\r\n" % number for number in range(5000)), 431),
        (b"GET /" + b"a" * 20_000, 431),
        (b"\r\n" * 20_000, 400),
        (b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", 413),
        (b"POST /v1/actions HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n", 413),
        (b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 8388609\r\n\r\n", 413),
        (
            b"POST /v1/actions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 17,
            413,
        ),
    ],
)  # fmt: skip
def test_what_is_malformed_is_answered_and_ends_the_connection(server: Running, data: bytes, status: int) -> None:
    with connect(server.socket) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # it may have heard enough
            connection.sendall(data)
        answer = answer_of(connection)
        assert answer.status == status
        assert answer.headers["connection"] == "close"
        assert set(answer.json) == {"code", "message", "hint"}
        assert all_of(connection) == b""
    assert ask(server.socket, "GET", "/v1/jobs/1").status == 200


@pytest.mark.parametrize(
    ("number", "tries", "said"),
    [(errno.EMFILE, 2990, 5), (errno.EIO, 2990, 5), (errno.EBADF, 2990, 5), (errno.ECONNABORTED, 10_000, 0)],
)
def test_where_nobody_can_be_let_in_it_neither_spins_nor_fills_the_log(
    service: FakeService, tmp_path: Path, number: int, tries: int, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    """For five minutes, or 10 000 connections that are gone again."""
    tried = 0

    class Broken:
        async def accept(self) -> object:
            nonlocal tried
            if (tried := tried + 1) >= tries:
                await trio.sleep_forever()
            raise OSError(number, "no")

    async def main() -> None:
        house = _House(service, Settings(socket=tmp_path / "socket"))
        async with trio.open_nursery() as guests:
            with trio.move_on_after(301):
                await house.accept(Broken(), guests, house.local)
        assert tried == tries

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(caplog.records) == said


def mutated(source: random.Random) -> bytes:
    """A request with some of its bytes changed, repeated, cut or mixed with others."""
    seeds = [
        GOOD,
        b'POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 26\r\n\r\n{"files":[{"text":"abc"}]}',
        b"POST /v1/actions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"GET /v1/jobs?select=%41&limit=5&state=X HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
        b'POST /v1/jobs/1/exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: batchns-exec\r\n'
        b"Content-Length: 2\r\n\r\n{}\x04\x00\x00\x00\x01\x0f",
        b"GET /v1/events?after=0a-5 HTTP/1.1\r\nHost: x\r\nLast-Event-ID: a-1\r\n\r\n",
    ]  # fmt: skip
    data = bytearray(source.choice(seeds))
    for _ in range(source.randint(1, 6)):
        place = source.randrange(len(data) + 1)
        match source.randrange(5):
            case 0:
                data[place : place + 1] = bytes([source.randrange(256)])
            case 1:
                del data[place : place + source.randint(1, 8)]
            case 2:
                data[place:place] = source.randbytes(source.randint(1, 8))
            case 3:
                data[place:place] = data[place : place + source.randint(1, 20)]
            case 4:
                data[place:place] = source.choice([b"\r\n", b"\0", b":", b" ", b"%00", b"\xff", b'"', b"{", b"[" * 50])
        data = data or bytearray(b"x")
    return bytes(data)


def bombard(server: Running, service: FakeService, count: int, seed: int) -> set[int]:
    """The statuses of what was answered."""
    source = random.Random(seed)
    statuses: set[int] = set()
    for _ in range(count):
        with connect(server.socket, 20.0) as connection:
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(mutated(source))
                connection.shutdown(socket.SHUT_WR)
            data = all_of(connection)
        for line in data.split(b"\r\n"):
            if line.startswith(b"HTTP/1.1 "):
                statuses.add(int(line[9:12]))
        service.asked.clear()
    return statuses


def memory() -> int:
    """Bytes of this process, server included, that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize(
    "count", [500, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)  # fmt: skip
def test_garbage_breaks_nothing(
    server: Running, service: FakeService, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    """No defect, no crash, nothing left over."""
    bombard(server, service, count // 10, seed=1)
    before = memory()
    statuses = bombard(server, service, count, seed=2)
    assert 400 in statuses
    assert not statuses & {500, 503}
    assert [record for record in caplog.records if record.name.startswith("batchns")] == []
    assert memory() - before < 8 << 20
    assert ask(server.socket, "GET", "/v1/jobs/1").status == 200
    assert eventually(lambda: service.streams == 0)


def test_slow_senders_are_cut_off_and_hold_up_nobody(service: FakeService, tmp_path: Path) -> None:
    """A byte now and then, of the head or of the body; the clock runs from the first one."""
    with running(service, tmp_path, Limits(request=0.5, idle=0.5)) as server:
        slow = [connect(server.socket) for _ in range(20)]
        begun = time.monotonic()
        for number, connection in enumerate(slow):
            head = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            connection.sendall(head if number % 2 else head + b"\r\n{")
        before = time.monotonic()
        assert ask(server.socket, "GET", "/v1/jobs/1").status == 200
        assert time.monotonic() - before < 0.4
        for _ in range(3):
            time.sleep(0.1)
            for connection in slow:
                connection.sendall(b"x")
        for connection in slow:
            assert answer_of(connection).status == 408
            connection.close()
        assert time.monotonic() - begun < 5


def test_an_idle_connection_is_closed_without_a_word(service: FakeService, tmp_path: Path) -> None:
    with running(service, tmp_path, Limits(idle=0.2)) as server, connect(server.socket) as connection:
        connection.sendall(GOOD)
        assert answer_of(connection).status == 200
        assert connection.recv(1) == b""


def test_a_user_has_so_many_connections_and_others_theirs(service: FakeService, tmp_path: Path) -> None:
    """Here root's own bound, which is the users' with its reserve."""
    with running(service, tmp_path, Limits(per_user=3, reserve=2, idle=60)) as server:
        held = [connect(server.socket) for _ in range(5)]
        for connection in held:
            connection.sendall(GOOD)
            assert answer_of(connection).status == 200
        with connect(server.socket) as refused:
            answer = answer_of(refused)
        assert (answer.status, answer.json["code"]) == (503, "unavailable")
        held.pop().close()
        assert eventually(lambda: ask(server.socket, "GET", "/v1/jobs/1").status == 200)
        for connection in held:
            connection.close()


def test_a_user_s_questions_take_turns(service: FakeService, tmp_path: Path) -> None:
    """Those that are one too many wait, unread by the service; each gets its answer."""
    with running(service, tmp_path, Limits(turns=2)) as server:
        service.hold = trio.Event()
        asking = [connect(server.socket) for _ in range(5)]
        for connection in asking:
            connection.sendall(b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\n\r\n")
        assert eventually(lambda: len(service.asked) == 2)
        time.sleep(0.2)
        assert len(service.asked) == 2
        server.call(service.hold.set)
        for connection in asking:
            assert answer_of(connection).status == 200
            connection.close()


def test_a_stream_takes_no_turn_from_then_on(service: FakeService, tmp_path: Path) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: batchns-exec\r\nContent-Length: 2\r\n\r\n{}"
    streams = (
        b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/jobs/1/logs?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/jobs/1/exec HTTP/1.1\r\nHost: x\r\n" + upgrade,
    )
    held = []
    with running(service, tmp_path, Limits(turns=1)) as server:
        for request in streams * 2:
            connection = connect(server.socket)
            connection.sendall(request)
            read_until(connection, b"\r\n\r\n")
            held.append(connection)
        assert service.streams == len(held)
        assert ask(server.socket, "GET", "/v1/you").status == 200
        for connection in held:
            connection.close()


def test_an_answer_that_nobody_reads_ends_its_connection(tmp_path: Path) -> None:
    service = FakeService(1000)
    with running(service, tmp_path, Limits(write=0.3)) as server, connect(server.socket) as stalled:
        stalled.sendall(b"GET /v1/jobs?limit=1000 HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(1.0)
        assert not all_of(stalled).endswith(b'"next":""}')


def test_stalled_readers_of_streams_hold_up_neither_others_nor_the_end(tmp_path: Path) -> None:
    service = FakeService()
    with running(service, tmp_path) as server:
        stalled = []
        for target in (b"/v1/jobs/endless/logs", b"/v1/jobs/endless/logs?follow=1", b"/v1/events", b"/v1/events"):
            connection = connect(server.socket)
            connection.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % target)
            stalled.append(connection)
        assert eventually(lambda: service.streams == 4)
        time.sleep(0.2)
        before = time.monotonic()
        for _ in range(20):
            assert ask(server.socket, "GET", "/v1/jobs/1").status == 200
        assert time.monotonic() - before < 2
        before = time.monotonic()
        server.stop()
        assert time.monotonic() - before < 1
        assert service.streams == 0
        for connection in stalled:
            connection.close()


def test_the_end_waits_for_what_is_being_answered_within_a_bound(service: FakeService, tmp_path: Path) -> None:
    """A question that is never answered does not keep the daemon, one that is answered gets its answer."""
    with running(service, tmp_path, Limits(grace=0.5)) as server:
        service.hold = trio.Event()
        connection = connect(server.socket)
        connection.sendall(b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\n\r\n")
        assert eventually(lambda: len(service.asked) == 1)
        threading.Timer(0.2, lambda: server.call(service.hold.set)).start()
        before = time.monotonic()
        server.stop()
        assert 0.15 < time.monotonic() - before < 2
        assert answer_of(connection).status == 200
        assert not server.socket.exists()

    with running(service, tmp_path, Limits(grace=0.3)) as server:
        service.hold = trio.Event()
        connection = connect(server.socket)
        connection.sendall(b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\n\r\n")
        assert eventually(lambda: len(service.asked) == 2)
        before = time.monotonic()
        server.stop()
        assert time.monotonic() - before < 2
        assert all_of(connection) == b""


def test_the_end_of_an_idle_server_is_quick(server: Running) -> None:
    held = [connect(server.socket) for _ in range(30)]
    for connection in held:
        connection.sendall(GOOD)
        read_until(connection, b"submitted")
    before = time.monotonic()
    server.stop()
    assert time.monotonic() - before < 0.5
    assert all(connection.recv(1) == b"" for connection in held)


def test_a_flood_of_one_connection_each_is_survived(server: Running) -> None:
    """Fifty clients at once, each with a hundred questions."""
    failures: list[object] = []

    def client() -> None:
        try:
            with connect(server.socket) as connection:
                for _ in range(100):
                    connection.sendall(GOOD)
                    if answer_of(connection).status != 200:
                        failures.append("status")
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=client) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
