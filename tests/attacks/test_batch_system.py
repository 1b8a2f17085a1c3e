"""No job gets the better of the batch system; each attack works without a sandbox."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..daemon.live import Live, holds, ticks, toml
from ..system.conftest import until
from . import runners, scene
from .batch_system import BATCH, MODULE
from .modes import CONNECTED, MALLORY, VICTOR, Mode, World
from .runners import processes

pytestmark = pytest.mark.kernel


@pytest.fixture
def daemon(machine: World) -> Iterator[Live]:
    yield machine.daemon
    machine.daemon.clear()


@pytest.mark.parametrize("mode", CONNECTED, ids=lambda mode: mode.name)
def test_no_job_gets_the_better_of_the_batch_system(machine: World, mode: Mode) -> None:
    outcomes = machine.run(mode, MODULE, BATCH, 'cpuset = "0"')
    assert runners.broken(outcomes) == {}
    assert runners.untried(outcomes) == {}


def test_each_works_without_a_sandbox(machine: World) -> None:
    outcomes = machine.controls(BATCH, MODULE)
    assert {name: found.report for name, found in outcomes.items() if not found.succeeded} == {}
    assert len(outcomes) > 5


def start(daemon: Live, one: scene.Scene, program: str, user: str | None = "mallory", **more: object) -> str:
    """A job of one attack by itself, started as a program."""
    command = ["sh", "-c", f"HELD=1 python3 batch.py {program}; exit 7"]
    (one.work / "own.toml").write_text(toml(name="own", command=command, **more))
    small = ("--cpus", "0.5", "--memory", "256MiB")
    return daemon("submit", "--parsable", *small, "own.toml", user=user, cwd=one.work).stdout.strip()


@pytest.mark.parametrize("user", ["mallory", None])
def test_nothing_outlives_its_job_whatever_it_does(daemon: Live, user: str | None) -> None:
    """Double forks, own sessions, ignored signals, stopped and traced processes; and killed with a grace time."""
    with scene.make(MALLORY if user else 0, VICTOR, daemon.base) as one:
        name = f"out-{one.known['key'][-4:]}"
        assert daemon.over(start(daemon, one, "outlive", user)).exit_code == 7
        until(lambda: not processes(name), 5)
        job = start(daemon, one, "outlive; sleep 600", user)
        until(lambda: len(processes(name)) >= 4)
        assert daemon("cancel", job, user=user).code == 0
        daemon.over(job)
        until(lambda: not processes(name), 12)


def test_without_a_job_they_stay(machine: World) -> None:
    with scene.make(MALLORY, VICTOR, machine.daemon.base) as one:
        name = f"out-{one.known['key'][-4:]}"
        try:
            subprocess.run(["/usr/bin/python3", "batch.py", "outlive"], cwd=one.work, user=MALLORY, check=True)
            assert holds(lambda: processes(name), 0.5)
        finally:
            for pid in processes(name):
                os.kill(pid, 9)


@pytest.mark.parametrize("user", ["mallory", None])
def test_an_exit_record_is_what_the_command_ended_with(daemon: Live, user: str | None) -> None:
    """The job writes another one wherever it can, and ends with 7; or kills all that it can."""
    with scene.make(MALLORY if user else 0, VICTOR, daemon.base) as one:
        row = daemon.over(start(daemon, one, "forge_the_exit_record", user))
        assert (row.state, row.exit_code) == ("FAILED", 7)
        row = daemon.over(start(daemon, one, "end_everything", user))
        assert (row.state, row.signal) == ("FAILED", "SIGKILL")


def test_who_enters_a_job_is_not_in_its_reach(machine: World, daemon: Live) -> None:
    """It waits for others' processes, and writes to their programs, memory and open files as soon as it sees one."""
    program = Path(sys.executable).resolve()
    before = hashlib.sha256(program.read_bytes()).hexdigest(), program.stat().st_mtime_ns
    with scene.make(MALLORY, VICTOR, daemon.base) as one:
        job = start(daemon, one, "ambush")
        until((one.work / "watching").exists)
        for number in range(6):
            assert daemon("exec", job, "--", "sh", "-c", f"exit {number}", user="mallory").code == number
        (one.work / "enough-entered").touch()
        said = "".join(path.read_text() for path in one.work.glob("own-*.out"))
        assert daemon("cancel", job, user="mallory").code == 0
    assert (hashlib.sha256(program.read_bytes()).hexdigest(), program.stat().st_mtime_ns) == before
    assert one.token not in said and str(daemon.run) not in said and str(program) not in said


def test_who_enters_a_naive_container_is_in_its_reach(daemon: Live) -> None:
    """The control: the same user enters a PID namespace of theirs, and what lies in wait there opens their program."""
    ids = {"user": MALLORY, "group": MALLORY, "extra_groups": []}
    with scene.make(MALLORY, VICTOR, daemon.base) as one, (one.work / "said").open("w") as log:
        command = runners.in_a_pid_namespace(["/usr/bin/python3", "batch.py", "ambush"])
        waiting = subprocess.Popen(command, cwd=one.work, stdout=log, env={"HELD": "1"}, **ids)  # type: ignore[call-overload]
        try:
            until((one.work / "watching").exists)
            inside = Path(f"/proc/{waiting.pid}/task/{waiting.pid}/children").read_text().split()[0]
            enter = ["nsenter", "--preserve-credentials", "-U", "-p", "-t", inside, "/usr/bin/sleep", "1"]
            subprocess.run(enter, check=True, cwd="/", timeout=20, **ids)  # type: ignore[call-overload]
            (one.work / "enough-entered").touch()
        finally:
            waiting.kill()
            waiting.wait()
        assert str(Path("/usr/bin/sleep").resolve()) in (one.work / "said").read_text()


def test_a_script_whose_interpreter_is_its_launcher_changes_nothing(daemon: Live) -> None:
    """ "#!/proc/self/exe" is the program of whoever calls exec: batchns's own, opened beyond the job's root."""
    program = Path(sys.executable).resolve()
    before = program.stat()
    with scene.make(MALLORY, VICTOR, daemon.base) as one:
        body = (
            "#!/proc/self/exe\nimport os\nfd = os.open('/proc/self/exe', os.O_PATH)\n"
            "os.set_inheritable(fd, True)\nopen('ran', 'w').write(os.readlink('/proc/self/exe'))\n"
            "os.execv('/bin/sh', ['sh', '-c', f'for i in $(seq 50); do echo x >> /proc/self/fd/{fd}; done'])\n"
        )
        (one.work / "own.toml").write_text(toml(name="own", script=body))
        job = daemon("submit", "--parsable", "--cpus", "0.5", "own.toml", user="mallory", cwd=one.work).stdout.strip()
        daemon.over(job)
    after = program.stat()
    assert (after.st_mtime_ns, after.st_size, after.st_ino) == (before.st_mtime_ns, before.st_size, before.st_ino)


LEASES = """
import fcntl, os, signal, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
names = [f"leased{number}" for number in range(30)]
for name in names: open(name, "w").close()
for fd in [os.open(name, os.O_RDWR) for name in names]: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
open("leased", "w").close()
time.sleep(600)
"""


def test_leases_on_output_files_hold_up_nobody_else(daemon: Live) -> None:
    """Whoever opens such a file waits for up to 45 s (fcntl(2), F_SETLEASE): its job may, others do not."""
    with scene.make(MALLORY, VICTOR, daemon.base) as one:
        (one.work / "lease.py").write_text(LEASES)
        small = ("--cpus", "0.02", "--memory", "64MiB")
        daemon("submit", *small, "--", "python3", "lease.py", user="mallory", cwd=one.work)
        until((one.work / "leased").exists)
        jobs = "".join(
            f'[[job]]\nname = "n{number}"\ncommand = ["true"]\nstdout = "leased{number}"\n' for number in range(30)
        )
        (one.work / "many.toml").write_text(jobs)
        assert daemon("submit", *small, "many.toml", user="mallory", cwd=one.work).code == 0
        began = time.monotonic()
        assert daemon.over(daemon.submit("--", "true", user="victor")).state == "COMPLETED"
        assert daemon("ps", user="victor").code == 0
        assert time.monotonic() - began < 10


def test_who_opens_a_leased_file_waits(daemon: Live) -> None:
    """The control: root itself, with no bound of its own."""
    folder = daemon.folder("mallory")
    command = ["/usr/bin/python3", "-c", LEASES]
    leasing = subprocess.Popen(command, cwd=folder, user=MALLORY, group=MALLORY, extra_groups=[])
    try:
        until((folder / "leased").exists)
        opening = subprocess.Popen([sys.executable, "-c", "import sys; open(sys.argv[1], 'w')", folder / "leased0"])
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                opening.wait(3)
        finally:
            opening.kill()
    finally:
        leasing.kill()
        leasing.wait()
    opening.wait(20)


def test_an_output_file_of_eight_tebibytes_costs_the_daemon_nothing(daemon: Live) -> None:
    """Its size is the job's to set: it is full of holes."""
    program = (
        "import os; os.write(1, b'begun\\n'); os.ftruncate(1, 1 << 43); open('grown', 'w'); import time; time.sleep(9)"
    )
    folder = daemon.folder("mallory")
    job = daemon.submit("--name", "grows", "--", "python3", "-c", program, user="mallory", cwd=folder)
    until((folder / "grown").exists)
    assert daemon.daemon is not None
    used = ticks(daemon.daemon.pid)
    time.sleep(3)
    assert ticks(daemon.daemon.pid) - used < 100
    assert next(folder.glob("grows-*.out")).stat().st_blocks < 1024
    reader = daemon.popen("logs", job, user="mallory", stdout=subprocess.DEVNULL)
    assert daemon("ps", user="victor").code == 0
    reader.kill()


def test_who_reads_such_a_file_through_does_nothing_else(daemon: Live) -> None:
    """The control: a reader that trusts its size."""
    path = daemon.folder() / "grown"
    with path.open("wb") as file:
        file.truncate(1 << 43)
    read = "import sys\nwith open(sys.argv[1], 'rb', buffering=0) as file:\n    while file.read(1 << 20): pass"
    reading = subprocess.Popen([sys.executable, "-c", read, path])
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            reading.wait(3)
        assert ticks(reading.pid) > 50
    finally:
        reading.kill()
        reading.wait()


HOARD = """
import socket, sys, time
kept = []
for number in range(400):
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(2)
    try:
        one.connect(sys.argv[1])
        one.sendall(b"POST /v1/jobs HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 99999999999\\r\\n\\r\\n{")
    except OSError:
        continue
    kept.append(one)
print(len(kept), flush=True)
time.sleep(60)
"""


def test_who_takes_every_connection_keeps_nobody_out(daemon: Live) -> None:
    hoarder = subprocess.Popen(
        ["/usr/bin/python3", "-c", HOARD, str(daemon.socket)], user=MALLORY, group=MALLORY, extra_groups=[],
        stdout=subprocess.PIPE, cwd="/",
    )  # fmt: skip
    try:
        assert hoarder.stdout is not None and hoarder.stdout.readline()
        began = time.monotonic()
        assert daemon.over(daemon.submit("--", "true", user="victor")).state == "COMPLETED"
        assert time.monotonic() - began < 10
    finally:
        hoarder.kill()
        hoarder.wait()


def test_who_has_all_connections_of_a_naive_server_keeps_everybody_out(daemon: Live) -> None:
    """The control: it has room for 100 connections, whoever comes."""
    path = daemon.folder() / "naive.sock"
    room, stopped = threading.Semaphore(100), threading.Event()

    def answer(one: socket.socket) -> None:
        with room, one:
            one.recv(16)
            while one.recv(1 << 16) and not stopped.is_set():  # the rest of the request
                pass
            with contextlib.suppress(OSError):
                one.sendall(b"HTTP/1.1 200 \r\n\r\n")

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o777)
        listener.listen(1024)
        threading.Thread(target=serve, daemon=True).start()
        assert answered(path)
        hoarder = subprocess.Popen(
            ["/usr/bin/python3", "-c", HOARD, str(path)], user=MALLORY, group=MALLORY, extra_groups=[],
            stdout=subprocess.PIPE, cwd="/",
        )  # fmt: skip
        try:
            assert hoarder.stdout is not None and int(hoarder.stdout.readline()) > 100
            assert not answered(path)
        finally:
            stopped.set()
            hoarder.kill()
            hoarder.wait()
            listener.shutdown(socket.SHUT_RDWR)


def answered(path: Path) -> bool:
    """Within three seconds, to somebody else."""
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(3)
        one.connect(str(path))
        one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        one.shutdown(socket.SHUT_WR)
        try:
            return bool(one.recv(100))
        except TimeoutError:
            return False


SWAP = """
import os, sys
os.chdir(sys.argv[1])
while not os.path.exists("enough"):
    for target in ("real", sys.argv[2]):
        try: os.symlink(target, "new"); os.rename("new", "way")
        except OSError: pass
    try: os.unlink("way"); os.rename("folder", "way"); os.rename("way", "folder")
    except OSError: pass
"""


def test_a_race_about_folders_binds_nothing_that_the_user_may_not(daemon: Live) -> None:
    """What is bound is swapped for links while jobs start: to a folder behind a door that is closed to the user."""
    folder, closed = daemon.folder("mallory"), daemon.folder(mode=0o700)
    inner = closed / "inner"
    inner.mkdir(mode=0o777)
    inner.chmod(0o777)
    for name in ("real", "folder"):
        (folder / name).mkdir()
        os.chown(folder / name, MALLORY, MALLORY)
    swapper = subprocess.Popen(
        ["/usr/bin/python3", "-c", SWAP, folder, inner], user=MALLORY, group=MALLORY, extra_groups=[], cwd="/"
    )
    try:
        write = ("--", "sh", "-c", "touch /tmp/x/made")
        jobs = [
            daemon.submit("--array", "0-7", "--bind", f"{folder}/way:/tmp/x", *write, user="mallory", cwd=folder),
            daemon.submit("--array", "0-7", "--bind", f"{folder}/way/sub:/tmp/x", *write, user="mallory", cwd=folder),
        ]
        for job in jobs:
            for number in range(8):
                daemon.over(f"{job}_{number}", 60)
    finally:
        (folder / "enough").touch()
        swapper.wait(20)
    assert os.listdir(inner) == []


def test_a_naive_bind_falls_for_that_race(daemon: Live) -> None:
    """The control: root binds what the user's path leads to at that moment, and writes there."""
    folder, inner = daemon.folder("mallory"), daemon.folder(mode=0o700) / "inner"
    for path in (inner, folder / "real", folder / "folder"):
        path.mkdir()
    for name in ("real", "folder"):
        os.chown(folder / name, MALLORY, MALLORY)
    ids = {"user": MALLORY, "group": MALLORY, "extra_groups": []}
    swapper = subprocess.Popen(["/usr/bin/python3", "-c", SWAP, folder, inner], cwd="/", **ids)  # type: ignore[call-overload]
    bind = 'for i in $(seq 40); do mount --bind "$1" /mnt && touch /mnt/made && umount /mnt; done; :'
    try:
        for _ in range(10):
            command = ["unshare", "--mount", "sh", "-c", bind, "sh", folder / "way"]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            if os.listdir(inner):
                break
        assert os.listdir(inner) == ["made"]
    finally:
        (folder / "enough").touch()
        swapper.wait(20)


def test_a_record_within_reach_is_forged(daemon: Live) -> None:
    """The control: the same program, where somebody left the record open."""
    with scene.make(MALLORY, VICTOR, daemon.base) as one, (one.work / "record").open("w+b") as record:
        command = ["/usr/bin/python3", "batch.py", "forge_the_exit_record"]
        ids = {"user": MALLORY, "group": MALLORY, "extra_groups": []}
        subprocess.run(command, cwd=one.work, env={"HELD": "1"}, pass_fds=[record.fileno()], check=True, **ids)  # type: ignore[call-overload]
        assert '"exit_code": 0' in (one.work / "record").read_text()
