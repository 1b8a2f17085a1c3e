"""A real daemon, its launcher and its jobs, in folders of their own; and nothing of it afterwards.

1. Users talk to it through the command line, as processes of their own with their own ids: that is what is tested.
2. Whatever a test did (killed the daemon, the launcher, both), `Live.close` ends every job and leaves the machine as it
   was, and complains of what is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import define, field

from batchns.client.errors import ApiError
from batchns.client.sync import Client
from batchns.kernel.cgroups.detect import open_driver
from batchns.supervise.sweep import remove_job, sweep
from batchns.wire.types import ActRequest

from ..alone import end_with_parent
from ..system.conftest import Ran, until

OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL")
_PATIENCE = 30.0  # seconds
_PARTS = ("batchns-init", "batchns-zygote", "batchns-enter")  # of a launcher: forks of it
_BASE = """
[paths]
state = "{base}/state"
run = "{run}"
[network]
pool = "10.81.0.0/24"
pool6 = ""
[isolation]
id_start = 1300000000
id_ranges = 256
"""


@define(kw_only=True, eq=False)
class Live:
    """`base`: of root's, open to look into. `settings`: what batchns.toml says besides folders, pool and ids; BASE in
    it is replaced.
    """

    settings: str = ""
    base: Path = field(factory=lambda: Path(tempfile.mkdtemp(prefix="live-", dir="/var/lib/batchns")))
    daemon: subprocess.Popen[bytes] | None = None
    _commands: list[subprocess.Popen[str]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.base.chmod(0o755)
        self.run.mkdir(parents=True, mode=0o755)
        self.configure(self.settings)

    @property
    def run(self) -> Path:
        """On a tmpfs, as the daemon's own is."""
        return Path("/run/batchns") / self.base.name

    @property
    def socket(self) -> Path:
        return self.run / "batchns.sock"

    @property
    def config(self) -> Path:
        return self.base / "batchns.toml"

    @property
    def said(self) -> str:
        """All that any daemon here has said."""
        return (self.base / "daemon.log").read_text()

    def configure(self, settings: str) -> None:
        self.settings = settings
        self.config.write_text(_BASE.format(base=self.base, run=self.run) + settings.replace("BASE", str(self.base)))

    def folder(self, user: str | None = None, mode: int = 0o755) -> Path:
        """A new working folder for jobs of `user`."""
        made = Path(tempfile.mkdtemp(prefix="work-", dir=self.base))
        made.chmod(mode)
        if user is not None:
            entry = pwd.getpwnam(user)
            os.chown(made, entry.pw_uid, entry.pw_gid)
        return made

    # The daemon's life.

    def start(self) -> None:
        """Until the daemon answers."""
        with (self.base / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "batchns", "daemon", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**os.environ, "OF_THE_DAEMON": "secret"},
                preexec_fn=end_with_parent,
            )
        until(self._answers, _PATIENCE)

    def _answers(self) -> bool:
        assert self.daemon is not None and self.daemon.poll() is None, self.said
        with contextlib.suppress(Exception), Client(self.socket) as client:
            return client.node().pid == self.daemon.pid
        return False

    def stop(self) -> None:
        """As an administrator does: jobs run on."""
        assert self.daemon is not None
        self.daemon.terminate()
        assert self.daemon.wait(_PATIENCE) == 0, self.said
        self.daemon = None

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait(_PATIENCE)
        self.daemon = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def launcher(self) -> int:
        """Its process."""
        (pid,) = [pid for pid, name in self._family() if name not in _PARTS]
        return pid

    def kill_launcher(self) -> None:
        pid = self.launcher()
        os.kill(pid, signal.SIGKILL)
        until(lambda: pid not in [one for one, _ in self._family()])

    def _family(self) -> list[tuple[int, str]]:
        """Launcher, zygotes and inits of this daemon, with their names."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and f"{self.run}/run-".encode() in (entry / "cmdline").read_bytes():
                    found.append((int(entry.name), (entry / "comm").read_text().strip()))
        return found

    # Those who use it.

    def popen(self, *arguments: str, user: str | None = None, cwd: Path | None = None, **options: Any) -> Any:
        """The command, left running; what a test forgets is ended with the daemon."""
        ids: dict[str, Any] = {}
        if user is not None:
            entry = pwd.getpwnam(user)
            ids = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": os.getgrouplist(user, entry.pw_gid)}
        process = subprocess.Popen(
            [sys.executable, "-m", "batchns", *arguments],
            cwd=cwd or self.folder(user),
            env={**os.environ, "BATCHNS_SOCKET": str(self.socket), "COLUMNS": "80", "NO_COLOR": "1"},
            text=True,
            preexec_fn=end_with_parent,
            **ids,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )
        self._commands.append(process)
        return process

    def __call__(
        self, *arguments: str, user: str | None = None, cwd: Path | None = None, given: str | None = None
    ) -> Ran:
        """Run the command to its end. `given`: its stdin."""
        options = {} if given is None else {"stdin": subprocess.PIPE}
        process = self.popen(*arguments, user=user, cwd=cwd, **options)
        stdout, stderr = process.communicate(given, timeout=60)
        self._commands.remove(process)
        return Ran(code=process.returncode, stdout=stdout, stderr=stderr)

    def submit(self, *arguments: str, user: str | None = None, cwd: Path | None = None) -> str:
        """The id of a job, or array, that takes a tenth of a CPU."""
        small = ("--cpus", "0.1", "--memory", "64MiB")
        ran = self("submit", "--parsable", *small, *arguments, user=user, cwd=cwd or self.folder(user))
        assert ran.code == 0, ran
        return ran.stdout.strip()

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """As root."""
        with Client(self.socket) as client:
            yield client

    def row(self, job_id: str) -> Any:
        with self.client() as client:
            return client.job(job_id).row

    def output(self, job_id: str) -> str:
        """What it has written to its stdout so far."""
        try:
            with self.client() as client, client.logs(job_id) as pieces:
                return b"".join(pieces).decode()
        except ApiError as error:
            assert error.code == "not_found", error
            return ""

    def state(self, job_id: str) -> str:
        return str(self.row(job_id).state)

    def pid(self, job_id: str) -> int:
        """Of its init."""
        with self.client() as client:
            pid = client.job(job_id).pid
        assert pid is not None
        return pid

    def until(self, job_id: str, *states: str, seconds: float = _PATIENCE) -> Any:
        """Wait for one of these states; the job's row then."""
        with self.client() as client:
            end = time.monotonic() + seconds
            while (row := client.job(job_id).row).state not in states:
                assert row.state not in OVER and time.monotonic() < end, (row, self.said)
                time.sleep(0.03)
            return row

    def over(self, job_id: str, seconds: float = _PATIENCE) -> Any:
        return self.until(job_id, *OVER, seconds=seconds)

    # The end.

    def clear(self) -> None:
        """End every job, however it stands."""
        for process in self._commands:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self._commands.clear()
        with self.client() as client:
            end = time.monotonic() + _PATIENCE
            while jobs := [job.id for job in client.jobs()]:
                assert time.monotonic() < end, jobs
                with contextlib.suppress(ApiError):  # they are over by now
                    client.act(ActRequest(verb="cancel", jobs=tuple(jobs)))
                time.sleep(0.05)

    def close(self) -> None:
        """End everything; fails when that needs force, or when something is left."""
        try:
            if self.daemon is not None and self.daemon.poll() is not None:
                self.daemon = None
            if self.daemon is None:
                self.configure(self.settings)
                self.start()
            self.clear()
            self.stop()
            until(lambda: not self.left(), 10)
        except BaseException:
            print(self.said, self.left(), file=sys.stderr)
            raise
        finally:
            self._force()
            shutil.rmtree(self.base, ignore_errors=True)
            shutil.rmtree(self.run, ignore_errors=True)

    def left(self) -> dict[str, Any]:
        """What there is of it on the machine."""
        runs = [path.name.removeprefix("run-") for path in self.run.glob("run-*")]
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
        found = {
            "processes": self._family(),
            "cgroups": [name for name in open_driver().names() if name.partition("-")[0] in runs],
            "links": [name for _, name in socket.if_nameindex() if name.startswith("bns")],
            "tables": [line for line in tables.splitlines() if "batchns" in line],
            "folders": [*map(str, self.run.glob("run-*")), *map(str, self.run.glob("slots/*"))],
        }
        return {what: there for what, there in found.items() if there}

    def _force(self) -> None:
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait()
        if not self.left():
            return
        driver = open_driver()
        for pid, _ in self._family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for folder in self.run.glob("run-*"):
            for name in driver.names():
                if name.startswith(folder.name.removeprefix("run-")):
                    remove_job(name, driver)
            (folder / "kept").unlink(missing_ok=True)
        sweep(str(self.run), driver)
        for line in self.left().get("tables", []):
            subprocess.run(["nft", "delete", *line.split()], check=False)


@contextlib.contextmanager
def live(settings: str = "") -> Iterator[Live]:
    """A daemon that answers."""
    daemon = Live(settings=settings)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()


def ticks(pid: int) -> int:
    """CPU time that a process and its children so far have used, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))


def lives(pid: int) -> bool:
    """A process that is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def toml(**keys: Any) -> str:
    """A job file of plain keys."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


def holds(condition: Callable[[], Any], seconds: float) -> bool:
    """Whether it stays true for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not condition():
            return False
        time.sleep(0.05)
    return True
