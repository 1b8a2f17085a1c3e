"""`batchns check` and the loader that `run` shares: every kind of path, every mistake, never a traceback or a hang."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from batchns.cli.check import check
from batchns.cli.load import find_config, load_jobs
from batchns.model.config import Config
from batchns.model.problems import JobFileErrors
from batchns.model.schema import rendered

GOOD = 'name = "a"\ncommand = ["true"]\n'
BAD = 'name = "b"\ncommand = ["true"]\nmemory = 4\n'
BAD_MESSAGE = "3: memory: unknown key - write it in [resources], as resources.memory"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Paths in messages are those that were typed, so tests type relative ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BATCHNS_CONFIG", raising=False)
    return tmp_path


def run(*arguments: str, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(check, arguments, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_good_files_are_counted() -> None:
    Path("one.toml").write_text(GOOD)
    Path("two.toml").write_text('[[job]]\nname = "b"\nscript = "true"\n[[job]]\nname = "c"\nscript = "true"\n')
    result = run("one.toml", "two.toml")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "one.toml: 1 job ok\ntwo.toml: 2 jobs ok\n", "")


def test_what_only_a_cluster_heeds_is_said_to_have_no_effect(in_a_folder: Path) -> None:
    (in_a_folder / "a.toml").write_text('name = "a"\ncommand = ["true"]\nslurm.account = "physics"\n')
    result = run("a.toml")
    assert result.exit_code == 0
    assert "a.toml: [slurm] has no effect on this machine - it is for --to slurm" in result.stdout.splitlines()


def test_all_mistakes_of_all_files_are_shown_and_the_exit_code_is_2() -> None:
    Path("good.toml").write_text(GOOD)
    Path("bad.toml").write_text(BAD + "queue = 1\n")
    Path("worse.toml").write_text("name = ")
    result = run("bad.toml", "good.toml", "worse.toml")
    assert (result.exit_code, result.stdout) == (2, "good.toml: 1 job ok\n")
    assert result.stderr == (
        f"bad.toml:{BAD_MESSAGE}\n"
        'bad.toml:4: queue: must be a string, not 1 - write "normal"\n'
        'worse.toml:1: end of file: this is no TOML value - put text in quotes: key = "value"\n'
    )


def test_json_is_a_line_for_each_mistake() -> None:
    """For editors and scripts; what is right has no line."""
    Path("good.toml").write_text(GOOD)
    Path("bad.toml").write_text(BAD)
    result = run("--json", "bad.toml", "good.toml", "none.toml")
    assert (result.exit_code, result.stderr) == (2, "")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {
            "file": "bad.toml",
            "line": 3,
            "path": "memory",
            "what": "unknown key",
            "hint": "write it in [resources], as resources.memory",
        },
        {
            "file": "none.toml",
            "line": 0,
            "path": "",
            "what": "cannot be read: No such file or directory",
            "hint": "check the path",
        },
    ]
    assert run("--json", "good.toml").stdout == ""
    assert run("--json", "--plan", "good.toml").exit_code == 2


def test_a_folder_is_all_its_job_files() -> None:
    Path("jobs").mkdir()
    Path("jobs/b.toml").write_text(GOOD.replace('"a"', '"b"'))
    Path("jobs/a.toml").write_text(GOOD)
    Path("jobs/.hidden.toml").write_text(BAD)
    Path("jobs/batchns.toml").write_text("[node]\n")
    Path("jobs/readme.md").write_text("no job")
    result = run("jobs")
    assert (result.exit_code, result.stdout) == (0, "jobs/a.toml: 1 job ok\njobs/b.toml: 1 job ok\n")


def test_a_bad_file_of_a_folder_does_not_hide_the_others() -> None:
    Path("jobs").mkdir()
    Path("jobs/a.toml").write_text(BAD)
    Path("jobs/b.toml").write_text(GOOD)
    Path("jobs/c.toml").write_text(BAD.replace('"b"', '"c"'))
    result = run("jobs")
    assert (result.exit_code, result.stdout) == (2, "jobs/b.toml: 1 job ok\n")
    assert result.stderr == f"jobs/a.toml:{BAD_MESSAGE}\njobs/c.toml:{BAD_MESSAGE}\n"


def test_a_dash_is_standard_input() -> None:
    assert run("-", stdin=GOOD).stdout == "-: 1 job ok\n"
    result = run("-", stdin=BAD)
    assert (result.exit_code, result.stderr) == (2, f"-:{BAD_MESSAGE}\n")


def test_files_are_checked_against_each_other() -> None:
    Path("a.toml").write_text(GOOD)
    Path("b.toml").write_text('name = "b"\nscript = "true"\ndependency = ["afterok:a"]\n')
    assert run("a.toml", "b.toml").exit_code == 0
    result = run("b.toml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == 'b.toml:1: dependency: there is no job "a" - give the file that holds it as well\n'
    assert run("a.toml", "a.toml").stderr == (
        'a.toml:1: name: "a" is there twice - choose another name: the job at a.toml:1 has it\n'
    )


def test_paths_that_are_no_job_file_are_named(in_a_folder: Path) -> None:
    """A FIFO, a socket and a device among them: none of them makes it wait."""
    os.mkfifo("fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("socket")
    Path("empty").mkdir()
    Path("loop").symlink_to("loop")
    Path("big.toml").write_bytes(b"#" * 70000)
    with listener:
        result = run("nowhere.toml", "fifo", "socket", "/dev/zero", "empty", "loop", "big.toml", "a" * 300)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "nowhere.toml: cannot be read: No such file or directory - check the path",
        "fifo: is no regular file - give a file, or - to read standard input",
        "socket: cannot be read: No such device or address",
        "/dev/zero: is no regular file - give a file, or - to read standard input",
        "empty: is a folder without *.toml files - give a job file",
        "loop: cannot be read: Too many levels of symbolic links",
        "big.toml: more than 64 KiB - split it into several files",
        f"{'a' * 300}: cannot be read: File name too long",
    ]


def test_a_file_that_may_not_be_read_is_named() -> None:
    Path("secret.toml").write_text(GOOD)
    Path("secret.toml").chmod(0)
    euid = os.geteuid()
    os.seteuid(65534 if euid == 0 else euid)  # root may read everything
    try:
        with pytest.raises(JobFileErrors) as raised:
            load_jobs(["secret.toml"], Config())
    finally:
        os.seteuid(euid)
    assert str(raised.value) == "secret.toml: cannot be read: Permission denied - ask its owner for read permission"


def test_a_file_name_cannot_write_to_the_terminal() -> None:
    name = "\x1b[31m\n.toml"
    Path(name).write_text(BAD)
    assert run(name).stderr == f"\\x1b[31m\\n.toml:{BAD_MESSAGE}\n"
    Path(name).write_text(GOOD)
    assert run(name).stdout == "\\x1b[31m\\n.toml: 1 job ok\n"


def test_the_settings_are_those_of_config_then_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("night.toml").write_text("[queues.night]\n")
    Path("day.toml").write_text("[queues.day]\n")
    Path("job.toml").write_text(GOOD + 'queue = "night"\n')
    assert run("job.toml").exit_code == 2
    assert run("--config", "night.toml", "job.toml").exit_code == 0
    monkeypatch.setenv("BATCHNS_CONFIG", "night.toml")
    assert run("job.toml").exit_code == 0
    assert run("--config", "day.toml", "job.toml").exit_code == 2


def test_mistakes_in_the_settings_are_mistakes() -> None:
    Path("c.toml").write_text("[node]\nmemory = 64\n")
    Path("job.toml").write_text(GOOD)
    result = run("--config", "c.toml", "job.toml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == 'c.toml:2: node.memory: "64" has no unit - write "64MiB" or "64GiB"\n'
    assert run("--config", "no.toml", "job.toml").stderr == (
        "no.toml: cannot be read: No such file or directory - check the path\n"
    )


def test_settings_come_from_the_first_place_that_has_them() -> None:
    Path("a.toml").write_text("network.mtu = 1400")
    Path("b.toml").write_text("network.mtu = 1300")
    environ = {"BATCHNS_CONFIG": "b.toml"}
    assert find_config("a.toml", environ=environ, system="b.toml").network.mtu == 1400
    assert find_config(None, environ=environ, system="a.toml").network.mtu == 1300
    assert find_config(None, environ={}, system="a.toml").network.mtu == 1400
    assert find_config(None, environ={}, system="none.toml") == Config()


def test_settings_that_may_not_be_read_do_not_become_the_defaults() -> None:
    Path("etc").mkdir()
    Path("etc/batchns.toml").write_text("node.strict = true")
    Path("etc").chmod(0)
    euid = os.geteuid()
    os.seteuid(65534 if euid == 0 else euid)
    try:
        with pytest.raises(JobFileErrors, match="Permission denied"):
            find_config(None, environ={}, system="etc/batchns.toml")
    finally:
        os.seteuid(euid)
        Path("etc").chmod(0o700)


def test_no_file_at_all_is_a_usage_error() -> None:
    result = run()
    assert result.exit_code == 2 and "write batchns check FILE..." in result.stderr


@pytest.mark.parametrize("kind", ["job", "config"])
def test_the_schema_can_be_printed(kind: str) -> None:
    assert run("--schema", kind).stdout == rendered()[f"{kind}.schema.json"]


def test_the_loader_gives_jobs_with_their_folders(in_a_folder: Path) -> None:
    Path("sub").mkdir()
    Path("sub/a.toml").write_text(GOOD)
    (job,) = load_jobs(["sub"], Config())
    assert (job.cwd, job.source) == (str(in_a_folder / "sub"), "sub/a.toml:1")
    with pytest.raises(JobFileErrors) as raised:
        load_jobs(["sub", "nowhere"], Config())
    assert str(raised.value) == "nowhere: cannot be read: No such file or directory - check the path"


def test_starting_it_imports_nothing_heavy() -> None:
    """Half of the time of a short command is imports."""
    program = "import sys, batchns.cli.check, batchns.model.options; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "batchns.model.codec" in loaded
    assert not {"trio", "pyroute2", "rich", "hypothesis", "tomlkit", "jsonschema", "cattrs", "asyncio"} & set(loaded)


def test_a_plan_shows_who_would_start_when() -> None:
    """By the policy itself: reservations, backfill, dependencies and times; nothing is started, nothing written."""
    Path("batchns.toml").write_text(f'[node]\ncpus = "0"\nmemory = "64MiB"\n[paths]\nstate = "{Path.cwd()}/state"\n')
    job = '[[job]]\nname = "{}"\nscript = "touch ran"\n{}\n'
    Path("jobs.toml").write_text(
        job.format("second", 'time_limit = "20m"')
        + job.format("first", 'time_limit = "1h"\npriority = 60')
        + job.format("after", 'dependency = ["afterok:second"]\nresources.cpus = 0.5')
        + job.format("late", 'begin = "+3h"\ntime_limit = "10m"\nresources.cpus = 0.5')
    )
    result = run("--config", "batchns.toml", "--plan", "jobs.toml")
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()[2:7]]
    assert rows == [
        ["JOB", "NAME", "QUEUE", "CPUS", "MEM", "LASTS", "STARTS", "ENDS"],
        ["1", "second", "normal", "1", "64MiB", "20m", "in", "1h", "in", "1h20m"],
        ["2", "first", "normal", "1", "64MiB", "1h", "at", "once", "in", "1h"],
        ["3", "after", "normal", "0.5", "32MiB", "?", "in", "1h20m", "?"],
        ["4", "late", "normal", "0.5", "32MiB", "10m", "in", "3h", "in", "3h10m"],
    ]
    assert "? has no time limit and no history: 1d is assumed for it." in result.stdout
    assert not Path("ran").exists()
    assert not Path("state").exists()


def test_a_plan_refuses_what_can_never_run_here() -> None:
    Path("jobs.toml").write_text('name = "big"\ncommand = ["true"]\nresources.cpus = 4096\n')
    ended = subprocess.run(
        [sys.executable, "-m", "batchns", "check", "--plan", "jobs.toml"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "big: cpus = 4096: this node has" in ended.stderr
    assert "Traceback" not in ended.stderr
