"""`batchns run -- COMMAND`: attached, limited, its exit code unchanged."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import batchns, start, until

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]


@pytest.mark.parametrize("code", [0, 1, 42, 125, 255])
def test_the_commands_exit_code_is_returned(folder, code):
    assert batchns("run", "--network", "none", "--", "sh", "-c", f"exit {code}", cwd=folder).code == code


@pytest.mark.parametrize("number", [9, 11, 15])
def test_a_signal_is_returned_as_128_and_its_number(folder, number):
    assert batchns("run", "--network", "none", "--", "sh", "-c", f"kill -{number} $$", cwd=folder).code == 128 + number


def test_a_command_that_does_not_exist_is_127_and_one_that_cannot_run_is_126(folder):
    missing = batchns("run", "--", "no-such-command", cwd=folder)
    assert missing.code == 127
    assert "exec: no-such-command: No such file or directory" in missing.stderr
    assert batchns("run", "--", "/etc/passwd", cwd=folder).code == 126


def test_what_batchns_cannot_do_is_125(folder):
    failed = batchns("run", "--bind", "/no/such/folder:/tmp/x", "--", "true", cwd=folder)
    assert failed.code == 125
    assert "mount bind: /no/such/folder: No such file or directory" in failed.stderr


def test_output_goes_to_the_callers_own_descriptors_and_input_comes_from_them(folder):
    done = subprocess.run(
        [sys.executable, "-m", "batchns", "run", "--", "sh", "-c", "cat; echo error >&2"],
        input="from the caller\n",
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "from the caller\n", "error\n")


def test_a_terminal_stays_a_terminal(folder):
    """The command sees the caller's terminal, but not as its controlling one."""
    outer, inner = pty.openpty()
    program = "import os; print(os.isatty(1)); os.open('/dev/tty', 0)"
    process = subprocess.Popen(
        [sys.executable, "-m", "batchns", "run", "--", "/usr/bin/python3", "-c", program],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        cwd=folder,
    )
    os.close(inner)
    text = b""
    try:
        while chunk := os.read(outer, 4096):
            text += chunk
    except OSError:
        pass  # the last one to hold the other end has closed it
    os.close(outer)
    assert process.wait(30) == 1
    assert b"True" in text
    assert b"No such device or address" in text


def test_all_options_reach_the_job(folder, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "x").write_text("bound")
    options = [
        *("--name", "all", "--cpus", "1", "--cpuset", "0", "--cpu-shares", "512", "--memory", "64MiB"),
        *("--pids", "50", "--egress", "20mbit", "--ingress", "30mbit", "--time-limit", "30s", "--env", "COLOUR=red"),
        *("--scratch", "4MiB", "--bind", f"{data}:/tmp/data:ro", "--cwd", str(folder), "--grace-time", "1s", "--json"),
    ]
    ran = batchns("run", *options, "--", "sh", "-c", "echo $COLOUR; cat /tmp/data/x; pwd; nproc", cwd=Path("/"))
    assert ran.code == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0] == "red"
    assert lines[1] == f"bound{folder}"
    assert lines[2] == "1"
    job = json.loads(lines[-1])
    values = {name: reading["value"] for name, reading in job["limits"].items()}
    # The kernel's own number: cpu.weight has another scale than cpu.shares.
    assert values["cpu_shares"] == {"cpu.shares": 512, "cpu.weight": 50}[job["limits"]["cpu_shares"]["source"]]
    assert values["cpuset_cpus"] == "0"
    assert values["memory"] == 64 << 20
    assert values["pids"] == 50
    assert values["egress"] == 20_000_000
    assert values["ingress"] == 30_000_000
    assert values["scratch"] == 4 << 20


def test_json_has_exactly_the_promised_keys(folder):
    ran = batchns("run", "--json", "--", "true", cwd=folder)
    (line,) = ran.stdout.splitlines()
    assert list(json.loads(line)) == [
        *("job_id", "name", "state", "exit_code", "signal", "reason", "attempts", "queued_seconds", "running_seconds"),
        *("frozen_seconds", "cpu_seconds", "memory_peak_bytes", "io_read_bytes", "io_write_bytes"),
        *("net_sent_bytes", "net_received_bytes", "stdout", "stderr", "limits"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--memory", "64"], "--memory:"),
        (["--egress", "5MB/s"], "--egress:"),
        (["--bind", "../x:/y"], "--bind:"),
        (["--network", "host"], "--network:"),
        (["--cpus", "999"], "cpus"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_started(folder, options, message):
    ran = batchns("run", *options, "--", "touch", "made", cwd=folder)
    assert ran.code == 2
    assert message in ran.stderr
    assert " - " in ran.stderr, "the message says what to write instead"
    assert "Traceback" not in ran.stderr
    assert not (folder / "made").exists()


def test_the_first_interrupt_asks_and_the_job_may_answer(folder):
    process = start("run", "--", "sh", "-c", "trap 'echo bye; exit 3' TERM; touch ready; sleep 60", cwd=folder)
    until((folder / "ready").exists)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (3, "bye\n")


def test_the_second_interrupt_kills(folder):
    process = start("run", "--", "sh", "-c", "trap '' TERM INT; touch ready; while :; do sleep 1; done", cwd=folder)
    until((folder / "ready").exists)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 137


def test_ctrl_z_freezes_the_job_and_fg_thaws_it(folder):
    """Not one more line while the command is stopped; the frozen time is in the result."""
    script = "while :; do echo x >> beats; sleep 0.02; test -e stop && exit 0; done"
    process = start("run", "--json", "--", "sh", "-c", script, cwd=folder)
    until((folder / "beats").exists)
    process.send_signal(signal.SIGTSTP)
    state = Path(f"/proc/{process.pid}/stat")
    until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")
    before = (folder / "beats").stat().st_size
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    assert (folder / "beats").stat().st_size == before
    process.send_signal(signal.SIGCONT)
    until(lambda: (folder / "beats").stat().st_size > before)
    (folder / "stop").touch()
    out, _ = process.communicate(timeout=20)
    job = json.loads(out)
    assert process.returncode == 0
    assert job["frozen_seconds"] >= 0.9
