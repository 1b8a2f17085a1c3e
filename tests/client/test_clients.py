"""Both clients against a server: the same questions, the same answers; and what they do when it goes away."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from batchns.client import aio, sync
from batchns.client.errors import ApiError, Lost, NoDaemon, unreachable
from batchns.daemon.http import Limits
from batchns.daemon.service import HistoryQuery, JobQuery, StateEvent
from batchns.errors import UserError
from batchns.wire import codec
from batchns.wire import types as wire
from tests.daemon.http.fake import FakeService, Running, row, running
from tests.daemon.http.raw import eventually


@pytest.fixture
def service() -> FakeService:
    return FakeService(2500)


@pytest.fixture
def server(service: FakeService, tmp_path: Path) -> Iterator[Running]:
    with running(service, tmp_path) as server:
        yield server


SUBMIT = wire.SubmitRequest(files=(wire.JobFile(text="x", source="/ä/a.toml", options={"cpus": 2}),))
ACT = wire.ActRequest(verb="cancel", jobs=("7", "train"), signal="TERM")
QUESTIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], bool]]] = {
    "you": (lambda client: client.you(), lambda you: you.user == "root"),
    "submit": (lambda client: client.submit(SUBMIT), lambda done: done.jobs[0].name == "train"),
    "job": (lambda client: client.job("2"), lambda job: job.row == row(2) and job.happened[0].event == "submitted"),
    "why": (lambda client: client.why("2"), lambda why: why.lacks == {"resource": "cpus"}),
    "act": (lambda client: client.act(ACT), lambda done: [one.id for one in done.jobs] == ["7", "train"]),
    "usage": (lambda client: client.usage(names=["a"], since=5), lambda usage: usage.rows[0].jobs == 2),
    "node": (lambda client: client.node(), lambda node: node.total == {"cpus": 4.0}),
    "queues": (lambda client: client.queues(), lambda queues: queues.queues[0].name == "default"),
    "drain": (lambda client: client.drain("disk"), lambda node: node.detail == "disk"),
    "resume": (lambda client: client.resume(), lambda node: node.state == "open"),
}


def in_trio(socket_path: Path, body: Callable[[aio.Client], Any], **options: Any) -> Any:
    async def main() -> Any:
        async with aio.Client(socket_path, **options) as client:
            return await body(client)

    return trio.run(main)


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_has_its_answer(server: Running, name: str) -> None:
    ask, right = QUESTIONS[name]
    with sync.Client(server.socket) as client:
        answer = ask(client)
        assert right(answer)
        assert ask(client) is not None  # on the same connection
    assert type(in_trio(server.socket, ask)) is type(answer)


def test_requests_arrive_as_they_were_made(server: Running, service: FakeService) -> None:
    for ask in (QUESTIONS["submit"][0], QUESTIONS["act"][0]):
        ask(sync.Client(server.socket))
        in_trio(server.socket, ask)
    assert service.asked == [SUBMIT, SUBMIT, ACT, ACT]


def test_all_pages_come_one_after_the_other(server: Running, service: FakeService) -> None:
    with sync.Client(server.socket) as client:
        assert [one.id for one in client.jobs(states=["PENDING"])] == [str(n) for n in range(1, 2501)]
        assert [query.after for query in service.asked] == ["", "1000", "2000"]  # type: ignore[attr-defined]
        assert len(client.jobs_page(["7"], user="a", queue="q", ended=True, limit=10, after="5").jobs) == 10
        assert service.asked[-1] == JobQuery(select=("7",), user="a", queue="q", ended=True, limit=10, after="5")
        assert [one.id for one in client.history(user="*", names=["a"], page=7)] == ["1"]
        assert service.asked[-1] == HistoryQuery(user="*", names=("a",), limit=7)

    async def rows(client: aio.Client) -> list[str]:
        return [one.id async for one in client.jobs(page=500)]

    assert len(in_trio(server.socket, rows)) == 2500


def test_a_refusal_is_an_error_with_its_words(server: Running) -> None:
    with sync.Client(server.socket) as client:
        with pytest.raises(ApiError, match="there is no job 9999 that you may see - see batchns ps") as caught:
            client.job("9999")
        assert (caught.value.code, caught.value.status) == ("not_found", 404)
        with pytest.raises(ApiError, match="there is no job 404"):
            client.logs("404")
        with pytest.raises(ApiError, match="job 2 does not run"):
            client.execute("2")
        assert client.you().uid == 0
    with pytest.raises(ApiError, match="there is no job a/b"):
        in_trio(server.socket, lambda client: client.job("a/b"))


def test_logs_come_in_pieces(server: Running, service: FakeService) -> None:
    with sync.Client(server.socket) as client, client.logs("7", "stderr", tail=0) as log:
        assert b"".join(log) == b"one\ntwo\n"
    assert service.asked == [("7", "stderr", None, 0, False)]

    async def follow(client: aio.Client) -> bytes:
        got = b""
        async with client.logs("7", follow=True) as log:
            async for piece in log:
                got += piece
                if got.endswith(b"two\n"):
                    return got
        return got

    assert in_trio(server.socket, follow) == b"one\ntwo\n"
    assert eventually(lambda: service.streams == 0)


def test_a_log_that_breaks_off_is_an_error(server: Running) -> None:
    with sync.Client(server.socket) as client, client.logs("break") as log, pytest.raises(Lost, match="broke"):
        list(log)

    async def read(client: aio.Client) -> None:
        async with client.logs("break") as log:
            async for _ in log:
                pass

    with pytest.raises(Lost):
        in_trio(server.socket, read)


def test_events_are_heard_from_the_moment_the_stream_is_open(server: Running, service: FakeService) -> None:
    event = StateEvent(number=5, job_id="7", row=codec.encode(row(7)))
    with sync.Client(server.socket) as client, client.events(["7"]) as events:
        server.call(service.tell, event)
        server.call(service.tell, None)
        position, job = next(events)  # type: ignore[misc]
        assert job == row(7)
        assert isinstance(next(events), sync.Reset)
        with client.events(after=position):
            assert service.asked[-1] == ((), 5)
        with client.events(after="00ff-5") as again:
            assert isinstance(next(again), sync.Reset)

    async def main() -> Any:
        async with aio.Client(server.socket) as client, client.events() as events:
            await trio.to_thread.run_sync(partial(server.call, service.tell, event))
            return await anext(events)

    assert trio.run(main)[1] == row(7)


def test_a_process_in_a_job(server: Running, service: FakeService) -> None:
    with sync.Client(server.socket) as client, client.execute("1", ["cat", "-"], terminal=(24, 80)) as process:
        assert select.select([process], [], [], 0.05)[0] == []
        process.write(b"hello")
        assert select.select([process], [], [], 5)[0] == [process]
        assert process.read() == ("stdout", b"hello")
        process.resize(50, 132)
        process.write(b"")
        assert process.read() == ("stderr", b"(50, 132)")
        assert process.read() is None
        assert process.wait() == (2, None)
        process.write(b"too late")

    async def signalled(client: aio.Client) -> Any:
        async with client.execute("1") as process:
            await process.write(bytes(3 << 20))
            got = 0
            while got < 3 << 20:
                piece = await process.read()
                assert piece is not None
                got += len(piece[1])
            await process.signal(15)
            return await process.wait()

    assert in_trio(server.socket, signalled) == (None, 15)
    assert eventually(lambda: service.streams == 0)


def test_a_process_ends_with_its_client(server: Running, service: FakeService) -> None:
    with sync.Client(server.socket) as client, client.execute("1"):
        assert service.streams == 1
    assert eventually(lambda: service.streams == 0)


@pytest.mark.parametrize("path", ["missing/s", "file"])
def test_where_nobody_listens_the_error_says_what_to_do(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    for ask in (
        lambda: sync.Client(tmp_path / path).you(),
        lambda: in_trio(tmp_path / path, lambda client: client.you()),
    ):
        with pytest.raises(NoDaemon, match=r"no batchns daemon answers at .* - start one: systemctl start batchns"):
            ask()


def test_a_connection_that_was_closed_idle_is_made_again(service: FakeService, tmp_path: Path) -> None:
    """Also for what must not be sent twice: it has not been sent once."""
    with running(service, tmp_path, Limits(idle=0.05)) as server:
        with sync.Client(server.socket) as client:
            for _ in range(3):
                client.submit(SUBMIT)
                time.sleep(0.15)

        async def slowly(client: aio.Client) -> None:
            for _ in range(3):
                await client.submit(SUBMIT)
                await trio.sleep(0.15)

        in_trio(server.socket, slowly)
    assert service.numbers == 6


class Cutter:
    """Reads a request, and closes without an answer, so many times; then answers."""

    def __init__(self, path: Path, cuts: int) -> None:
        self.requests: list[bytes] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._cuts = cuts
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                data = connection.recv(100_000)
                if not data:
                    continue
                self.requests.append(data)
                if len(self.requests) > self._cuts:
                    connection.sendall(b'HTTP/1.1 201 \r\nContent-Length: 11\r\nConnection: close\r\n\r\n{"jobs":[]}')

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.mark.parametrize("kind", ["sync", "aio"])
@pytest.mark.parametrize("key", ["", "abc"])
def test_a_submission_of_unknown_fate_is_sent_again_only_with_a_key(tmp_path: Path, kind: str, key: str) -> None:
    path = tmp_path / "s"
    cutter = Cutter(path, cuts=1)
    request = wire.SubmitRequest(key=key)

    def submit() -> wire.Submitted:
        if kind == "sync":
            return sync.Client(path).submit(request)
        made: wire.Submitted = in_trio(path, lambda client: client.submit(request))
        return made

    try:
        if key:
            assert submit() == wire.Submitted()
        else:
            with pytest.raises(Lost, match="look what was done"):
                submit()
        assert len(cutter.requests) == (2 if key else 1)
    finally:
        cutter.close()


@pytest.mark.parametrize("kind", ["sync", "aio"])
def test_a_daemon_that_does_not_answer_is_given_up_after_the_timeout(tmp_path: Path, kind: str) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "s"))
        deaf.listen()
        before = time.monotonic()
        with pytest.raises(Lost, match="has not answered in time"):
            if kind == "sync":
                sync.Client(tmp_path / "s", timeout=0.2).you()
            else:
                in_trio(tmp_path / "s", lambda client: client.you(), timeout=0.2)
        assert 0.15 < time.monotonic() - before < 5


def test_a_refusal_in_mid_sentence_is_heard(service: FakeService, tmp_path: Path) -> None:
    """The daemon refuses a body that is too large before it has come: it says so, and the client hears it."""
    request = wire.SubmitRequest(files=(wire.JobFile(text="x" * (20 << 20)),))
    with running(service, tmp_path) as server:
        with pytest.raises(ApiError, match="larger than"):
            sync.Client(server.socket).submit(request)
        with pytest.raises(ApiError, match="larger than"):
            in_trio(server.socket, lambda client: client.submit(request))


def test_many_tasks_may_ask_at_the_same_time(server: Running) -> None:
    async def main(client: aio.Client) -> int:
        right = 0

        async def ask(number: int) -> None:
            nonlocal right
            job = await client.job(str(number))
            right += job.row.id == str(number)

        async with trio.open_nursery() as nursery:
            for number in range(1, 51):
                nursery.start_soon(ask, number)
        return right

    assert in_trio(server.socket, main) == 50


def test_a_client_leaves_no_descriptor_open(server: Running) -> None:
    with sync.Client(server.socket) as client:
        client.you()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with sync.Client(server.socket) as client:
            client.you()
            with client.logs("1") as log:
                next(log)
            with pytest.raises(ApiError):
                client.logs("404")
    assert eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied"), "(Permission denied) - see whose it is: ls -l /s"),
        (BlockingIOError(11, "again"), "(it accepts no connection) - start one: "),
        (OSError("AF_UNIX path too long"), "(AF_UNIX path too long) - start one: "),
    ],
)
def test_why_nobody_can_be_reached_is_said(error: OSError, said: str) -> None:
    """Who may not connect need not start a daemon."""
    assert said in str(unreachable("/s", error))


def test_both_know_where_the_daemon_is() -> None:
    assert aio.Client().socket_path == sync.Client().socket_path == "/run/batchns/batchns.sock"


@pytest.mark.parametrize("text", ["\udcff", "a\ud800b"])
def test_what_is_not_utf_8_is_a_mistake_of_the_callers(tmp_path: Path, text: str) -> None:
    client = sync.Client(tmp_path / "none")
    for ask in (lambda: list(client.jobs((text,))), lambda: client.job(text), lambda: client.events((text,))):
        with pytest.raises(UserError, match="is not UTF-8"):
            ask()
