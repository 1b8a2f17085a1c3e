"""stdin, stdout and stderr as scripts, services and old terminals have them: full, closed, gone, ASCII only."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from attrs import evolve

from .conftest import Done
from .fake import NOW, Daemon, Running


def shell(server: Running, line: str, **environ: str) -> Done:
    """`line` in a shell in which `batchns` is the command."""
    done = subprocess.run(
        ["sh", "-c", f'batchns() {{ {sys.executable} -m batchns "$@"; }}\n{line}'],
        env={**os.environ, "BATCHNS_SOCKET": str(server.socket), **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("command", ["ps", "ps --json", "logs 12", "show 12", "cancel 12", "--help"])
def test_output_that_cannot_be_written_is_one_line_and_125(server: Running, command: str) -> None:
    done = shell(server, f"batchns {command} > /dev/full")
    assert (done.code, done.out) == (125, "")
    assert done.err == "batchns: the output cannot be written: No space left on device\n"


def test_a_remote_commands_output_that_cannot_be_written_is_told_and_its_exit_code_stays(
    server: Running, fake: Daemon
) -> None:
    fake.ends = lambda job: evolve(job, state="FAILED", started=NOW, ended=NOW, exit_code=3)
    done = shell(server, "batchns run --remote -- true > /dev/full")
    assert (done.code, done.out) == (3, "")
    assert "batchns: stdout is not shown: No space left on device (batchns logs 101)\n" in done.err


@pytest.mark.parametrize("command", ["ps", "ps --json", "ps 12 nix", "history", "--help"])
def test_a_reader_that_has_gone_is_no_error_to_speak_of(server: Running, command: str) -> None:
    """`batchns ps | head -1`."""
    done = shell(server, f"{{ sleep 0.5; batchns {command}; echo $? >&2; }} | true")
    assert done.err.splitlines()[-1] == "1"
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["ps", "logs 12", "wait 13_0"])
def test_closed_streams_are_as_good_as_dev_null(server: Running, command: str) -> None:
    assert shell(server, f"batchns {command} >&-") == Done(0, "", "")
    assert shell(server, f"batchns {command} <&- >&- 2>&-") == Done(0, "", "")


def test_a_job_file_from_a_closed_stdin_is_empty(server: Running, fake: Daemon) -> None:
    assert shell(server, "batchns submit - <&-").code == 0
    assert fake.asked[-1].files[0].text == ""  # type: ignore[attr-defined]


def test_with_stdout_closed_a_process_is_not_told_its_own_output(server: Running, fake: Daemon) -> None:
    """The daemon's socket must not become descriptor 1."""
    done = shell(server, "echo hello | batchns exec 12 -- cat >&-; batchns exec 12 -- cat <&-")
    assert (done.out, done.err) == ("", "NoneNone")
    assert [len(one.command) for one in fake.commands] == [1, 1]


def test_where_stdout_has_ascii_only_the_columns_stay(server: Running) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    lines = shell(server, "batchns ps 16 17", **plain).out.splitlines()
    utf8 = shell(server, "batchns ps 16 17").out.splitlines()
    assert lines == [line.replace("…", "?").replace("ä", "?") for line in utf8]
    assert any("sp?ter" in line for line in lines)
