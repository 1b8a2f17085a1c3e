"""What a kept launcher knows of its attempts, in files: it may be killed at any moment, and the next one reads them.

    attempts/<attempt>.prepared  the cgroup v2 directory of a sandbox that has no job yet
    attempts/<attempt>.plan      from before anything is forked for it until the attempt is forgotten
    attempts/<attempt>.born      its init: pid, start time, boot; from before init is sent the plan
    attempts/<attempt>.started   the answer, from before it is given; likewise:
    attempts/<attempt>.ended, attempts/<attempt>.failed

1. A file appears with its whole content (link(2), rename(2)). Who is killed while it writes leaves a *.new that counts
   for nothing.
2. Against the end of a process, not of the machine: nothing is synced, and the folder is best a tmpfs.
3. A pid alone names nobody: with its start time and the boot it does.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any, NamedTuple

FOLDER = "attempts"
_NEW = ".new"
_KINDS = ("plan", "born", "started", "ended", "failed")  # in the order in which they are written, and removed
_PREPARED = "prepared"
_START_TIME = 22  # field of proc_pid_stat(5): clock ticks after boot


class Identity(NamedTuple):
    """A process that once was: no other has all three."""

    pid: int
    start: int
    boot: str


class Noted(NamedTuple):
    """What is written of one attempt; None for what is not (yet)."""

    plan: bytes
    born: dict[str, Any] | None = None
    started: dict[str, Any] | None = None
    ended: dict[str, Any] | None = None
    failed: dict[str, Any] | None = None


class Notes:
    """The files below `folder`, which is there. Every method raises OSError where the file system does not let it."""

    def __init__(self, folder: str) -> None:
        self.path = f"{folder}/{FOLDER}"
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def begin(self, attempt: str, plan: bytes) -> None:
        """Write the plan down: the one moment at which an attempt becomes known.

        Raises:
            FileExistsError: it has been known before.
        """
        new = self._write(f"{attempt}.plan", plan)
        try:
            os.link(new, f"{attempt}.plan", src_dir_fd=self._fd, dst_dir_fd=self._fd)
        finally:
            os.unlink(new, dir_fd=self._fd)

    def add(self, attempt: str, kind: str, values: dict[str, Any]) -> None:
        """Write down what has become of the attempt. `kind`: "born", "started", "ended" or "failed"."""
        name = f"{attempt}.{kind}"
        os.rename(self._write(name, json.dumps(values).encode()), name, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def prepare(self, attempt: str, into: str) -> None:
        """A cgroup is about to be made for a sandbox without a job."""
        name = f"{attempt}.{_PREPARED}"
        os.rename(self._write(name, into.encode()), name, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def unprepare(self, attempt: str) -> None:
        """It is gone, or has a job."""
        self._remove(f"{attempt}.{_PREPARED}")

    def forget(self, attempt: str) -> None:
        """Remove all of an attempt's files: first that without which the others count for nothing."""
        for kind in _KINDS:
            self._remove(f"{attempt}.{kind}")

    def prepared(self) -> dict[str, str]:
        """Directory by attempt of all sandboxes that were prepared and have not been given up."""
        names = [name for name in os.listdir(self._fd) if name.endswith(f".{_PREPARED}")]
        return {name.rpartition(".")[0]: self._read(name).decode() for name in names}

    def read(self) -> dict[str, Noted]:
        """All attempts that are known. What was half written or half removed is removed."""
        found: dict[str, set[str]] = {}
        for name in os.listdir(self._fd):
            attempt, _, kind = name.rpartition(".")
            if name.endswith(_NEW):
                self._remove(name)
            elif kind in _KINDS:
                found.setdefault(attempt, set()).add(kind)
        for attempt in [attempt for attempt, kinds in found.items() if "plan" not in kinds]:
            del found[attempt]
            self.forget(attempt)
        return {
            attempt: Noted(
                self._read(f"{attempt}.plan"),
                *(json.loads(self._read(f"{attempt}.{kind}")) if kind in kinds else None for kind in _KINDS[1:]),
            )
            for attempt, kinds in found.items()
        }

    def _write(self, name: str, content: bytes) -> str:
        """A complete file under another name, which is returned."""
        new = name + _NEW
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
        try:
            if os.write(fd, content) < len(content):
                os.write(fd, content)  # of a full file system, which now says so
        except OSError as error:
            self._remove(new)
            raise OSError(error.errno, os.strerror(error.errno or 0), f"{self.path}/{name}") from None
        finally:
            os.close(fd)
        return new

    def _read(self, name: str) -> bytes:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        with os.fdopen(fd, "rb") as file:
            return file.read()

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)


def boot_id() -> str:
    """Another one after each start of the machine. random(4)."""
    fd = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 64).decode().strip()
    finally:
        os.close(fd)


def start_time(pid: int) -> int:
    """Clock ticks from boot to the start of the process, which may be dead but not reaped.

    Raises:
        ProcessLookupError, FileNotFoundError: there is none.
    """
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 4096)
    finally:
        os.close(fd)
    return int(text.rpartition(b")")[2].split()[_START_TIME - 3])


def open_same(identity: Identity) -> int:
    """A pidfd of this very process, -1 where it is gone."""
    if identity.boot != boot_id():
        return -1
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return -1
    with suppress(FileNotFoundError, ProcessLookupError):
        if start_time(identity.pid) == identity.start:
            return pidfd
    os.close(pidfd)
    return -1
