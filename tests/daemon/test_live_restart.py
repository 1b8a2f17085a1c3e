"""Daemon and launcher are stopped, killed and started again: jobs do not notice, and nothing that was said is lost."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batchns.cli.load import find_config
from batchns.client.errors import ApiError, Lost, NoDaemon
from batchns.supervise.scratch import room
from batchns.wire import types as wire

from ..system.conftest import until
from .live import Live, children, holds, live, lives, ticks

pytestmark = pytest.mark.kernel

SETTINGS = """
[node]
memory = "1GiB"
[defaults]
grace_time = "20s"
"""
MORE = SETTINGS + "[queues.extra]\npriority = 60\n"
SLEEP = ("sleep", "600")
LIMITED = ("--time-limit", "1h", "--", *SLEEP)
# Numbered lines, as fast as it can say them, until there is a file "go"; then with an exit code of its own.
COUNTS = "i=0; until test -e go; do i=$((i+1)); echo $i; sleep 0.01; done; echo last $i; exit 7"


@pytest.fixture(scope="module")
def machine(_alone: None) -> Iterator[Live]:
    with live(SETTINGS) as made:
        yield made


@pytest.fixture
def daemon(machine: Live) -> Iterator[Live]:
    yield machine
    if machine.daemon is None or machine.daemon.poll() is not None:
        machine.start()
    machine.clear()


def stopped(daemon: Live) -> None:
    daemon.stop()


def killed(daemon: Live) -> None:
    daemon.kill()


def both_killed(daemon: Live) -> None:
    daemon.kill()
    daemon.kill_launcher()


def launcher_killed(daemon: Live) -> None:
    daemon.kill_launcher()
    daemon.kill()


@pytest.mark.parametrize("end", [stopped, killed, both_killed, launcher_killed])
def test_jobs_run_on_while_there_is_no_daemon(daemon: Live, end: Callable[[Live], None]) -> None:
    folders = [daemon.folder() for _ in range(3)]
    goes_on, ends, fails = folders
    running = daemon.submit("--name", "runs", "--", "sh", "-c", COUNTS, cwd=goes_on)
    ending = daemon.submit("--name", "ends", "--", "sh", "-c", COUNTS, cwd=ends)
    failing = daemon.submit("--name", "dies", "--", "sh", "-c", COUNTS.replace("exit 7", "kill -9 $$"), cwd=fails)
    dependent = daemon.submit("--name", "after", "--dependency", f"afternotok:{ending}", "--", "true")
    for job in (running, ending, failing):
        daemon.until(job, "RUNNING")
    until(lambda: all(len((folder / out).read_text().splitlines()) > 5 for folder, out in outputs(folders)))
    pid = daemon.pid(running)

    end(daemon)
    said = (goes_on / f"runs-{running}.out").stat().st_size
    (ends / "go").touch()
    (fails / "go").touch()
    until(lambda: (goes_on / f"runs-{running}.out").stat().st_size > said)  # with nobody there
    until(lambda: all("last" in (folder / out).read_text() for folder, out in outputs(folders[1:])))
    daemon.start()

    assert daemon.pid(running) == pid and daemon.state(running) == "RUNNING"
    row = daemon.over(ending)
    assert (row.state, row.exit_code, row.attempt) == ("FAILED", 7, 1)
    assert daemon.over(failing).signal == "SIGKILL"
    assert daemon.over(dependent).state == "COMPLETED"  # which waited for an end that nobody saw
    (goes_on / "go").touch()
    row = daemon.over(running)
    assert (row.state, row.exit_code, row.attempt) == ("FAILED", 7, 1)
    for job in (running, ending, failing):
        said_by = daemon("logs", job).stdout.splitlines()
        count = int(said_by.pop().removeprefix("last "))
        assert said_by == [str(number) for number in range(1, count + 1)] and count > 5


def outputs(folders: list[Path]) -> list[tuple[Path, str]]:
    return [(folder, path.name) for folder in folders for path in folder.glob("*.out")]


def test_what_was_asked_of_jobs_holds_over_a_restart(daemon: Live) -> None:
    spinning = daemon.submit("--name", "spins", "--", "sh", "-c", "while :; do :; done")
    daemon.until(spinning, "RUNNING")
    (command,) = until(lambda: children(daemon.pid(spinning)))
    daemon("freeze", spinning)
    daemon.until(spinning, "SUSPENDED")
    held = daemon.submit("--name", "held", "--hold", "--", "true")
    array = daemon.submit("--name", "tasks", "--array", "0-3%1", "--", *SLEEP)
    daemon.until(f"{array}_0", "RUNNING")
    block = daemon.submit("--name", "blocks", "--cpus", "1", "--dependency", f"afterany:{array}", "--", "true")
    assert daemon("prio", "77", f"{array}_2", held).code == 0
    before = ticks(command)

    for end in (stopped, killed):
        end(daemon)
        daemon.start()
        assert daemon.state(spinning) == "SUSPENDED" and f"thaw {spinning}" in daemon("why", spinning).stdout
        assert daemon.state(held) == "PENDING" and daemon.row(held).priority == 77
        assert daemon.state(block) == "PENDING" and array in daemon("why", block).stdout
        tasks = [daemon.state(f"{array}_{n}") for n in range(4)]
        assert tasks == ["RUNNING", "PENDING", "PENDING", "PENDING"], tasks
        assert "1 task at a time" in daemon("why", f"{array}_1").stdout
        assert ticks(command) == before

    assert daemon("thaw", spinning).code == 0
    daemon.until(spinning, "RUNNING")
    until(lambda: ticks(command) > before)
    assert daemon("release", held).code == 0
    assert daemon.over(held).state == "COMPLETED"
    daemon("cancel", f"{array}_0")
    daemon.until(f"{array}_2", "RUNNING")  # the larger priority
    assert daemon.state(f"{array}_1") == "PENDING"
    daemon("cancel", array)
    assert daemon.over(block).state == "COMPLETED"


def test_a_job_that_was_asked_to_end_is_killed_by_the_next_daemon(daemon: Live) -> None:
    daemon.configure(SETTINGS.replace("20s", "1s"))
    daemon.restart()
    try:
        job = daemon.submit("--", "sh", "-c", "trap 'echo asked' TERM; echo up; while :; do sleep 0.05; done")
        until(lambda: daemon.output(job) == "up\n")
        assert daemon("cancel", job).code == 0
        daemon.kill()
        time.sleep(1.2)  # its grace is over, and nobody kills it
        daemon.start()
        row = daemon.over(job, 10)
        assert (row.state, row.signal) == ("CANCELLED", "SIGKILL")
    finally:
        daemon.configure(SETTINGS)
        daemon.restart()


def test_a_launcher_that_is_killed_is_replaced_while_the_daemon_runs(daemon: Live) -> None:
    folder = daemon.folder()
    job = daemon.submit("--name", "runs", "--", "sh", "-c", COUNTS, cwd=folder)
    daemon.until(job, "RUNNING")
    for _ in range(2):
        daemon.kill_launcher()
        assert daemon.over(daemon.submit("--", "true")).state == "COMPLETED"
    assert daemon("exec", job, "--", "true").code == 0
    (folder / "go").touch()
    row = daemon.over(job)
    assert (row.state, row.exit_code, row.attempt) == ("FAILED", 7, 1)


def connected(pid: int) -> bool:
    """Whether a process holds a socket; its other descriptors come and go while one looks."""
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.readlink().name.startswith("socket:"):
                return True
    return False


def test_what_is_followed_goes_on_after_a_restart(daemon: Live) -> None:
    folder = daemon.folder()
    job = daemon.submit("--name", "runs", "--", "sh", "-c", COUNTS, cwd=folder)
    daemon.until(job, "RUNNING")
    script = "echo one; until test -e remote; do sleep 0.05; done; echo two; exit 4"
    remote = daemon.popen("run", "--remote", "--", "sh", "-c", script, cwd=folder)
    assert remote.stdout.readline() == "one\n"
    following = daemon.popen("logs", "-f", job)
    assert following.stdout.readline() == "1\n"
    waiting = daemon.popen("wait", job)
    until(lambda: connected(waiting.pid))
    time.sleep(0.3)
    daemon.kill()
    (folder / "go").touch()
    time.sleep(0.4)
    daemon.start()
    out, err = waiting.communicate(timeout=20)
    assert waiting.returncode == 1 and "FAILED" in out and "exit code 7" in out, (out, err)
    assert following.stdout.read() == (folder / f"runs-{job}.out").read_text().removeprefix("1\n")
    (folder / "remote").touch()
    assert remote.communicate(timeout=20)[0] == "two\n" and remote.returncode == 4


# One daemon


def another(daemon: Live, config: str) -> subprocess.CompletedProcess[str]:
    path = daemon.base / "other.toml"
    path.write_text(config)
    return subprocess.run(
        [sys.executable, "-m", "batchns", "daemon", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_second_daemon_is_refused_and_disturbs_nothing(daemon: Live) -> None:
    job = daemon.submit("--", *SLEEP)
    daemon.until(job, "RUNNING")
    same = another(daemon, daemon.config.read_text())
    assert same.returncode == 125 and "one daemon at a time" in same.stderr and len(same.stderr.splitlines()) == 1, same
    text = daemon.config.read_text()
    other = daemon.folder()
    socket = another(
        daemon,
        text.replace(f"{daemon.base}/state", f"{other}/state").replace(str(daemon.run), f"{daemon.run}2")
        + f'[daemon]\nsocket = "{daemon.socket}"\n',
    )
    subprocess.run(["rm", "-rf", f"{daemon.run}2"], check=True)
    assert socket.returncode == 125 and str(daemon.socket) in socket.stderr, socket
    assert "Traceback" not in same.stderr + socket.stderr
    assert daemon.state(job) == "RUNNING" and daemon.over(daemon.submit("--", "true")).state == "COMPLETED"


def test_a_good_batchns_toml_is_used_at_sighup_and_a_bad_one_is_not(daemon: Live) -> None:
    assert daemon("submit", "--queue", "extra", "--", "true").code == 2
    job = daemon.submit("--", *SLEEP)
    daemon.until(job, "RUNNING")
    reload(daemon, MORE, "has been read again")
    assert daemon.over(daemon.submit("--queue", "extra", "--", "true")).state == "COMPLETED"
    reload(daemon, MORE + "prioritty = 3\n", "is not used")
    assert "prioritty" in daemon.said.splitlines()[-1]
    assert daemon.over(daemon.submit("--queue", "extra", "--", "true")).state == "COMPLETED"
    waiting = daemon.submit("--queue", "extra", "--hold", "--", "true")
    reload(daemon, SETTINGS, "has been read again")
    assert daemon.state(job) == "RUNNING"
    assert daemon("release", waiting).code == 0
    assert "no queue extra" in daemon("why", waiting).stdout  # it is not lost, and says so
    daemon.restart()
    assert daemon.state(job) == "RUNNING" and "no queue extra" in daemon("why", waiting).stdout


def test_the_bound_of_processes_of_all_jobs_is_that_of_the_latest_settings(daemon: Live) -> None:
    fork = ("sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 0.3 & done; wait")
    assert daemon.over(daemon.submit("--", *fork)).state == "COMPLETED"
    reload(daemon, SETTINGS.replace("[node]\n", "[node]\npids = 16\n", 1), "has been read again")
    assert daemon.over(daemon.submit("--", *fork)).state == "FAILED"
    reload(daemon, SETTINGS, "has been read again")
    assert daemon.over(daemon.submit("--", *fork)).state == "COMPLETED"


def reload(daemon: Live, settings: str, answer: str) -> None:
    daemon.configure(settings)
    assert daemon.daemon is not None
    there = len(daemon.said)
    daemon.daemon.send_signal(signal.SIGHUP)
    until(lambda: answer in daemon.said[there:])


def test_a_drained_node_stays_so(daemon: Live) -> None:
    assert daemon("drain", "new disk").code == 0
    job = daemon.submit("--", "true")
    for end in (stopped, killed):
        end(daemon)
        daemon.start()
        assert "new disk" in daemon("node").stdout
        assert holds(lambda: daemon.state(job) == "PENDING", 0.3)
    assert daemon("resume").code == 0
    assert daemon.over(job).state == "COMPLETED"


def test_after_a_reboot_jobs_are_lost_or_back_in_the_queue(daemon: Live) -> None:
    folder = daemon.folder()
    lost = daemon.submit("--name", "lost", "--", *SLEEP)
    again = daemon.submit(
        "--name", "again", "--max-retries", "1", "--", "sh", "-c", "echo x >> ran; sleep 600", cwd=folder
    )
    frozen = daemon.submit("--name", "frozen", "--", *SLEEP)
    held = daemon.submit("--name", "held", "--hold", "--", "true")
    for job in (lost, again, frozen):
        daemon.until(job, "RUNNING")
    daemon("freeze", frozen)
    daemon.until(frozen, "SUSPENDED")
    before = reboot(daemon)
    assert daemon.over(lost).state == "NODE_FAIL" and daemon.over(frozen).state == "NODE_FAIL"
    assert daemon.until(again, "RUNNING").attempt == 2
    until(lambda: (folder / "ran").read_text() == "x\nx\n")
    assert daemon.state(held) == "PENDING" and daemon.over(daemon.submit("--", "true")).state == "COMPLETED"
    assert not list(filter(lives, before))


def reboot(daemon: Live) -> list[int]:
    """As if: every process ends at once, and what was noted of the run is of another boot. Returns what ran."""
    ran = [pid for pid, _ in daemon._family()]
    daemon.kill()
    for pid in ran:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    (kept,) = daemon.run.glob("run-*/kept")
    assert re.fullmatch(r"[0-9a-f-]{36}", kept.read_text())
    kept.write_text("00000000-0000-0000-0000-000000000000")
    daemon.start()
    return ran


def memory_limit(daemon: Live, job: str) -> int:
    """Bytes, as the kernel has it."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{daemon.pid(job)}/cgroup").read_text().splitlines()]
    old = [path for _, controllers, path in lines if "memory" in controllers.split(",")]
    if old:
        return int(Path(f"/sys/fs/cgroup/memory{old[0]}/memory.limit_in_bytes").read_text())
    (path,) = [path for number, _, path in lines if number == "0"]
    return int(Path(f"/sys/fs/cgroup{path}/memory.max").read_text())


def test_a_frozen_jobs_memory_is_its_own_again_after_a_restart(_alone: None) -> None:
    """It was bounded to what it held, for another one; the daemon that did so is dead when it goes on."""
    settings = '[node]\nmemory = "1GiB"\n[queues.normal]\n[queues.urgent]\npriority = 90\npreempts = ["normal"]\n'
    with live(settings) as daemon:
        long = daemon.submit("--cpus", "2", "--memory", "512MiB", *LIMITED)
        daemon.until(long, "RUNNING")
        own = memory_limit(daemon, long)
        urgent = ("--queue", "urgent", "--cpus", "1")
        hot = daemon.submit(*urgent, "--memory", "300MiB", *LIMITED)
        daemon.until(hot, "RUNNING")
        more = daemon.submit(*urgent, "--memory", "400MiB", *LIMITED)  # for which there is none but the frozen one's
        daemon.until(more, "RUNNING")
        assert daemon.state(long) == "SUSPENDED" and memory_limit(daemon, long) < own
        daemon.kill()
        daemon.start()
        daemon("cancel", hot, more)
        daemon.until(long, "RUNNING")
        assert memory_limit(daemon, long) == own


def test_whoever_was_submitted_before_the_end_is_told(daemon: Live) -> None:
    """What a client heard of is what there is: nobody's answer is lost in a stop."""
    daemon("drain")
    answered: list[str] = []

    def submit_on() -> None:
        command = wire.CommandLine(options={"name": "late", "command": ["true"]}, folder="/")
        with daemon.client() as client, contextlib.suppress(NoDaemon, Lost, ApiError):
            while True:
                answered.append(client.submit(wire.SubmitRequest(commands=(command,))).jobs[0].id)

    clients = [threading.Thread(target=submit_on) for _ in range(8)]
    for one in clients:
        one.start()
    until(lambda: len(answered) > 50)
    began = time.monotonic()
    daemon.stop()
    assert time.monotonic() - began < 5
    for one in clients:
        one.join()
    daemon.start()
    with daemon.client() as client:
        assert sorted(job.id for job in client.jobs(["late"])) == sorted(answered)
    daemon("cancel", "late")
    daemon("resume")


def test_the_end_of_a_second_attempt_is_followed_over_a_restart(daemon: Live) -> None:
    """From its last lines on, each line once; so is an attempt that was asked for."""
    folder = daemon.folder()
    job = daemon.submit("--name", "twice", "--", "sh", "-c", COUNTS.replace("exit 7", ""), cwd=folder)
    daemon.until(job, "RUNNING")
    first = daemon.popen("logs", "-f", "--attempt", "1", job)
    assert first.stdout.readline() == "1\n"
    assert daemon("requeue", job).code == 0
    assert daemon.until(job, "RUNNING").attempt == 2
    until(lambda: len(daemon.output(job).splitlines()) > 20)
    following = daemon.popen("logs", "-f", "-n", "3", job)
    second = daemon.popen("logs", "-f", "-n", "0", "--attempt", "2", job)
    lines = [following.stdout.readline()]
    until(lambda: connected(second.pid))
    time.sleep(0.3)
    daemon.kill()
    time.sleep(0.3)
    daemon.start()
    time.sleep(0.8)
    (folder / "go").touch()
    lines += following.stdout.read().splitlines(keepends=True)
    following.wait(20)
    numbers = [int(line.removeprefix("last ")) for line in lines]
    begun, last = numbers[0], numbers.pop()
    assert following.returncode == 0 and begun > 10 and numbers == list(range(begun, last + 1)), numbers
    numbers = [int(line.removeprefix("last ")) for line in second.communicate(timeout=20)[0].splitlines()]
    assert second.returncode == 0 and numbers[:-1] == list(range(numbers[0], last + 1)) and numbers[0] > begun
    assert first.stdout.read().startswith("2\n3\n") and first.wait(20) == 0


def test_run_remote_waits_for_a_slow_reader_of_its_output(daemon: Live) -> None:
    """Longer than for a daemon that says no more."""
    script = "yes 0123456789abcdef | head -c 8000000"
    remote = daemon.popen("run", "--remote", "--cpus", "0.5", "--", "sh", "-c", script)
    time.sleep(7.0)
    assert remote.poll() is None
    assert len(remote.communicate(timeout=20)[0]) == 8_000_000 and remote.returncode == 0


def test_run_remote_says_what_is_missing_when_whoever_reads_is_left(daemon: Live) -> None:
    """Ctrl-C, while nobody takes what the job wrote before it ended."""
    remote = daemon.popen("run", "--remote", "--name", "long", "--", "sh", "-c", "yes | head -c 8000000")
    until(lambda: any(row.name == "long" and row.state == "COMPLETED" for row in ended_rows(daemon)))
    time.sleep(1.5)
    remote.send_signal(signal.SIGINT)
    until(lambda: remote.poll() is not None, 10)
    assert remote.returncode == 125
    assert "stdout is not shown: what comes last is missing (batchns logs " in remote.stderr.read()


def ended_rows(daemon: Live) -> list[wire.JobRow]:
    with daemon.client() as client:
        return list(client.jobs(ended=True))


def test_what_is_followed_while_it_waits_for_a_retry_is_what_both_attempts_wrote(daemon: Live) -> None:
    folder = daemon.folder()
    script = "echo attempt; test -e once && exit 0; touch once; exit 3"
    keys = f'name = "again"\nscript = "{script}"\nmax_retries = 1\nretry_delay = "3s"\n'
    (folder / "job.toml").write_text(keys)
    job = daemon("submit", "--parsable", "job.toml", cwd=folder).stdout.strip()
    until(lambda: daemon.row(job).attempt == 2)
    assert daemon.state(job) == "PENDING"
    followed = daemon("logs", "-f", job)
    assert (followed.code, followed.stdout) == (0, "attempt\nattempt\n"), followed


def test_what_is_followed_and_never_runs_has_written_nothing(daemon: Live) -> None:
    job = daemon.submit("--hold", "--", "true")
    following = daemon.popen("logs", "-f", job)
    until(lambda: connected(following.pid))
    time.sleep(0.5)
    assert daemon("cancel", job).code == 0
    _, err = following.communicate(timeout=20)
    assert following.returncode == 2 and f"job {job} has" in err and "Traceback" not in err, err


DISK = """
[node]
memory = "1GiB"
scratch_folder = "BASE/disk"
scratch_capacity = "200MiB"
"""
FILLS = (
    "dd if=/dev/zero of=/tmp/big bs=1M count=90 2>/dev/null; until test -e go; do sleep 0.05; done; stat -c %s /tmp/big"
)


@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="no mkfs.ext4")
@pytest.mark.skipif(not Path("/dev/loop-control").exists(), reason="no loop devices")
def test_scratch_on_disk_stays_over_a_restart_and_goes_with_its_job(_alone: None) -> None:
    with live() as daemon:
        disk = daemon.base / "disk"
        disk.mkdir(mode=0o700)
        daemon.stop()
        daemon.configure(DISK)
        daemon.start()

        def devices() -> int:
            files = Path("/sys/block").glob("loop*/loop/backing_file")
            return sum(f"/{daemon.base.name}/disk/" in file.read_text() for file in files)  # from its mount on

        for end in (stopped, killed, both_killed):
            folders = [daemon.folder() for _ in range(2)]
            ask = ("--memory", "64MiB", "--scratch", "100MiB", "--scratch-on", "disk", "--name", "fills")
            stays, ends = (daemon.submit(*ask, "--", "sh", "-c", FILLS, cwd=folder) for folder in folders)
            for job in (stays, ends):
                daemon.until(job, "RUNNING")
            assert devices() == 2
            waits = daemon.submit(*ask, "--", "true")
            end(daemon)
            (folders[1] / "go").touch()
            until(lambda: next(folders[1].glob("*.out")).read_text(), 20)  # noqa: B023
            daemon.start()
            assert daemon.over(ends).state == "COMPLETED"
            assert daemon.over(waits).state == "COMPLETED", "there is room for it now"
            assert daemon.state(stays) == "RUNNING"
            until(lambda: devices() == 1)
            (folders[0] / "go").touch()
            assert daemon.over(stays).state == "COMPLETED"
            assert next(folders[0].glob("*.out")).read_text() == f"{90 << 20}\n"
            until(lambda: devices() == 0 and not any(disk.iterdir()))


@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="no mkfs.ext4")
@pytest.mark.skipif(not Path("/dev/loop-control").exists(), reason="no loop devices")
def test_what_jobs_have_of_the_disk_is_not_counted_twice(_alone: None) -> None:
    """A daemon that starts while they run has as much room as before; the folder is on a mount of its own here."""
    with live() as daemon:
        (daemon.base / "disk").mkdir(mode=0o700)
        daemon.stop()
        daemon.configure('[node]\nscratch_folder = "BASE/disk"\n')
        daemon.start()
        before = room(find_config(str(daemon.config)))
        job = daemon.submit("--scratch", "200MiB", "--scratch-on", "disk", "--", *SLEEP)
        daemon.until(job, "RUNNING")
        after = room(find_config(str(daemon.config)))
        assert before is not None and after is not None and abs(before - after) < 40 << 20
        daemon("cancel", "--signal", "KILL", job)
