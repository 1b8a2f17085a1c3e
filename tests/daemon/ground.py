"""A daemon that is killed and comes again, in a corner of the machine of its own (see `tests.alone`).

1. Everything outlives it but itself: state folder, run folder, launcher, jobs.
2. `left` says what is on the machine that was not there before.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from attrs import define, field

from batchns.client.errors import Lost, NoDaemon
from batchns.client.sync import Client
from batchns.kernel.cgroups.detect import open_driver
from batchns.store.check import check_store
from batchns.supervise.sweep import remove_job, sweep

from ..alone import end_with_parent, own_cgroups
from .ledger import Ledger

PATIENCE = 30.0  # seconds
_PARTS = ("batchns-init", "batchns-zygote", "batchns-enter")  # of a launcher: forks of it
_SETTINGS = """
[node]
cpus = "{cpus}"
[paths]
state = "{state}"
run = "{run}"
[network]
pool = "10.82.0.0/24"
pool6 = ""
[isolation]
id_start = 1400000000
id_ranges = 256
"""


@define(kw_only=True, eq=False)
class Ground:
    """`base`: a folder that everybody may look into. `settings`: more of batchns.toml."""

    base: Path
    settings: str = ""
    pid: int = field(init=False, default=0)  # the daemon's, 0 while there is none
    _nest: subprocess.Popen[bytes] = field(init=False)
    _before: dict[str, Any] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.base.chmod(0o755)
        self.run.mkdir(parents=True)
        cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        self.config.write_text(_SETTINGS.format(state=self.state, run=self.run, cpus=cpus) + self.settings)
        self.log.touch()
        self._before = self._seen()
        self._nest = subprocess.Popen(
            [sys.executable, "-m", "tests.daemon.nest", str(self.config), str(self.log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent.parent,
            preexec_fn=end_with_parent,
        )

    @property
    def run(self) -> Path:
        """On a tmpfs, as the daemon's own is."""
        return Path("/run/batchns") / self.base.name

    @property
    def config(self) -> Path:
        return self.base / "batchns.toml"

    @property
    def state(self) -> Path:
        return self.base / "state"

    @property
    def log(self) -> Path:
        return self.base / "daemon.log"

    @property
    def socket(self) -> Path:
        return self.run / "batchns.sock"

    def _told(self, command: str) -> int:
        assert self._nest.stdin is not None and self._nest.stdout is not None
        self._nest.stdin.write(f"{command}\n".encode())
        self._nest.stdin.flush()
        return int(self._nest.stdout.readline())

    # The daemon's lives.

    def start(self, *, ready: bool = True, held: bool = False) -> None:
        """`ready`: until it answers. `held`: it waits for SIGCONT before it does anything."""
        assert not self.pid
        self.pid = self._told("held" if held else "start")
        if ready:
            self.wait_ready()

    def wait_ready(self) -> None:
        end = time.monotonic() + PATIENCE
        while not self.answers():
            assert time.monotonic() < end, "the daemon does not answer"
            assert self.lives(), f"the daemon has ended: {self.said()[-2000:]}"
            time.sleep(0.01)

    def answers(self) -> bool:
        with contextlib.suppress(NoDaemon, Lost), Client(self.socket) as client:
            return client.node().pid == self.pid
        return False

    def lives(self) -> bool:
        return _lives(self.pid)

    def kill(self) -> None:
        """SIGKILL. Raises AssertionError where it had ended by itself."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.reap(-signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: jobs run on."""
        os.kill(self.pid, signal.SIGTERM)
        self.reap(0)

    def reap(self, expected: int) -> None:
        """Raises AssertionError where it ended otherwise."""
        code = self.ended()
        assert code == expected, f"the daemon ended with {code}, not {expected}: {self.said()[-2000:]}"

    def ended(self) -> int:
        """Its exit code, or the signal that killed it as a negative number."""
        end = time.monotonic() + PATIENCE
        while _lives(self.pid):
            assert time.monotonic() < end, f"the daemon does not end: {self.said()[-2000:]}"
            time.sleep(0.002)
        code, self.pid = self._told(f"wait {self.pid}"), 0
        return code

    def said(self) -> str:
        return self.log.read_text()

    def ledger(self) -> Ledger:
        """A new one, of what happens here."""
        folder = self.base / "work"
        folder.mkdir()
        folder.chmod(0o1777)
        return Ledger(folder)

    def client(self) -> Client:
        return Client(self.socket, timeout=PATIENCE)

    def launchers(self) -> list[int]:
        return [pid for pid, name in self.family() if name not in _PARTS]

    def kill_launcher(self) -> None:
        for pid in self.launchers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def family(self) -> list[tuple[int, str]]:
        """Launcher, zygotes and inits, with their names."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and f"{self.run}/run-".encode() in (entry / "cmdline").read_bytes():
                    found.append((int(entry.name), (entry / "comm").read_text().strip()))
        return found

    # What there is.

    def complaints(self) -> list[str]:
        """After the last stop: what its log, its store and the machine should not have."""
        found = [f"the daemon said: {part}" for part in self.said().split("Traceback")[1:2]]
        found += [f"store: {line}" for line in check_store(self.state / "batchns.db")]
        end = time.monotonic() + 10
        while (left := self.left()) and time.monotonic() < end:
            time.sleep(0.05)  # the kernel removes links in the background
        return found + [f"left: {line}" for line in left]

    def left(self) -> list[str]:
        now = self._seen()
        return [f"{kind}: {one}" for kind in now for one in now[kind] if one not in self._before[kind]]

    def _seen(self) -> dict[str, list[str]]:
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
        return {
            "process": [f"{pid} {name}" for pid, name in self.family()],
            "cgroup": [
                os.path.join(place, name)
                for top in own_cgroups()
                for place, names, _ in os.walk(top)
                for name in names
                if name.startswith("batchns") or "batchns" in place
            ],
            "link": [name for _, name in socket.if_nameindex() if name.startswith("bns")],
            "table": [line for line in tables.splitlines() if "batchns" in line],
            "mount": [
                line.split(" ", 3)[3]
                for line in Path("/proc/self/mountinfo").read_text().splitlines()
                if " - tmpfs campaign " not in line  # a campaign's own
            ],
            "loop device": list(map(str, filter(self._ours, Path("/sys/block").glob("loop*/loop/backing_file")))),
            # A folder that was never finished, "making-*", is removed by whoever starts a minute later.
            "file": [str(path) for pattern in ("run-*", "slots/*") for path in self.run.glob(pattern)],
        }

    def _ours(self, path: Path) -> bool:
        with contextlib.suppress(OSError):
            return path.read_text().startswith(str(self.base))
        return False

    def close(self) -> None:
        """End everything, whatever there is."""
        if self.pid:
            with contextlib.suppress(AssertionError):
                self.kill()
        assert self._nest.stdin is not None
        self._nest.stdin.close()
        self._nest.wait(10)
        for pid, _ in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        driver = open_driver()
        for name in driver.names():
            remove_job(name, driver)
        for kept in self.run.glob("run-*/kept"):
            kept.unlink()
        sweep(str(self.run), driver)
        driver.release()


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
