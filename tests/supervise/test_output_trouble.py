"""Whatever a file system answers to the name of an output file, it is that job's trouble alone."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
from supervise_fakes import bench, inline, spec

from batchns.errors import HostError, UserError
from batchns.model.lifecycle import State
from batchns.model.submitter import ROOT
from batchns.supervise import outputs
from batchns.supervise.outputs import Outputs
from batchns.supervise.ports import threads


def test_an_output_that_is_a_running_program_fails_its_job_alone(tmp_path: Path) -> None:
    """ETXTBSY: an earlier job copied a program there and left it running."""
    program = tmp_path / "job-7.out"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    program.chmod(0o755)
    with subprocess.Popen([program, "60"]) as running:
        results = bench(tmp_path).run([spec(tmp_path), spec(tmp_path, "other")])
        running.kill()
    reason = f"stdout: {program}: it is a program that is running - choose another path"
    assert (results["7"].state, results["7"].reason) == (State.FAILED, reason)
    assert results["8"].state is State.COMPLETED


@pytest.mark.parametrize(
    ("number", "kind", "text"),
    [
        (errno.EIO, UserError, os.strerror(errno.EIO)),
        (errno.ESTALE, UserError, os.strerror(errno.ESTALE)),
        (errno.ENFILE, HostError, "no descriptors left"),
    ],
)
def test_an_output_that_cannot_be_emptied_is_refused(
    tmp_path: Path, number: int, kind: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its descriptor is closed, and the next attempt tries again."""
    files = Outputs(inline)
    before = os.listdir("/proc/self/fd")
    (tmp_path / "log").write_text("of an earlier run")

    def fail(fd: int, length: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", fail)
        with pytest.raises(kind, match=text):
            files.open("", "stdout", str(tmp_path / "log"), ROOT)
    assert os.listdir("/proc/self/fd") == before
    os.close(files.open("", "stdout", str(tmp_path / "log"), ROOT))
    assert (tmp_path / "log").read_text() == ""


def test_files_that_open_too_late_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "TIMEOUT", 0.1)
    files = Outputs(threads())
    answers, closed = threading.Event(), threading.Event()
    real_open, real_close = outputs._open, outputs.close_all

    def open_slowly(*arguments: Any) -> int:
        answers.wait()
        return real_open(*arguments)

    def close(fds: list[int]) -> None:
        real_close(fds)
        closed.set()

    monkeypatch.setattr(outputs, "_open", open_slowly)
    monkeypatch.setattr(outputs, "close_all", close)
    with pytest.raises(UserError, match="log: no answer from the file system within 100ms"):
        trio.run(files.open_all, "", [("stdout", f"{tmp_path}/log")], ROOT)
    answers.set()
    assert closed.wait(5)
    assert (tmp_path / "log").exists()
    assert str(tmp_path / "log") not in [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]


def test_a_folder_of_a_job_file_that_does_not_answer_stops_the_run_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "TIMEOUT", 0.1)
    answers = threading.Event()
    monkeypatch.setattr(os.path, "realpath", lambda path: answers.wait())
    with pytest.raises(UserError, match=f"{tmp_path}: no answer from the file system within 100ms"):
        trio.run(Outputs(threads()).anchor, "", [spec(tmp_path)], ROOT)
    answers.set()
