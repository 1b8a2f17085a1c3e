"""The batch process without a Slurm: what it reads, what it writes, how it counts time and finds processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchns.errors import UserError
from batchns.kernel.network import resolver
from batchns.model.parcel import VERSION, pack
from batchns.supervise.batch import freezer, place, single
from batchns.supervise.batch.attempt import Attempt, Stands
from batchns.supervise.batch.clock import RunClock
from batchns.supervise.batch.main import job_id_of, main
from batchns.supervise.batch.results import Result
from batchns.supervise.batch.single import exit_code
from batchns.supervise.batch.wanted import wanted


def script(folder: Path, **more: Any) -> str:
    (folder / "results").mkdir(exist_ok=True)
    content = {"version": VERSION, "spec": {"name": "a"}, "key": "k", "folder": str(folder), **more}
    path = folder / "script"
    path.write_text(f"#!/bin/sh\nexec true\n{pack(content)}")
    return str(path)


def test_what_has_completed_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = script(tmp_path)
    Result.of_job(str(tmp_path), "7", "k").end("COMPLETED")
    assert main(path, {"SLURM_JOB_ID": "7"}) == 0
    assert "not run again" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="as root")
def test_jobs_of_root_are_refused_and_the_result_says_so(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in signal.valid_signals() - {9, 19}}
    try:
        assert main(script(tmp_path), {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n9"}) == 125
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
    told = json.loads((tmp_path / "results" / "7.json").read_text())
    assert told["host"] == "n9"
    assert (told["state"], told["reason"].partition(" - ")[0]) == ("FAILED", "jobs of root do not run on a cluster")


def test_what_is_no_batch_script_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "script"
    path.write_text("#!/bin/sh\ntrue\n")
    assert main(str(path), {"SLURM_JOB_ID": "7"}) == 125
    assert "no batch script of batchns" in capsys.readouterr().err


def test_a_task_has_the_id_that_people_type() -> None:
    assert job_id_of({"SLURM_JOB_ID": "12"}) == "12"
    assert job_id_of({"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}) == "12_3"


def test_a_result_is_of_one_submission(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    Result.of_job(str(tmp_path), "7", "k").end("COMPLETED", exit_code=0)
    assert Result.of_job(str(tmp_path), "7", "k").completed
    assert not Result.of_job(str(tmp_path), "7", "other").completed


def test_a_result_names_the_node_as_slurm_does(tmp_path: Path) -> None:
    assert Result.of_job(str(tmp_path), "7", "k", "n1").values["host"] == "n1"


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = Result.of_job(str(tmp_path / "nowhere"), "7", "k")
    result.change("started")
    result.end("COMPLETED")
    assert capsys.readouterr().err.count("not recorded") == 1


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        ({"state": "COMPLETED", "exit_code": 0}, 0),
        ({"state": "FAILED", "exit_code": 3}, 3),
        ({"state": "FAILED", "signal": "SIGSEGV", "exit_code": None}, 139),
        ({"state": "TIMEOUT", "exit_code": 0}, 1),
        ({"state": "CANCELLED", "signal": "SIGTERM"}, 143),
    ],
)
def test_only_what_has_completed_ends_with_0(ended: dict[str, Any], code: int) -> None:
    assert exit_code(ended) == code


def test_a_clock_stands_still_while_the_job_does() -> None:
    now = 0.0
    clock = RunClock(lambda: now)
    now = 5.0
    assert (clock.running, clock.standing) == (0, 0)
    clock.go()
    now = 8.0
    clock.stand()
    now = 18.0
    clock.stand()
    now = 20.0
    assert (clock.running, clock.standing) == (3, 12)
    clock.go()
    now = 21.0
    assert (clock.running, clock.standing) == (4, 12)


def end(process: subprocess.Popen[bytes]) -> None:
    for pid in [process.pid, *freezer.below(process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def family() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a child and a grandchild, in sessions of their own."""
    inner = "import subprocess,sys; subprocess.Popen(['sleep','60'], start_new_session=True).wait()"
    outer = f"import subprocess,sys; subprocess.Popen([sys.executable,'-c',{inner!r}], start_new_session=True).wait()"
    process = subprocess.Popen([sys.executable, "-c", outer])
    deadline = time.monotonic() + 10
    while len(freezer.below(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    yield process
    end(process)


def test_all_below_a_process_stands_still_and_goes_on(family: subprocess.Popen[bytes]) -> None:
    def states() -> list[str]:
        stats = [Path(f"/proc/{pid}/stat").read_text() for pid in freezer.below(family.pid)]
        return [stat.rpartition(")")[2].split()[0] for stat in stats]

    time.sleep(0.5)  # nobody is in the middle of a vfork any more
    assert freezer.stop(family.pid)
    assert states() == ["T", "T"]
    assert Path(f"/proc/{family.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    freezer.go_on(family.pid)
    assert "T" not in states()


def test_the_parent_of_a_vfork_whose_child_is_stopped_stands_still() -> None:
    """It cannot be stopped as others are: the kernel keeps it until its child has executed something."""
    code = "import os,time\nfor _ in range(10000): os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess,sys; subprocess.run([sys.executable,'-c',{code!r}])"]
    )
    try:
        time.sleep(0.5)
        for _ in range(20):
            assert freezer.stop(process.pid)
            before = freezer.below(process.pid)
            time.sleep(0.02)
            assert freezer.below(process.pid) == before
            freezer.go_on(process.pid)
            time.sleep(0.01)
    finally:
        end(process)


def test_folders_of_jobs_that_were_killed_go_and_those_of_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    uid = os.geteuid()
    above = Path(f"/tmp/batchns-{uid}")
    with place.folder(uid, "1"):
        dead, alive = above / "slurm-2-0", above / "slurm-3-0"
        dead.mkdir()
        (dead / "record-1").touch()
        alive.mkdir()
        lock = os.open(alive, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with place.folder(uid, "4") as own:
            assert Path(own).is_dir()
            assert (dead.exists(), alive.exists()) == (False, True)
        assert not Path(own).exists()
        os.close(lock)
        alive.rmdir()


def test_a_job_without_a_network_of_its_own_says_why(tmp_path: Path) -> None:
    spec = wanted({"name": "a", "network": {"mode": "host", "egress": 1000}})
    found = place.way(spec, str(tmp_path))
    assert (found.plan.mode, dict(found.lacks)) == ("host", {"egress": "no rate is held in the node's network"})
    assert place.way(wanted({"name": "a", "network": {"mode": "none"}}), str(tmp_path)).plan.mode == "none"


class FakeAttempt:
    """Fails at once. `then`: what happens at the end of each attempt."""

    made = 0
    then = staticmethod(lambda: None)

    def __init__(self, *words: Any) -> None:
        type(self).made += 1

    def run(self, wake: Any, heed: Any, orders: Any) -> dict[str, Any]:
        self.then()
        return {"state": "FAILED", "exit_code": 3, "signal": None, "reason": "exit code 3"}


@pytest.fixture
def supervision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes one whose attempts are `FakeAttempt`s."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals() - {9, 19}}
    monkeypatch.setattr(single, "Attempt", FakeAttempt)
    monkeypatch.setattr(single.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(place, "folder", lambda uid, number: contextlib.nullcontext(str(tmp_path)))
    monkeypatch.setattr(place, "way", lambda spec, above: None)
    monkeypatch.setattr(place, "plan", lambda *words: None)
    FakeAttempt.made = 0
    (tmp_path / "results").mkdir()

    def make(then: Any = lambda: None, delay: float = 0.0, **content: Any) -> tuple[single.Supervision, Result]:
        monkeypatch.setattr(FakeAttempt, "then", staticmethod(then))
        spec = wanted({"name": "a", "max_retries": 2, "retry_delay": delay})
        result = Result.of_job(str(tmp_path), "7", "k")
        return single.Supervision(spec, content, "7", result, {"SLURM_JOB_ID": "7"}), result

    yield make
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        if handler is not None:
            signal.signal(number, handler)


def test_a_job_that_fails_is_tried_again(supervision: Any) -> None:
    job, result = supervision()
    assert job.run() == 3
    assert (FakeAttempt.made, result.values["state"]) == (3, "FAILED")


def test_a_job_that_ends_as_it_is_cancelled_is_not_tried_again(supervision: Any) -> None:
    job, result = supervision(lambda: os.kill(os.getpid(), signal.SIGTERM))
    job.run()
    assert (FakeAttempt.made, result.values["state"]) == (1, "CANCELLED")


def test_a_job_that_is_cancelled_between_two_attempts_is_not_tried_again(supervision: Any) -> None:
    job, result = supervision(lambda: threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start(), delay=30.0)
    job.run()
    assert (FakeAttempt.made, result.values["state"]) == (1, "CANCELLED")


@pytest.mark.parametrize(("lasts", "state"), [(1, "TIMEOUT"), (60, "CANCELLED"), (None, "CANCELLED")])
def test_asked_to_end_at_the_end_of_its_allocation_it_has_reached_a_limit(
    supervision: Any, lasts: float | None, state: str
) -> None:
    job, result = supervision(lambda: os.kill(os.getpid(), signal.SIGTERM), allocation=lasts)
    job.run()
    assert result.values["state"] == state


def attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: list[int], **content: Any
) -> tuple[Attempt, dict[str, Any]]:
    """Without a launcher. `kills`: how many the kernel has killed so far, one answer after another."""
    monkeypatch.setattr("batchns.supervise.batch.attempt.Helper", lambda: None)
    monkeypatch.setattr("batchns.supervise.batch.readings.oom_kills", lambda: kills.pop(0) if kills else 0)
    values: dict[str, Any] = {"time_limit": None, "deadline": None, **content}
    made = Attempt(wanted({"name": "a"}), values, None, None, Result(str(tmp_path / "r"), {}), Stands())  # type: ignore[arg-type]
    return made, values


@pytest.mark.parametrize(
    ("kills", "code", "number", "state"),
    [
        ([0, 1], 1, None, "OUT_OF_MEMORY"),
        ([0, 1], 0, None, "OUT_OF_MEMORY"),
        ([1, 1], None, 9, "FAILED"),
        ([1, 2], None, 9, "OUT_OF_MEMORY"),
        ([1, 1], 0, None, "COMPLETED"),
    ],
)
def test_memory_counts_for_the_attempt_in_which_it_was_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: list[int], code: int | None, number: int | None, state: str
) -> None:
    made, _ = attempt(tmp_path, monkeypatch, kills)
    made._over({"exit_code": code, "signal": number})
    assert made._ended is not None and made._ended["state"] == state


def test_a_limit_of_months_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = attempt(tmp_path, monkeypatch, [], time_limit=90 * 86400.0)
    ours, theirs = socket.socketpair()
    made._init = 1

    class Heard:
        socket = ours

        def heard(self) -> Iterator[dict[str, Any]]:
            yield {"event": "ended", "exit_code": 0, "signal": None}

    made._helper = Heard()  # type: ignore[assignment]
    theirs.send(b"!")
    made._loop(theirs, lambda: None)
    assert made._ended is not None and made._ended["state"] == "COMPLETED"


def test_every_signal_that_can_be_is_forwarded() -> None:
    kept = {signal.SIGWINCH, signal.SIGXCPU, signal.SIGPROF, signal.SIGTTIN, signal.SIGABRT, signal.SIGRTMAX}
    assert kept <= single._HEEDED
    assert not {signal.SIGCHLD, signal.SIGKILL} & single._HEEDED


def test_attempts_that_slurm_has_cut_use_no_retries_up(supervision: Any) -> None:
    job, result = supervision()
    result.values["attempts"] = 5
    job.run()
    assert (FakeAttempt.made, result.values["attempts"]) == (3, 8)


def test_a_job_of_another_version_fails_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(script(tmp_path, version=7), {"SLURM_JOB_ID": "7"}) == 125
    assert "submitted by a batchns of another version (7, not 1) - submit it again" in capsys.readouterr().err
    assert json.loads((tmp_path / "results" / "7.json").read_text())["state"] == "FAILED"
    with pytest.raises(UserError, match="another version"):
        place.plan(wanted({"name": "a"}), {"plan": [1, 2]}, "7", 1, place.Way(place.NetworkPlan("none")), "/", {})


@pytest.mark.skipif(os.geteuid() != 0, reason="as root")
def test_a_folder_that_somebody_else_has_made_stops_no_job() -> None:
    theirs = Path("/tmp/batchns-4141")
    theirs.mkdir()
    try:
        with place.folder(4141, "1") as own:
            assert own.startswith("/tmp/batchns-4141-")
            Path(own).parent.joinpath("seccomp").touch()
        assert not Path(own).parent.exists()
    finally:
        theirs.rmdir()


THREADS = """
import ctypes, os, sys, threading, time
def loop():
    while True:
        print("x", flush=True)
        time.sleep(0.02)
threading.Thread(target=loop).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_whose_leader_has_ended_is_stopped_too() -> None:
    outer = f"import subprocess,sys; subprocess.run([sys.executable,'-c',{THREADS!r}])"
    process = subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        time.sleep(0.3)
        (child,) = freezer.below(process.pid)
        assert Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        assert freezer.stop(process.pid)
        os.set_blocking(process.stdout.fileno(), False)
        process.stdout.read()
        time.sleep(0.2)
        assert not process.stdout.read()
    finally:
        end(process)


def test_descendants_are_found_without_the_kernels_lists(
    family: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = freezer.below(family.pid)
    monkeypatch.setattr(freezer.os.path, "exists", lambda path: False)
    monkeypatch.setattr(freezer, "_children", lambda pid: [])
    assert freezer.below(family.pid) == there


def test_a_prepared_network_has_name_servers_that_it_reaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those on the node's loopback are not in it, and there is no IPv6."""
    monkeypatch.setattr(place.socket, "if_nameindex", lambda: [(1, "lo"), (2, place.LINK)])
    servers = resolver.Resolver(("192.0.2.1", "2001:db8::1"), ("search example.org",), "/etc/resolv.conf")
    monkeypatch.setattr(resolver, "find", lambda configured: servers)
    found = place.way(wanted({"name": "a"}), str(tmp_path))
    assert found.prepared
    assert Path(found.resolver).read_text().splitlines()[1:] == ["nameserver 192.0.2.1", "search example.org"]
