"""`batchns simulate` as a user types it: figures, files, comparisons, and mistakes without a traceback."""

from __future__ import annotations

import gzip
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

KEYS = [
    "jobs",
    "wait_mean_seconds",
    "bounded_slowdown_mean",
    "bounded_slowdown_p99",
    "utilization",
    "makespan_seconds",
    "preemptions",
    "frozen_seconds_mean",
]
# Two jobs of all CPUs, one after the other by any policy: the second waits for 90 s.
TRACE = """\
; MaxProcs: 4
7 0 -1 100 4 -1 -1 4 100 -1 1 1 1 -1 1 -1 -1 -1
9 10.5 -1 50 4 -1 -1 4 50 -1 1 2 1 -1 1 -1 -1 -1
8 10 -1 50 4 -1 -1 4 50 -1 1 2 1 -1 1 -1 -1 -1
"""


def run(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "batchns", "simulate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **more)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    file = tmp_path / "t.swf"
    file.write_text(TRACE)
    return file


def test_json_is_one_object_with_exactly_these_keys(trace):
    done = run(trace, "--policy", "fcfs", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert list(figures) == KEYS
    assert figures["jobs"] == 3
    assert figures["wait_mean_seconds"] == pytest.approx((0 + 90 + 139.5) / 3, abs=1e-6)
    assert figures["makespan_seconds"] == 200
    assert figures["utilization"] == 1
    assert done.stderr == ""


def test_several_policies_are_an_object_each_that_names_it(trace):
    done = run(trace, "--policy", "fcfs", "--policy", "easy", "--json")
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert [figures["policy"] for figures in objects] == ["fcfs", "easy"]
    assert all(list(figures) == ["policy", *KEYS] for figures in objects)


def test_starts_are_lines_of_id_and_start_whole_where_they_are(trace, tmp_path):
    file = tmp_path / "starts"
    assert run(trace, "--policy", "fcfs", "--starts", file).returncode == 0
    assert file.read_text() == "7 0\n8 100\n9 150\n"
    trace.write_text(TRACE.replace(" 100 4 -1 -1 4 100 ", " 99.25 4 -1 -1 4 100 "))
    assert run(trace, "--policy", "fcfs", "--starts", file).returncode == 0
    assert file.read_text().splitlines()[1] == "8 99.25"


def test_the_table_compares_policies_and_fits_80_columns(trace):
    names = ("fcfs", "easy", "easy-sjbf", "conservative", "preemptive")
    done = run(trace, *(word for name in names for word in ("--policy", name)))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "t.swf: 3 jobs, 4 CPUs"
    assert max(map(len, lines)) <= 80
    assert [word for line in lines for word in line.split() if word in names] == list(names)
    assert sum(line.startswith("mean wait") for line in lines) == 2


def test_cpus_of_the_command_line_count(trace):
    assert json.loads(run(trace, "--cpus", 12, "--json").stdout)["wait_mean_seconds"] == 0


def test_a_packed_trace_is_read(trace):
    packed = trace.with_suffix(".swf.gz")
    packed.write_bytes(gzip.compress(TRACE.encode()))
    assert run(packed, "--json").stdout == run(trace, "--json").stdout


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_is_drawn(trace, tmp_path, suffix):
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    file = tmp_path / f"x.{suffix}"
    done = run(trace, "--timeline", file)
    assert done.returncode == 0, done.stderr
    assert file.stat().st_size > 1000


def test_without_matplotlib_the_message_says_what_to_type(trace, tmp_path):
    hide = "import sys; sys.modules['matplotlib'] = None\nfrom batchns.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", hide, "simulate", str(trace), "--timeline", str(tmp_path / "x.png")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == "--timeline needs matplotlib, which is not installed - pip install 'batchns[plot]'\n"


def test_a_history_is_replayed(tmp_path):
    record = {"job_id": "1", "submitted": 1000, "started": 1000, "running_seconds": 60, "cpus": 1, "memory": 4096}
    file = tmp_path / "history.jsonl"
    file.write_text("".join(json.dumps({**record, "job_id": str(number)}) + "\n" for number in range(3)))
    figures = json.loads(run(file, "--cpus", 1, "--json").stdout)
    assert (figures["jobs"], figures["wait_mean_seconds"]) == (3, 60)


def test_the_machines_own_history_lies_in_its_state_folder(tmp_path):
    config = tmp_path / "batchns.toml"
    config.write_text(f'[node]\ncpus = "0-1"\n[paths]\nstate = "{tmp_path}"\n')
    none = run("history", "--config", config)
    assert none.returncode == 2
    assert f"{tmp_path}/history.jsonl: there is no history yet - " in none.stderr
    record = {"job_id": "1", "submitted": 0, "started": 0, "running_seconds": 60, "cpus": 2, "memory": 4096}
    (tmp_path / "history.jsonl").write_text((json.dumps(record) + "\n") * 2)
    done = run("history", "--config", config, "--json")
    assert json.loads(done.stdout)["wait_mean_seconds"] == 30


def test_a_policy_may_be_a_file(trace, tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text("[node]\n")
    done = run(trace, "--policy", config, "--policy", "easy", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["policy"] == "mine.toml"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such.swf"], "no-such.swf: No such file or directory - "),
        (["."], ".: Is a directory - "),
        (["t.swf", "--policy", "magic"], "--policy magic: no such policy - there are fcfs, easy, "),
        (["t.swf", "--policy", "no-such.toml"], "no-such.toml: cannot be read: No such file"),
        (["t.swf", "--cpus", "0"], "0 is out of range - write 1 to 1048576"),
        (["t.swf", "--starts", "no-such-folder/x"], "--starts no-such-folder/x: No such file"),
        (["t.swf", "--timeline", "no-such-folder/x.png"], "--timeline no-such-folder/x.png: No such file"),
        (["t.swf", "--timeline", "x.pdf"], "ends neither in .svg nor in .png"),
        (["t.swf", "--policy", "fcfs", "--policy", "easy", "--starts", "x"], "give one --policy"),
        (["t.swf", "--policy", "fcfs", "--policy", "easy", "--timeline", "x.png"], "give one --policy"),
        (["t.swf", "--config", "x.toml"], "--config says where the history is"),
        (["broken.swf"], 'broken.swf:2: field 4 (run time) is "x"'),
        (["broken.gz"], "broken.gz: Not a gzipped file"),
        (["broken.jsonl"], "broken.jsonl:1: no JSON object - "),
        ([], "Missing argument"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(trace, arguments, message):
    folder = trace.parent
    (folder / "broken.swf").write_text(TRACE.replace(" 100 4 ", " x 4 "))
    for name in ("broken.gz", "broken.jsonl"):
        (folder / name).write_text("{\n{\n")
    done = run(*arguments, cwd=folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """A trace that takes some seconds."""
    file = tmp_path / "long.swf"
    line = "{} {} -1 10 1 -1 -1 1 100 -1 1 1 1 -1 1 -1 -1 -1\n"
    file.write_text("; MaxProcs: 4\n" + "".join(line.format(number, number * 4) for number in range(60_000)))
    return file


@contextmanager
def on_a_terminal(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], Callable[[], bytes]]]:
    """The command with a terminal as its stderr, and a function that reads of that what there is; b"" at its end."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "batchns", "simulate", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, text=True) as process:
        os.close(slave)

        def read() -> bytes:
            try:
                return os.read(master, 4096)
            except OSError:  # nobody has the other end any more
                return b""

        try:
            yield process, read
        finally:
            process.kill()
            os.close(master)


def test_progress_is_shown_on_a_terminal_and_gone_at_the_end(long):
    """Nothing of it reaches stdout."""
    with on_a_terminal(long, "--json") as (process, read):
        shown = b"".join(iter(read, b""))
        assert json.loads(process.stdout.read())["jobs"] == 60_000
        assert process.wait(timeout=30) == 0
    assert b" of 60,000 jobs, " in shown
    assert shown.endswith(b"\r\x1b[K")


def test_an_interrupt_ends_it_with_130_and_no_traceback(long):
    with on_a_terminal(long, "--json") as (process, read):
        first = read()
        process.send_signal(signal.SIGINT)
        rest = b"".join(iter(read, b""))
        assert process.wait(timeout=30) == 130
        assert process.stdout.read() == ""
    assert b"jobs, " in first
    assert rest.endswith(b"\r\x1b[K")
    assert b"Traceback" not in rest


def test_the_command_line_loads_nothing_of_it_before_it_is_used():
    code = "import sys, batchns.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    loaded = done.stdout.split()
    assert "batchns.cli.main" in loaded
    assert [name for name in loaded if "simulate" in name or "matplotlib" in name] == []


def test_a_simulation_loads_neither_kernel_nor_pictures(trace):
    code = (
        "import sys; sys.argv = ['batchns', 'simulate', sys.argv[1], '--json']\n"
        "from batchns.cli.main import cli\n"
        "try: cli()\n"
        "except SystemExit: print(*{name.split('.')[1] for name in sys.modules if name.startswith('batchns.')},\n"
        "                         *(name for name in ('matplotlib', 'trio', 'rich') if name in sys.modules))"
    )
    command = [sys.executable, "-c", code, str(trace)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert loaded == {"cli", "core", "errors", "model", "simulate", "units"}
