"""A daemon of one's own, for as long as a block lasts: in a folder, a network and ids that nobody else uses.

1. Nothing of it is left afterwards: its jobs are cancelled, and a daemon that stops without jobs takes all with it.
2. It is measured from outside: through its socket, and by what the kernel says of its process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from batchns.client.sync import ApiError, Client, NoDaemon
from batchns.wire import types as wire

BATCHNS = [sys.executable, "-m", "batchns"]
SETTINGS = """\
[paths]
state = "{folder}/state"
run = "{folder}/run"
[node]
cpus = "0-1"
[network]
pool = "10.83.0.0/20"
pool6 = ""
[isolation]
id_start = 1500000000
id_ranges = 1100
"""
PATIENCE = 120.0  # seconds for a daemon to come or go, or for jobs to end
_TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(RuntimeError):
    """What was to be measured did not happen."""


class Alive:
    """The daemon of `folder`, which is to be started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "run" / "batchns.sock"
        self.settings = folder / "batchns.toml"
        self.settings.write_text(SETTINGS.format(folder=folder))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, before: Sequence[str] = ()) -> float:
        """Returns the seconds until it answers. `before`: the words that go before its own on the command line."""
        begin = time.perf_counter()
        argv = [*before, *BATCHNS, "daemon", "--config", str(self.settings)]
        with (self.folder / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        while time.perf_counter() - begin < PATIENCE:
            try:
                self.client().you()
                return time.perf_counter() - begin
            except NoDaemon:
                if self.process.poll() is not None:
                    break
                time.sleep(0.005)
        raise BenchError(f"the daemon does not answer: {self.log()}")

    def stop(self) -> float:
        """Jobs go on. Returns the seconds until it has ended."""
        assert self.process is not None
        begin = time.perf_counter()
        self.process.terminate()
        if code := self.process.wait(PATIENCE):
            raise BenchError(f"the daemon ended with {code}: {self.log()}")
        return time.perf_counter() - begin

    def log(self) -> str:
        return (self.folder / "daemon.log").read_text()[-1000:]

    def client(self) -> Client:
        return Client(self.socket)

    @property
    def pid(self) -> int:
        with self.client() as client:
            return client.node().pid

    def memory(self) -> int:
        """Resident bytes of the daemon itself."""
        return memory_of(self.pid)

    def cpu(self) -> float:
        """Seconds of CPU time that the daemon has used."""
        return cpu_of(self.pid)

    def launcher_pids(self) -> list[int]:
        """Of its launcher and zygote: inits have the same command line, and a namespace of their own."""
        found = []
        for path in Path("/proc").iterdir():
            if path.name.isdecimal():
                try:
                    words, status = (path / "cmdline").read_bytes(), (path / "status").read_text()
                except OSError:
                    continue
                inside = len(status.partition("NSpid:")[2].partition("\n")[0].split()) > 1
                if f"{self.folder}/run/".encode() in words and not inside:
                    found.append(int(path.name))
        return found

    def wait_until(self, waiting: int = 0, running: int = 0, pause: float = 0.02) -> None:
        """Until at most so many jobs wait, and exactly so many run (0: none)."""
        deadline = time.monotonic() + PATIENCE
        with self.client() as client:
            while time.monotonic() < deadline:
                node = client.node()
                if node.waiting <= waiting and node.running == running:
                    return
                time.sleep(pause)
        raise BenchError(f"{node.waiting} jobs wait and {node.running} run")

    def cancel_all(self) -> None:
        """Cancelled twice, a job is killed."""
        deadline = time.monotonic() + PATIENCE
        with self.client() as client:
            while time.monotonic() < deadline:
                try:
                    client.act(wire.ActRequest(verb="cancel", jobs=("1-999999999",)))
                except ApiError:  # there is none
                    return
                time.sleep(0.5)
        raise BenchError("jobs are left")


@contextmanager
def alive() -> Iterator[Alive]:
    """A daemon that answers."""
    with tempfile.TemporaryDirectory(prefix="batchns-bench-") as name:
        daemon = Alive(Path(name))
        daemon.start()
        try:
            yield daemon
        finally:
            assert daemon.process is not None
            if daemon.process.poll() is not None:
                daemon.start()
            daemon.cancel_all()
            daemon.stop()


def memory_of(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(text.partition("VmRSS:")[2].split()[0])


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
