"""Logs, events, and processes in jobs: what goes on until somebody ends it."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from math import inf
from pathlib import Path

import pytest
import trio
import trio.testing

from batchns.daemon.http import Limits
from batchns.daemon.http.execution import serve_execution
from batchns.daemon.http.routes import Call
from batchns.daemon.service import Peer, StateEvent
from batchns.wire import codec, frames
from batchns.wire import types as wire

from .fake import FakeService, Running, row, running
from .raw import all_of, answer_of, ask, connect, eventually, read_until

EXEC = "POST /v1/jobs/{}/exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: batchns-exec\r\n"
DEAF = '{"command":["deaf"]}'
FLOOD = '{"command":["flood"]}'


def event(number: int) -> StateEvent:
    return StateEvent(number=number, job_id="7", row=codec.encode(row(7, state="RUNNING")))


def listen(server: Running, target: str = "/v1/events", *headers: str) -> tuple[socket.socket, bytes]:
    connection = connect(server.socket)
    connection.sendall("\r\n".join([f"GET {target} HTTP/1.1", "Host: x", *headers, "", ""]).encode())
    return connection, read_until(connection, b"\n\n\r\n")


def push(connection: socket.socket, most: int) -> int:
    """Send stdin until there is no room for more, or so many bytes; how many it were."""
    connection.settimeout(1.0)
    sent = 0
    with suppress(TimeoutError):
        while sent < most:
            sent += connection.send(frames.frame(frames.STDIN, bytes(60_000)))
    return sent


def by_hand(service: FakeService, early: bytes, seconds: float, late: bytes = b"") -> tuple[list[int], list[int]]:
    """Kinds of the frames that are sent, and sent to their end, to a client that takes so long for each; it says
    something `late`.
    """
    begun, whole = [], []

    class Slow:
        socket = None

        async def send_all(self, data: bytes) -> None:
            begun.append(data[0])
            await trio.sleep(seconds)
            whole.append(data[0])

        async def receive_some(self, most: int) -> bytes:
            await trio.sleep(10 if late else inf)
            return late

    async def switch() -> tuple[object, bytes]:
        return Slow(), early

    peer = Peer(uid=0, gid=0, user="root")
    call = Call(peer=peer, job_id="1", query={}, body=wire.ExecRequest(command=("a",)))
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(serve_execution, service, call, lambda protocol: switch, clock=clock)
    return begun, whole


def frames_of(connection: socket.socket) -> list[tuple[int, bytes]]:
    """Until the end, after the head."""
    _, _, rest = all_of(connection).partition(b"\r\n\r\n")
    return list(frames.Frames().feed(rest))


class TestEvents:
    def test_the_head_comes_at_once_and_nothing_is_missed_from_then_on(
        self, server: Running, service: FakeService
    ) -> None:
        connection, head = listen(server)
        assert b"content-type: text/event-stream" in head
        server.call(service.tell, event(5))
        got = read_until(connection, b"\n\n\r\n")
        lines = got.split(b"\r\n")[1].splitlines()
        assert lines[0].startswith(b"id: ") and lines[0].endswith(b"-5")
        assert lines[1] == b"event: job"
        assert json.loads(lines[2].removeprefix(b"data: "))["state"] == "RUNNING"
        connection.close()
        assert eventually(lambda: service.streams == 0)

    def test_the_last_id_is_honoured_in_the_query_and_in_the_header(
        self, server: Running, service: FakeService
    ) -> None:
        connection, _ = listen(server)
        server.call(service.tell, event(5))
        last = read_until(connection, b"\n\n\r\n").split(b"id: ")[1].splitlines()[0].decode()
        for target, headers in ((f"/v1/events?after={last}&select=7", []), ("/v1/events", [f"Last-Event-ID: {last}"])):
            again, head = listen(server, target, *headers)
            assert b"reset" not in head
            again.close()
        assert service.asked == [((), None), (("7",), 5), ((), 5)]

    def test_an_id_of_another_life_of_the_daemon_is_a_reset(self, server: Running, service: FakeService) -> None:
        """Its numbers begin anew: 5 of then is not 5 of now."""
        connection, head = listen(server, "/v1/events?after=00ff00ff-5")
        assert b"event: reset\ndata:\n\n" in head
        assert service.asked == [((), None)]
        connection.close()

    def test_events_that_are_not_known_any_more_are_a_reset(self, server: Running, service: FakeService) -> None:
        connection, _ = listen(server)
        server.call(service.tell, None)
        assert b"event: reset\ndata:\n\n" in read_until(connection, b"\n\n\r\n")
        connection.close()

    def test_silence_is_broken_by_comments(self, service: FakeService, tmp_path: Path) -> None:
        with running(service, tmp_path, Limits(heartbeat=0.05)) as server:
            connection, _ = listen(server)
            for _ in range(3):
                assert b":\n\n" in read_until(connection, b"\n\n\r\n")
            connection.close()
            assert eventually(lambda: service.streams == 0)


class TestLogs:
    def test_what_was_asked_for_is_passed_on(self, server: Running, service: FakeService) -> None:
        answer = ask(server.socket, "GET", "/v1/jobs/7/logs?stream=stderr&attempt=2&tail=0&follow=0")
        assert (answer.status, answer.body) == (200, b"one\ntwo\n")
        assert service.asked == [("7", "stderr", 2, 0, False)]

    def test_a_reader_that_goes_away_ends_the_service_s_part(self, server: Running, service: FakeService) -> None:
        connection = connect(server.socket)
        connection.sendall(b"GET /v1/jobs/7/logs?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        read_until(connection, b"two\n")
        assert service.streams == 1
        connection.close()
        assert eventually(lambda: service.streams == 0)

    def test_a_log_that_breaks_off_has_no_end(
        self, server: Running, service: FakeService, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The last chunk is missing: no client takes it for complete."""
        connection = connect(server.socket)
        connection.sendall(b"GET /v1/jobs/break/logs HTTP/1.1\r\nHost: x\r\n\r\n")
        got = all_of(connection)
        assert b"two\n" in got
        assert not got.endswith(b"0\r\n\r\n")
        assert [record.getMessage() for record in caplog.records] == ["defect in GET /v1/jobs/break/logs"]

    def test_a_connection_can_be_used_again_after_a_log(self, server: Running) -> None:
        with connect(server.socket) as connection:
            for _ in range(3):
                connection.sendall(b"GET /v1/jobs/7/logs HTTP/1.1\r\nHost: x\r\n\r\n")
                assert answer_of(connection).body == b"one\ntwo\n"


class TestExecution:
    def start(self, server: Running, job: str = "1", body: str = "{}", early: bytes = b"") -> socket.socket:
        connection = connect(server.socket)
        head = EXEC.format(job) + f"Content-Length: {len(body)}\r\n\r\n{body}"
        connection.sendall(head.encode() + early)
        return connection

    def test_frames_go_both_ways(self, server: Running, service: FakeService) -> None:
        body = '{"command":["a","b"],"terminal":[24,80]}'
        early = frames.frame(frames.STDIN, b"before the answer")
        connection = self.start(server, body=body, early=early)
        got = read_until(connection, b"before the answer")
        assert got.startswith(b"HTTP/1.1 101 ")
        assert b"upgrade: batchns-exec\r\n" in got
        connection.sendall(frames.resize(50, 132) + frames.frame(frames.STDIN))
        rest = list(frames.Frames().feed(all_of(connection)))
        assert rest == [(frames.STDERR, b"(50, 132)"), (frames.END, b'{"exit_code":2,"signal":null}')]
        assert eventually(lambda: service.streams == 0)

    def test_a_signal_reaches_it(self, server: Running) -> None:
        connection = self.start(server, early=frames.frame(frames.SIGNAL, b"\x0f"))
        assert frames_of(connection) == [(frames.END, b'{"exit_code":null,"signal":15}')]

    def test_it_ends_with_its_client(self, server: Running, service: FakeService) -> None:
        connection = self.start(server)
        read_until(connection, b"\r\n\r\n")
        assert service.streams == 1
        connection.close()
        assert eventually(lambda: service.streams == 0)

    @pytest.mark.parametrize("most", [1, 16 << 20], ids=["some", "all that it takes"])
    def test_it_ends_with_its_client_though_it_does_not_read(
        self, server: Running, service: FakeService, most: int
    ) -> None:
        connection = self.start(server, body=DEAF)
        read_until(connection, b"\r\n\r\n")
        assert push(connection, most) <= 4 << 20  # the daemon holds no more than a few frames
        connection.close()
        assert eventually(lambda: service.streams == 0)

    def test_signals_and_sizes_overtake_stdin_that_is_not_read(self, server: Running) -> None:
        stdin = frames.frame(frames.STDIN, bytes(100_000))
        connection = self.start(server, body=DEAF, early=stdin + frames.frame(frames.SIGNAL, b"\x0f"))
        assert frames_of(connection) == [(frames.END, b'{"exit_code":null,"signal":15}')]

    def test_whoever_sends_faster_than_it_reads_loses_nothing(self, server: Running) -> None:
        connection = self.start(server, body='{"command":["a"]}')
        given = [bytes([number]) * 100_000 for number in range(80)]

        def send() -> None:
            for data in given:
                connection.sendall(frames.frame(frames.STDIN, data))
            connection.sendall(frames.frame(frames.STDIN))

        sender = threading.Thread(target=send)
        sender.start()
        got = frames_of(connection)
        sender.join()
        assert [payload for kind, payload in got if kind == frames.STDOUT] == given
        assert got[-1] == (frames.END, b'{"exit_code":1,"signal":null}')

    def test_a_reader_that_stalls_is_told_the_end_all_the_same(self, service: FakeService) -> None:
        early = frames.frame(frames.STDIN, b"a") + frames.frame(frames.STDIN)
        assert by_hand(service, early, 1000)[1] == [frames.STDOUT, frames.STDERR, frames.END]

    @pytest.mark.parametrize(("seconds", "told"), [(0, True), (inf, False)])
    def test_nothing_follows_a_frame_that_was_cut_off(
        self, service: FakeService, seconds: float, told: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        early = frames.frame(frames.STDIN, b"a")
        assert (frames.FAILURE in by_hand(service, early, seconds, frames.frame(9))[0]) is told
        assert caplog.records == []

    def test_a_client_that_leaves_while_output_flows_is_no_defect(
        self, server: Running, service: FakeService, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(5):
            connection = self.start(server, body=FLOOD)
            read_until(connection, b"\r\n\r\n")
            connection.close()
            assert eventually(lambda: service.streams == 0)
        server.stop()
        assert caplog.records == []

    def test_after_the_101_no_other_answer_is_tried(
        self, server: Running, service: FakeService, caplog: pytest.LogCaptureFixture
    ) -> None:
        connection = self.start(server, body='{"command":["late"]}', early=frames.frame(frames.STDIN))
        assert frames_of(connection)[-1] == (frames.END, b'{"exit_code":1,"signal":null}')
        server.stop()
        assert [record.getMessage() for record in caplog.records] == ["defect in POST /v1/jobs/1/exec"]

    def test_what_is_refused_is_refused_in_http(self, server: Running) -> None:
        answer = answer_of(self.start(server, job="2"))
        assert (answer.status, answer.json["message"]) == (409, "job 2 does not run")

    def test_who_does_not_ask_for_frames_is_told_to(self, server: Running, service: FakeService) -> None:
        answer = ask(server.socket, "POST", "/v1/jobs/1/exec", {})
        assert (answer.status, answer.json["code"]) == (400, "invalid")
        assert "Upgrade: batchns-exec" in answer.json["hint"]
        assert service.asked == []  # nothing has been started for them

    @pytest.mark.parametrize(
        ("frame", "message"),
        [
            (frames.frame(9), "a frame of kind 9 and 0 bytes"),
            (frames.frame(frames.RESIZE, b"x"), "a frame of kind 3 and 1 bytes"),
            (frames.frame(frames.SIGNAL, b"\xff"), "a frame of kind 4 and 1 bytes"),
            (b"\x00\xff\xff\xff\xff", "a frame of 4294967295 bytes"),
            (frames.frame(frames.STDIN, b"break"), "the daemon could not answer this"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_later_is_told_in_a_frame(
        self, server: Running, service: FakeService, frame: bytes, message: str
    ) -> None:
        connection = self.start(server, early=frame)
        ((kind, payload),) = frames_of(connection)
        assert kind == frames.FAILURE
        assert json.loads(payload)["message"] == message
        assert eventually(lambda: service.streams == 0)
