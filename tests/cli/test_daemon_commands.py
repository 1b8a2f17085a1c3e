"""The commands that ask the daemon: what they send, what they print, how they exit."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import trio
from attrs import evolve

from batchns.cli import complete as offers
from batchns.cli.act import report
from batchns.cli.completion import SHELLS, script
from batchns.cli.connect import socket_path
from batchns.cli.follow import ranges
from batchns.cli.main import COMMANDS, cli
from batchns.daemon.http import Limits
from batchns.daemon.service import JobQuery, Peer, Refused, RowsPage
from batchns.errors import UserError
from batchns.wire import types as wire

from .conftest import Batchns, Done
from .fake import NOW, SAID, Daemon, Running, many, serving


def started(server: Running, *arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "batchns", *arguments],
        env={**os.environ, "BATCHNS_SOCKET": str(server.socket)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def ended(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate(timeout=30)
    assert "Traceback" not in err
    return Done(process.returncode, out, err)


def until(condition: object, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it has not come to that"
        time.sleep(0.01)


def later(server: Running, fake: Daemon, seconds: float, job_id: str, state: str, **values: object) -> None:
    def end() -> None:
        fake.end(job_id, state, **values)

    threading.Timer(seconds, lambda: server.call(end)).start()


class TestSubmit:
    def test_a_file_goes_whole_with_where_it_is_and_what_was_typed(
        self, batchns: Batchns, server: object, fake: Daemon, tmp_path: Path
    ) -> None:
        path = tmp_path / "train.toml"
        path.write_text('name = "train"\ncommand = ["true"]\n')
        done = batchns("submit", str(path), "--cpus", "2", "--env", "A=1", "--hold", "--queue", "express")
        assert (done.code, done.out, done.err) == (0, "submitted job 101 (train)\n", "")
        request = fake.asked[-1]
        assert isinstance(request, wire.SubmitRequest)
        assert request.key
        assert request.files == (
            wire.JobFile(
                text=path.read_text(),
                source=str(path.resolve()),
                folder=str(tmp_path.resolve()),
                options={"cpus": "2", "env": ["A=1"], "hold": True, "queue": "express"},
            ),
        )

    def test_a_folder_is_its_files_and_standard_input_is_one(
        self, batchns: Batchns, server: object, fake: Daemon, tmp_path: Path
    ) -> None:
        jobs = tmp_path / "jobs"
        jobs.mkdir()
        for name in ("b.toml", "a.toml", "batchns.toml"):
            (jobs / name).write_text(f"# {name}")
        assert batchns("submit", str(jobs), "-", stdin="# stdin").code == 0
        request = fake.asked[-1]
        assert isinstance(request, wire.SubmitRequest)
        assert [one.text for one in request.files] == ["# a.toml", "# b.toml", "# stdin"]
        assert (request.files[2].source, request.files[2].folder) == ("", str(Path.cwd()))

    def test_a_command_is_a_job(
        self, batchns: Batchns, server: object, fake: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        done = batchns("submit", "--name", "x", "--array", "0-99", "--cwd", "sub", "--", "echo", "--wait", "-")
        assert done.out == "submitted job 101 (x): 100 tasks\n"
        request = fake.asked[-1]
        assert isinstance(request, wire.SubmitRequest)
        assert request.commands == (
            wire.CommandLine(
                options={
                    "name": "x", "array": "0-99", "cwd": str(tmp_path / "sub"), "command": ["echo", "--wait", "-"],
                },
                folder=str(tmp_path),
            ),
        )  # fmt: skip

    def test_parsable_is_ids_and_nothing_else(self, batchns: Batchns, server: object, tmp_path: Path) -> None:
        for name in "abc":
            (tmp_path / f"{name}.toml").write_text("#")
        assert batchns("submit", "--parsable", *map(str, sorted(tmp_path.glob("*.toml")))).out == "101\n102\n103\n"

    def test_of_many_jobs_their_number_is_said(self, batchns: Batchns, server: object, tmp_path: Path) -> None:
        for number in range(12):
            (tmp_path / f"{number}.toml").write_text("#")
        assert batchns("submit", *map(str, tmp_path.glob("*.toml"))).out == "submitted 12 jobs (101-112)\n"

    @pytest.mark.parametrize(("state", "code"), [("COMPLETED", 0), ("FAILED", 1), ("CANCELLED", 1)])
    def test_wait_tells_how_it_ended(
        self, batchns: Batchns, server: object, fake: Daemon, state: str, code: int
    ) -> None:
        fake.ends = lambda job: evolve(
            job, state=state, started=NOW, ended=NOW, running_seconds=2.0, reason="" if code == 0 else "it did"
        )
        done = batchns("submit", "--wait", "--name", "x", "--", "true")
        why = "" if code == 0 else ": it did"
        assert (done.code, done.out) == (code, f"submitted job 101 (x)\n101 x: {state} after 2s{why}\n")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "nothing to submit"),
            (("--",), "no command after --"),
            (("a.toml", "--", "true"), "do not mix"),
            (("no-such.toml",), "no-such.toml: cannot be read: No such file or directory - check the path"),
            (("/dev/null",), "/dev/null: is no regular file"),
            (("no-such.toml", "/dev/null"), "check the path\n/dev/null: is no regular file"),
        ],
    )
    def test_what_is_typed_wrong_ends_with_2(
        self, batchns: Batchns, server: object, fake: Daemon, arguments: tuple[str, ...], message: str
    ) -> None:
        done = batchns("submit", *arguments)
        assert done.code == 2
        assert message in done.err
        assert fake.asked == []

    def test_a_file_that_is_not_utf_8_is_refused_with_its_line(
        self, batchns: Batchns, server: object, tmp_path: Path
    ) -> None:
        (tmp_path / "x.toml").write_bytes(b'# one\nname = "\xff"\n')
        done = batchns("submit", str(tmp_path / "x.toml"))
        assert (done.code, done.err) == (2, f"{tmp_path}/x.toml:2: not UTF-8 - save it as UTF-8\n")

    def test_an_interrupted_wait_leaves_the_job_and_says_so(self, server: Running, fake: Daemon) -> None:
        process = started(server, "submit", "--wait", "--", "true")
        assert process.stdout is not None
        assert process.stdout.readline() == "submitted job 101 (job)\n"
        until(lambda: fake.streams or fake.readers)
        process.send_signal(signal.SIGINT)
        done = ended(process)
        assert done.code == 130
        assert "it goes on: batchns wait 101, or batchns cancel 101" in done.err
        assert fake.known["101"].state == "PENDING"


class TestActing:
    @pytest.mark.parametrize(
        ("arguments", "request_", "said"),
        [
            (("cancel", "12"), {"verb": "cancel"}, "12 cancelled: asked to end"),
            (("cancel", "--signal", "USR1", "12"), {"verb": "signal", "signal": "USR1"}, "12 signalled: SIGUSR1 sent"),
            (("hold", "12"), {"verb": "hold"}, "12 held"),
            (("release", "12"), {"verb": "release"}, "12 released"),
            (("freeze", "12"), {"verb": "freeze"}, "12 frozen"),
            (("thaw", "--user", "al", "12"), {"verb": "thaw", "user": "al"}, f"12 thawed: {SAID['thaw']}"),
            (("requeue", "12"), {"verb": "requeue"}, "12 requeued: as soon as it has ended"),
            (("prio", "7", "12"), {"verb": "priority", "priority": 7}, "12 given priority 7"),
        ],
    )
    def test_each_verb(
        self,
        batchns: Batchns,
        server: object,
        fake: Daemon,
        arguments: tuple[str, ...],
        request_: dict[str, object],
        said: str,
    ) -> None:
        done = batchns(*arguments)
        assert (done.code, done.out, done.err) == (0, f"{said}\n", "")
        assert fake.asked[-1] == wire.ActRequest(jobs=("12",), **request_)  # type: ignore[arg-type]

    def test_what_was_not_done_is_said_and_ends_with_1(self, batchns: Batchns, server: object) -> None:
        done = batchns("freeze", "12", "16")
        assert (done.code, done.out) == (1, "12 frozen\n")
        assert done.err == "16 not frozen: it is PENDING - batchns hold is for one that waits\n"

    @pytest.mark.parametrize("job", ["99", "14"])
    def test_what_means_no_job_or_one_that_is_over_ends_with_2_and_nothing_is_done(
        self, batchns: Batchns, server: object, fake: Daemon, job: str
    ) -> None:
        done = batchns("cancel", "12", job)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(f"{job}: there is no such job of yours, or it is over - see batchns ps")
        assert fake.known["12"].state == "RUNNING"

    def test_of_many_the_number_is_said(self, batchns: Batchns, server: object, fake: Daemon) -> None:
        fake.known = {one.id: one for one in many(1500)}
        assert batchns("hold", "1-1500").out == "1,500 jobs held\n"

    def test_of_many_refusals_some_are_named_and_the_others_counted(
        self, batchns: Batchns, server: object, fake: Daemon
    ) -> None:
        fake.known = {one.id: one for one in many(30)}
        done = batchns("freeze", "1-30")
        assert done.code == 1
        assert len(done.err.splitlines()) == 11
        assert done.err.splitlines()[-1].startswith("20 more jobs not frozen: each is PENDING - ")

    def test_json(self, batchns: Batchns, server: object) -> None:
        done = batchns("freeze", "--json", "12", "16")
        assert done.out.splitlines() == [
            '{"id":"12","done":true,"text":"","hint":""}',
            '{"id":"16","done":false,"text":"it is PENDING","hint":"batchns hold is for one that waits"}',
        ]
        assert done.code == 1


def test_what_has_no_text_is_said_without(capfd: pytest.CaptureFixture[str]) -> None:
    report([wire.Acted(id="1", done=True), wire.Acted(id="2", done=False, text="it is over")], "cancelled")
    assert capfd.readouterr() == ("1 cancelled\n", "2 not cancelled: it is over\n")


class TestWhatIsTyped:
    @pytest.mark.parametrize("command", ["ps", "wait", "logs", "show", "why", "cancel"])
    def test_what_is_not_utf_8_means_no_job(self, batchns: Batchns, server: object, command: str) -> None:
        done = batchns(command, "a\udcff")
        assert (done.code, done.out) == (2, "")
        assert len(done.err.splitlines()) == 1

    @pytest.mark.parametrize(
        ("arguments", "hint"),
        [
            (("prio", "5_3", "12"), "write 0 to 100"),
            (("prio", "101", "12"), "write 0 to 100"),
            (("logs", "-n", "1_0", "12"), "write 0 or more"),
            (("logs", "--attempt", "0", "12"), "write 1 or more"),
            (("history", "-n", "\u0661"), "write 1 or more"),
        ],
    )
    def test_an_id_is_no_number(
        self, batchns: Batchns, server: object, fake: Daemon, arguments: tuple[str, ...], hint: str
    ) -> None:
        """Task 5_3 with its priority after it: Python takes 5_3 for 53."""
        done = batchns(*arguments)
        assert (done.code, fake.asked) == (2, [])
        assert hint in done.err


class TestShow:
    def test_asked_in_force_and_used_are_there(self, batchns: Batchns, server: object) -> None:
        out = batchns("show", "12").out
        for text in (
            "12 train: RUNNING",
            "alice, queue normal, priority 50",
            "python3 train.py --epochs 3 --name 'run 7'",
            "memory        4GiB    4GiB      memory.limit_in_bytes",
            "cpus          2       0-1       cpuset.cpus",
            "blkio_weight is not in force: no block device uses the bfq scheduler\n  echo bfq > /sys/block/",
            "memory 1.2GiB (30% of 4GiB)",
            "/data/alice/run7/train-12.out",
            "frozen     makes room for 15",
        ):
            assert text in out
        assert max(map(len, out.splitlines())) <= 80

    def test_a_name_means_a_job_and_an_array_is_listed(self, batchns: Batchns, server: object) -> None:
        assert batchns("show", "train").out.startswith("12 train")
        assert len(batchns("show", "13").out.splitlines()) == 5
        assert batchns("show", "sweep").out == batchns("show", "13").out

    def test_a_name_of_several_jobs_means_none_of_them(self, batchns: Batchns, server: object, fake: Daemon) -> None:
        fake.known["18"] = evolve(fake.known["16"], id="18", array_id="18", name="sweep")
        several = batchns("show", "sweep")
        assert several.code == 2
        assert '"sweep" means 4 jobs - name one of them: 13_1, 13_2, 13_3, 18' in several.err

    def test_no_such_job(self, batchns: Batchns, server: object) -> None:
        for job in ("99", "nix"):
            done = batchns("show", job)
            assert (done.code, done.out) == (2, "")
            assert f'no job is meant by "{job}" - ' in done.err

    def test_json_is_one_object_with_the_wires_keys(self, batchns: Batchns, server: object) -> None:
        found = json.loads(batchns("show", "--json", "12").out)
        assert found["row"]["id"] == "12"
        assert found["limits"]["memory"]["source"] == "memory.limit_in_bytes"

    def test_why_says_until_when(self, batchns: Batchns, server: object) -> None:
        out = batchns("why", "16").out
        assert out.startswith("16: waits for memory: 12GiB needed, 3.5GiB of 16GiB free\n")
        assert "goes after job 15" in out
        assert "its turn is expected in 1h7m" in out
        assert batchns("why", "sweep").out.startswith("13_2: waits for its array")


class TestLogs:
    def test_what_was_written_comes_out_byte_for_byte(self, batchns: Batchns, server: object, fake: Daemon) -> None:
        fake.output["stdout"] = b"one\n\x1b[1mtwo\x1b[0m\n" * 1000
        assert batchns("logs", "12").out.encode() == fake.output["stdout"]

    def test_options_reach_the_daemon(self, batchns: Batchns, server: object, fake: Daemon) -> None:
        assert batchns("logs", "-e", "-n", "1", "--attempt", "2", "12").out == "warning\n"
        assert fake.asked[-1] == ("12", "stderr", 2, 1, False)

    def test_follow_ends_with_the_job(self, batchns: Batchns, server: Running, fake: Daemon) -> None:
        later(server, fake, 0.3, "12", "COMPLETED")
        assert batchns("logs", "-f", "12").out == "epoch 1\nepoch 2\n"

    def test_an_array_has_no_output_of_its_own(self, batchns: Batchns, server: object) -> None:
        done = batchns("logs", "13")
        assert done.code == 2
        assert "name one of them: 13_0" in done.err


class TestWait:
    def test_it_ends_with_the_job(self, batchns: Batchns, server: Running, fake: Daemon) -> None:
        later(server, fake, 0.3, "12", "COMPLETED", exit_code=0)
        later(server, fake, 1.3, "15", "FAILED", exit_code=3, reason="exit code 3")
        done = batchns("wait", "12", "15")
        assert done.code == 1
        assert done.out == (
            "12 train: COMPLETED after 3m12s\n"
            "15 urgent: FAILED after 3.2s: exit code 3\n"
            "2 jobs: 1 completed, 1 failed\n"
        )

    def test_what_is_over_is_not_waited_for(self, batchns: Batchns, server: object) -> None:
        assert batchns("wait", "13_0", "--quiet") == Done(0, "", "")

    def test_no_such_job(self, batchns: Batchns, server: object) -> None:
        assert batchns("wait", "12", "99").code == 2

    def test_the_time_to_wait_is_bounded_where_one_says_so(self, batchns: Batchns, server: object) -> None:
        done = batchns("wait", "--timeout", "300ms", "12")
        assert done.code == 1
        assert "not all jobs were over within 300ms" in done.err
        assert batchns("wait", "--timeout", "5", "12").code == 2

    def test_a_daemon_that_is_started_anew_is_waited_for(
        self, batchns: Batchns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It ends while no daemon is there to say so."""
        monkeypatch.setenv("BATCHNS_SOCKET", str(tmp_path / "api.sock"))
        first, second = Daemon(), Daemon()
        second.end("12", "COMPLETED")
        result: list[Done] = []
        with serving(first, tmp_path) as server:
            process = started(server, "wait", "12")
            until(lambda: first.readers)
        with serving(second, tmp_path):
            result.append(ended(process))
        assert (result[0].code, result[0].out) == (0, "12 train: COMPLETED after 3m12s\n")

    def test_a_daemon_that_ends_before_the_first_list_is_waited_for(
        self, batchns: Batchns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has taken the question for events, and no other any more."""

        class Ending(Daemon):
            async def jobs(self, peer: Peer, query: JobQuery) -> RowsPage:
                await trio.sleep_forever()
                raise AssertionError

        first, second = Ending(), Daemon()
        second.end("12", "COMPLETED")
        with serving(first, tmp_path) as server:
            process = started(server, "wait", "12")
            until(lambda: first.readers)
        with serving(second, tmp_path):
            assert ended(process).out == "12 train: COMPLETED after 3m12s\n"

    def test_as_many_may_wait_as_there_are_connections(self, tmp_path: Path) -> None:
        """But for one, which each needs at the beginning; who finds none waits for it."""
        fake = Daemon()
        with serving(fake, tmp_path, Limits(per_user=4, reserve=0)) as server:
            waiting = [started(server, "wait", "12") for _ in range(3)]
            until(lambda: len(fake.readers) == 3)
            late = [started(server, "wait", "12") for _ in range(2)]
            time.sleep(1.5)
            assert [process.poll() for process in (*waiting, *late)] == [None] * 5
            server.call(fake.end, "12", "COMPLETED")
            assert [ended(process).code for process in (*waiting, *late)] == [0] * 5

    def test_an_end_between_two_looks_is_not_missed(self, batchns: Batchns, tmp_path: Path) -> None:
        """It comes right after the list was made."""

        class Hasty(Daemon):
            async def jobs(self, peer: Peer, query: JobQuery) -> RowsPage:
                page = await super().jobs(peer, query)
                if self.known["12"].ended is None:
                    self.end("12", "COMPLETED")
                return page

        with serving(Hasty(), tmp_path) as server:
            assert batchns("wait", "--timeout", "20s", "--socket", str(server.socket), "12").code == 0

    def test_what_ended_too_long_ago_for_a_list_is_asked_for_by_its_id(self, batchns: Batchns, tmp_path: Path) -> None:
        """The daemon that comes back has forgotten it, but for its history."""
        first, second = Daemon(), Daemon()
        second.end("12", "FAILED", reason="exit code 3")
        second.unlisted = {"12"}
        with serving(first, tmp_path) as server:
            process = started(server, "wait", "12")
            until(lambda: first.readers)
        with serving(second, tmp_path):
            assert ended(process).out == "12 train: FAILED after 3m12s: exit code 3\n"

    def test_of_thousands_ranges_are_asked_for(self, batchns: Batchns, server: Running, fake: Daemon) -> None:
        fake.known = {one.id: one for one in many(3000)}
        threading.Timer(0.5, lambda: server.call(fake.tell, None)).start()  # what was missed is looked for anew

        def end() -> None:
            for job_id in list(fake.known):
                fake.known[job_id] = evolve(fake.known[job_id], state="COMPLETED", ended=NOW)

        threading.Timer(0.4, lambda: server.call(end)).start()
        assert batchns("wait", "1-3000").out.splitlines()[-1] == "3,000 jobs: 3,000 completed"
        assert ranges(["12", "13", "15", "14", "9"]) == ["9", "12-15"]

    def test_many_ends_are_counted_and_failures_named(self, batchns: Batchns, server: object, fake: Daemon) -> None:
        fake.known = {one.id: evolve(one, ended=NOW, state="COMPLETED") for one in many(40)}
        fake.end("33", "FAILED", exit_code=1)
        out = batchns("wait", "1-40").out.splitlines()
        assert len(out) == 12
        assert out[10].startswith("33 job-33: FAILED")
        assert out[11] == "40 jobs: 39 completed, 1 failed"


class TestRemote:
    def test_output_and_exit_code_are_the_commands(self, batchns: Batchns, server: Running, fake: Daemon) -> None:
        fake.ends = lambda job: evolve(job, state="FAILED", started=NOW, ended=NOW, exit_code=3, reason="exit code 3")
        done = batchns("run", "--remote", "--cpus", "2", "--", "sh", "-c", "exit 3")
        assert (done.code, done.out) == (3, "epoch 1\nepoch 2\n")
        assert done.err == "warning\nbatchns: FAILED: exit code 3\n"

    def test_a_signal_is_128_and_its_number(self, batchns: Batchns, server: Running, fake: Daemon) -> None:
        fake.ends = lambda job: evolve(job, state="FAILED", started=NOW, ended=NOW, signal="SIGKILL")
        assert batchns("run", "--remote", "--", "true").code == 137

    def test_ctrl_c_cancels_and_a_second_one_kills(self, server: Running, fake: Daemon) -> None:
        asked: list[wire.ActRequest] = []

        async def act(peer: object, request: wire.ActRequest) -> wire.ActAnswer:
            asked.append(request)
            if len(asked) == 2:
                fake.end("101", "CANCELLED", signal="SIGKILL")
            return wire.ActAnswer(jobs=(wire.Acted(id="101", done=True),))

        fake.act = act  # type: ignore[method-assign,assignment]
        process = started(server, "run", "--remote", "--", "true")
        until(lambda: fake.readers)
        process.send_signal(signal.SIGINT)
        until(lambda: len(asked) == 1)
        process.send_signal(signal.SIGINT)
        done = ended(process)
        assert done.code == 137
        assert asked == [wire.ActRequest(verb="cancel", jobs=("101",))] * 2

    def test_interrupted_before_it_ran_it_ends_as_interrupted(self, server: Running, fake: Daemon) -> None:
        """It has written nothing then, which is nothing to speak of."""

        async def act(peer: object, request: wire.ActRequest) -> wire.ActAnswer:
            fake.end("101", "CANCELLED")
            return wire.ActAnswer(jobs=(wire.Acted(id="101", done=True),))

        @asynccontextmanager
        async def logs(*_: object, **__: object) -> AsyncIterator[AsyncIterator[bytes]]:
            raise Refused("not_found", "job 101 has written nothing", "see batchns show 101")
            yield

        fake.act, fake.logs = act, logs  # type: ignore[method-assign,assignment]
        process = started(server, "run", "--remote", "--", "true")
        until(lambda: fake.readers)
        process.send_signal(signal.SIGINT)
        assert ended(process) == Done(130, "", "")

    @pytest.mark.parametrize(
        "arguments", [("--remote", "a.toml"), ("--remote", "--"), ("--remote", "--user", "x", "--", "true")]
    )
    def test_what_does_not_go_with_it(self, batchns: Batchns, server: object, arguments: tuple[str, ...]) -> None:
        assert batchns("run", *arguments).code == 2

    def test_queue_needs_it(self, batchns: Batchns) -> None:
        assert "--remote" in batchns("run", "--queue", "express", "--", "true").err


class TestExec:
    def test_input_output_and_exit_code(self, server: Running, fake: Daemon) -> None:
        arguments = ("exec", "12", "--env", "A=1", "--cwd", "/tmp", "--", "cat", "-n")
        process = started(server, *arguments, stdin=subprocess.PIPE)
        out, err = process.communicate("hello", timeout=30)
        assert (process.returncode, out, err) == (2, "hello", "None")
        assert fake.commands == [wire.ExecRequest(command=("cat", "-n"), env={"A": "1"}, cwd="/tmp")]

    def test_signals_go_to_the_command(self, server: Running, fake: Daemon) -> None:
        process = started(server, "exec", "12", "--", "cat", stdin=subprocess.PIPE)
        until(lambda: fake.commands)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM

    def test_more_goes_through_than_there_is_room_for_on_the_way(self, server: Running) -> None:
        """And the process does not read on before its output is."""
        process = started(server, "exec", "12", "--", "tenfold", stdin=subprocess.PIPE)
        out, _ = process.communicate("x" * 4_000_000, timeout=60)
        assert (process.returncode, len(out)) == (1, 40_000_000)

    def test_where_stdin_is_not_read_the_second_signal_ends_it(self, server: Running, fake: Daemon) -> None:
        with open("/dev/zero") as zero:  # noqa: PTH123
            process = started(server, "exec", "12", "--", "deaf", stdin=zero)
            until(lambda: fake.executions)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert ended(process).code == 128 + signal.SIGINT

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (("16", "--", "true"), 1, "job 16 does not run"),
            (("99", "--", "true"), 2, "99"),
            (
                ("12", "--", "no-such-program"),
                127,
                "exec: no-such-program: No such file or directory - no such command\n",
            ),
            (("12", "--", "/etc"), 126, "exec: /etc: Permission denied\n"),
            (("12",), 2, "no command"),
            (("12", "--env", "A", "--", "true"), 2, "write NAME=VALUE"),
        ],
    )
    def test_what_cannot_be(self, server: Running, arguments: tuple[str, ...], code: int, message: str) -> None:
        done = ended(started(server, "exec", *arguments, stdin=subprocess.DEVNULL))
        assert done.code == code
        assert message in done.err

    def test_attach_needs_a_terminal(self, batchns: Batchns, server: object) -> None:
        assert "batchns exec JOB -- COMMAND" in batchns("attach", "12").err


class TestMachine:
    def test_node_and_queues(self, batchns: Batchns, server: object) -> None:
        out = batchns("node").out
        assert out.startswith("bench7: open\n")
        assert "memory    ################....  12.5GiB   3.5GiB  16GiB" in out
        assert "express (not for you)" in batchns("queues").out
        assert "express: a user has at most 2 jobs at a time, 2 CPUs, 30m of time" in batchns("queues").out
        assert json.loads(batchns("node", "--json").out)["total"]["cpus"] == 4.0
        assert [json.loads(line)["name"] for line in batchns("queues", "--json").out.splitlines()] == [
            "express",
            "normal",
        ]

    def test_drain_and_resume(self, batchns: Batchns, server: object, fake: Daemon) -> None:
        assert batchns("drain", "new", "disk").out == "drained: new disk; 2 jobs still running, 4 waiting\n"
        assert fake.drained == "new disk"
        assert "bench7: drained: new disk" in batchns("node").out
        assert "! the disk of /var/lib/batchns is full" in batchns("node").out
        assert batchns("resume").out == "open; 4 jobs waiting\n"

    def test_history(self, batchns: Batchns, server: object, fake: Daemon) -> None:
        out = batchns("history", "--since", "2h", "--state", "F,CD", "--all-users").out
        assert [line.split()[0] for line in out.splitlines()] == ["JOB", "13_0", "14"]
        asked = fake.asked[-1]
        assert asked.user == "*"  # type: ignore[attr-defined]
        assert abs(time.time() - 7200 - asked.since) < 60  # type: ignore[attr-defined]
        assert asked.states == ("FAILED", "COMPLETED")  # type: ignore[attr-defined]
        assert batchns("history", "--since", "99").code == 2
        assert len(batchns("history", "-n", "1", "--json").out.splitlines()) == 1

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--since", "1d", "--until", "2d"), "--until 2d is not after --since 1d - swap them"),
            (("--state", "CD,R"), "--state: a job that is RUNNING is not over - batchns ps --state RUNNING"),
        ],
    )
    def test_a_past_that_cannot_be_is_refused(
        self, batchns: Batchns, server: object, arguments: tuple[str, ...], message: str
    ) -> None:
        for command in ("history", "usage"):
            assert batchns(command, *arguments) == Done(2, "", f"{message}\n")

    def test_an_empty_past_says_where_it_has_looked(self, batchns: Batchns, server: object, fake: Daemon) -> None:
        fake.known.clear()
        for arguments, said in (
            ((), "no jobs ended in the last 7d (--since WHEN looks further back)\n"),
            (("--name", "x", "--until", "1h"), "no such jobs ended in the last 7d, until 1h (--since WHEN looks"),
            (("--since", "2026-01-01"), "no jobs ended since 2026-01-01 (--since WHEN looks further back)\n"),
        ):
            done = batchns("history", *arguments)
            assert (done.code, done.out) == (0, "")
            assert done.err.startswith(said)

    def test_usage_gives_advice(self, batchns: Batchns, server: object) -> None:
        out = batchns("usage").out
        assert "train    12   92%     2  94%  4GiB  1.2GiB  2h30m    30m    35m" in out
        assert 'memory = "1.5GiB" is enough' in out

    def test_top_is_one_frame_where_there_is_no_terminal(self, batchns: Batchns, server: object) -> None:
        out = batchns("top").out
        assert "\x1b" not in out
        assert out.index("bench7") < out.index("RUNNING") < out.index("SUSPENDED") < out.index("PENDING")


class TestTheSocket:
    def test_it_is_found_in_this_order(self, tmp_path: Path) -> None:
        config = tmp_path / "batchns.toml"
        config.write_text('[paths]\nrun = "/run/here/"\n')
        none = str(tmp_path / "none.toml")
        environ = {"BATCHNS_SOCKET": "/b", "BATCHNS_CONFIG": str(config)}
        assert socket_path("/a", environ, none) == "/a"
        assert socket_path(None, environ, none) == "/b"
        assert socket_path(None, {"BATCHNS_CONFIG": str(config)}, none) == "/run/here/batchns.sock"
        assert socket_path(None, {}, str(config)) == "/run/here/batchns.sock"
        assert socket_path(None, {}, none) == "/run/batchns/batchns.sock"
        config.write_text('[daemon]\nsocket = "/run/other.sock"\n')
        assert socket_path(None, {}, str(config)) == "/run/other.sock"

    @pytest.mark.parametrize("text", ["[paths", "[paths]\nrun = 3\n", "paths = 3\n"])
    def test_settings_that_are_wrong_are_said_to_be(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "batchns.toml").write_text(text)
        with pytest.raises(UserError, match=r"batchns\.toml:"):
            socket_path(None, {}, str(tmp_path / "batchns.toml"))

    def test_without_a_daemon_each_command_ends_with_125(
        self, batchns: Batchns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("BATCHNS_SOCKET", str(tmp_path / "none.sock"))
        for arguments in (("ps",), ("show", "1"), ("cancel", "1"), ("submit", "--", "true"), ("node",), ("wait", "1")):
            done = batchns(*arguments)
            assert (done.code, done.out) == (125, "")
            assert done.err.startswith(f"batchns: no batchns daemon answers at {tmp_path}/none.sock")
            assert " - start one" in done.err

    def test_a_daemon_that_keeps_silent_can_be_interrupted(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "api.sock"))
            listener.listen(8)
            process = subprocess.Popen(
                [sys.executable, "-m", "batchns", "ps", "--socket", str(tmp_path / "api.sock")],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            listener.accept()
            process.send_signal(signal.SIGINT)
            done = ended(process)
        assert (done.code, done.out) == (130, "")


class TestCompletion:
    def complete(self, shown: str, server: Any) -> list[str]:
        words = shown.split(" ")
        environ = {
            **os.environ,
            "_BATCHNS_COMPLETE": "bash_complete",
            "COMP_WORDS": shown,
            "COMP_CWORD": str(len(words) - 1),
            "BATCHNS_SOCKET": str(server.socket) if server else "/nowhere/at.all",
        }
        done = subprocess.run(
            [sys.executable, "-m", "batchns"], env=environ, capture_output=True, text=True, check=True, timeout=30
        )
        assert done.stderr == ""
        return [line.partition(",")[2] for line in done.stdout.splitlines() if line]

    def test_commands_ids_names_states_and_queues(self, server: Running) -> None:
        assert self.complete("batchns su", server) == ["submit"]
        assert self.complete("batchns cancel 1", server) == ["12", "13", "15", "16", "17"]
        assert self.complete("batchns cancel 13_", server) == ["13_1", "13_2", "13_3"]
        assert self.complete("batchns show tr", server) == ["train"]
        assert self.complete("batchns ps --state R", server) == ["RUNNING"]
        assert self.complete("batchns ps --queue e", server) == ["express"]

    def test_without_a_daemon_there_is_nothing_and_no_noise(self) -> None:
        assert self.complete("batchns cancel ", None) == []

    @pytest.mark.parametrize("answer", [b"", b"SSH-2.0-other\r\n", b"HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\n[]"])
    def test_nor_where_another_program_answers(self, tmp_path: Path, answer: bytes) -> None:
        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer)

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "socket"))
            listener.listen()
            threading.Thread(target=speak, daemon=True).start()
            assert self.complete("batchns cancel ", SimpleNamespace(socket=tmp_path / "socket")) == []

    def test_nor_with_a_batchns_toml_that_is_not_understood(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "batchns.toml").write_text("[daemon")
        monkeypatch.setenv("BATCHNS_CONFIG", str(tmp_path / "batchns.toml"))
        assert self.complete("batchns cancel ", SimpleNamespace(socket="")) == []

    @pytest.mark.parametrize("offer", [offers.jobs, offers.queues])
    def test_a_defect_is_not_hidden(self, offer: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(path: str) -> None:
            raise TypeError("a defect")

        monkeypatch.setattr("batchns.cli.connect.make_client", broken)
        context = click.Context(cli)
        with pytest.raises(TypeError):
            offer(context, click.Argument(["job"]), "")

    def test_and_the_line_that_is_typed_stays_as_it_is(self, tmp_path: Path) -> None:
        program = tmp_path / "batchns"
        program.write_text("#!/bin/sh\necho Traceback >&2\necho plain,12\n")
        program.chmod(0o755)
        line = 'COMP_WORDS=(batchns why 1) COMP_CWORD=2; _batchns_completion batchns; echo "${COMPREPLY[@]}"'
        environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-c", f"{script('bash')}\n{line}"], env=environ, capture_output=True, text=True, check=True
        )
        assert (done.stdout, done.stderr) == ("12\n", "")

    @pytest.mark.parametrize("shell", SHELLS)
    def test_each_shell_has_a_script(self, batchns: Batchns, shell: str) -> None:
        out = batchns("completion", shell).out
        assert "_BATCHNS_COMPLETE" in out and out.count("2>/dev/null") == 1

    def test_bash_completes_with_it(self, server: Running, tmp_path: Path) -> None:
        program = tmp_path / "batchns"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m batchns "$@"\n')
        program.chmod(0o755)
        line = 'COMP_WORDS=(batchns why 13_) COMP_CWORD=2; _batchns_completion batchns; echo "${COMPREPLY[@]}"'
        done = subprocess.run(
            ["bash", "-c", f"{script('bash')}\n{line}"],
            env={**os.environ, "BATCHNS_SOCKET": str(server.socket), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        assert (done.stdout, done.stderr) == ("13_1 13_2 13_3\n", "")


def _all_commands() -> list[tuple[str, click.Command]]:
    context = click.Context(cli)
    found: list[tuple[str, click.Command]] = []
    for name in COMMANDS:
        try:
            command = cli.get_command(context, name)
        except ModuleNotFoundError:
            continue
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {part}", command.commands[part]) for part in command.commands]
    return found


class TestHelp:
    def test_all_of_it_fits_80_columns(self, batchns: Batchns) -> None:
        for name, _ in [("", cli), *_all_commands()]:
            out = batchns(*name.split(), "--help").out
            assert [line for line in out.splitlines() if len(line) > 80] == [], name

    def test_every_command_says_what_it_does_and_every_option_what_it_is_for(self) -> None:
        for name, command in _all_commands():
            assert command.help, name
            for parameter in command.params:
                if isinstance(parameter, click.Option):
                    assert parameter.help, f"{name} {parameter.name}"

    def test_the_groups_hold_all_commands(self, batchns: Batchns) -> None:
        out = batchns("--help").out
        assert all(f"\n{title}:\n" in out for title in ("Jobs", "Look", "Machine", "Without a daemon"))
        assert all(f"\n  {name} " in out for name in COMMANDS)

    def test_a_wrong_command_is_told_the_right_one(self, batchns: Batchns) -> None:
        done = batchns("cancle", "12")
        assert done.code == 2
        assert "did you mean cancel?" in done.err
