"""Other jobs beside an attacker's, that mind their own business and note whether they still can."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import define, field

from ..daemon.live import lives
from ..system.conftest import until
from .inside import kit
from .tree import PYTHON


@define(kw_only=True, eq=False)
class Neighbour:
    """`usual`: what it cannot do anyway."""

    uid: int
    work: Path
    about: dict[str, Any] = field(factory=dict)
    usual: frozenset[str] = frozenset()

    def rounds(self) -> list[str]:
        path = self.work / "beats"
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def failures(self) -> frozenset[str]:
        """What it cannot do any more."""
        return frozenset(word for word in self.rounds()[-1].split() if "=" not in word) - self.usual

    def counts(self) -> dict[str, int]:
        """How often somebody has reached it, and where."""
        pairs = [word.partition("=") for word in self.rounds()[-1].split() if "=" in word]
        return {name: int(count) for name, _, count in pairs}

    def goes_on(self, rounds: int = 3, seconds: float = 10) -> bool:
        """Whether it does so many rounds from now."""
        wanted = len(self.rounds()) + rounds
        with contextlib.suppress(AssertionError):
            until(lambda: len(self.rounds()) >= wanted, seconds)
        return len(self.rounds()) >= wanted


@contextlib.contextmanager
def make(uid: int, base: Path, token: str, start: Callable[[Neighbour, list[str]], Any]) -> Iterator[Neighbour]:
    """One of user `uid`, which has the token. `start` starts its command in its folder."""
    work = Path(tempfile.mkdtemp(prefix="attack-", dir=base))
    comm = f"nbr-{secrets.token_hex(3)}"
    name, key = f"attack-{secrets.token_hex(6)}", 1 + secrets.randbelow((1 << 31) - 2)
    try:
        for source in Path(kit.__file__).parent.glob("*.py"):
            shutil.copy(source, work)
        with socket.create_server(("", 0)) as free:
            port = free.getsockname()[1]
        given = {"name": name, "key": key, "token": token, "port": port}
        (work / "neighbour.json").write_text(json.dumps(given))
        for path in (work, *work.iterdir()):
            os.chown(path, uid, uid)
        one = Neighbour(uid=uid, work=work)
        start(one, [PYTHON, "neighbour.py", comm.removeprefix("nbr-")])
        until(lambda: len(one.rounds()) > 2, 60)
        one.usual = one.failures()
        one.about = {**given, **json.loads((work / "about.json").read_text()), "pid": _pid(comm), "token": ""}
        yield one
    finally:
        (work / "enough").touch()
        with contextlib.suppress(AssertionError):  # it never started, or was killed
            until(lambda: not _pid(comm), 10)
        shutil.rmtree(work, ignore_errors=True)
        _remove(name, key)


def _remove(name: str, key: int) -> None:
    """What it has made on this machine, if it was no job."""
    kit.libc.mq_unlink(f"/{name}".encode())
    kit.libc.shmctl(kit.libc.shmget(key, 0, 0), 0, None)  # IPC_RMID
    for folder in ("/dev/shm", "/tmp"):
        Path(folder, name).unlink(missing_ok=True)


def _pid(comm: str) -> int:
    """Its number on the host, 0 where it is not there."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "comm").read_text().strip() == comm and lives(int(entry.name)):
                return int(entry.name)
    return 0
