"""Who holds the firewall of this machine: one file for each in the run folder, with what its jobs need.

    lock        held while anything here is read or changed; in it the id of the boot that all the rest is of
    holder-*    locked as long as its process lives: one that is killed has let go
    holder-kept the same, but it holds without its process, too: of one whose jobs outlive it, and which comes back

1. A file appears, and is replaced, with its content and locked: whoever is killed meanwhile leaves the old or the new.
2. No hold outlives the machine's boot: neither rules nor jobs do.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batchns.errors import HostError
from batchns.kernel.network.types import Grant, Hold

_KEPT = "holder-kept"
_LOCK_SECONDS = 20.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Holders:
    """One process's view of them. All but `locked` and `held` only while `locked`."""

    def __init__(self, folder: Path, *, kept: bool) -> None:
        self._folder = folder
        self._kept = kept
        self._own: tuple[Path, int] | None = None

    @property
    def held(self) -> bool:
        return self._own is not None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among all batchns of this machine.

        Raises:
            HostError: the folder is not to be written, or no turn came within 20 s.
        """
        path = self._folder / "lock"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except PermissionError as error:
            raise HostError(f"{error.filename}: permission denied", "run batchns as root") from error
        try:
            end = time.monotonic() + _LOCK_SECONDS
            while not _try_lock(descriptor):
                if time.monotonic() > end:
                    raise HostError(
                        f"{path}: locked for more than {_LOCK_SECONDS:.0f} s by another batchns",
                        f"see which process it is with: fuser {path}",
                    )
                time.sleep(0.01)
            self._forget_other_boots(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _forget_other_boots(self, lock: int) -> None:
        """Of an earlier boot nothing is true any more: neither holds nor what had been changed on the host."""
        boot = _BOOT_ID.read_bytes().strip()
        found = os.pread(lock, 64, 0)
        if found == boot:
            return
        if found:
            for path in self._folder.iterdir():
                if path.name != "lock":
                    path.unlink()
        os.pwrite(lock, boot, 0)

    def live(self) -> list[Hold]:
        """What all the others hold. The files of dead ones are removed, unless they hold without their process."""
        for path in self._folder.glob("making-*"):
            path.unlink()  # its process was killed: nobody else is at it now
        found = []
        own = self._own[0] if self._own else self._folder / _KEPT if self._kept else None
        for path in sorted(self._folder.glob("holder-*")):
            if path == own:
                continue
            with path.open("rb") as file:
                if path.name.startswith(_KEPT) or not _try_lock(file.fileno()):
                    found.append(_decode(json.load(file)))
                else:
                    path.unlink()
        return found

    def earlier(self) -> Hold | None:
        """What a process before this one has kept; None where there is nothing, or this one keeps nothing.

        Raises:
            HostError: that process lives.
        """
        path = self._folder / _KEPT
        if not self._kept:
            return None
        try:
            with path.open("rb") as file:
                if not _try_lock(file.fileno()):
                    raise HostError(
                        f"{path}: another batchns that keeps its jobs holds the firewall of this machine",
                        f"see which process it is with: fuser {path}",
                    )
                return _decode(json.load(file))
        except FileNotFoundError:
            return None

    def set_aside(self) -> None:
        """What an earlier process has kept holds on beside what this one will."""
        (self._folder / _KEPT).rename(self._folder / f"{_KEPT}-{secrets.token_hex(4)}")

    def forget_aside(self, needed: Callable[[Hold], bool]) -> None:
        """Remove what this keeper has set aside, but for what is still needed."""
        for path in self._folder.glob(f"{_KEPT}-*") if self._kept else ():
            if not needed(_decode(json.loads(path.read_text()))):
                path.unlink()

    def take(self, hold: Hold) -> None:
        """Hold this from now on, in the place of what was held before."""
        descriptor, making = tempfile.mkstemp(prefix="making-", dir=self._folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.write(descriptor, json.dumps(hold._asdict()).encode())
            path = self._own[0] if self._own else self._folder / self._name(making)
            Path(making).rename(path)
        except BaseException:
            Path(making).unlink(missing_ok=True)
            os.close(descriptor)
            raise
        self.let_go()
        self._own = path, descriptor

    def _name(self, making: str) -> str:
        return _KEPT if self._kept else Path(making).name.replace("making-", "holder-")

    def lost(self) -> bool:
        """Somebody has removed this holder's file."""
        return self._own is not None and not self._own[0].exists()

    def may_have_kept(self) -> bool:
        """Whether a process before this one may have left something. To be asked without the lock, too."""
        return self._kept and (self._folder / "lock").exists()

    def drop(self) -> None:
        """Hold nothing any more, nor let anything be kept.

        Raises:
            HostError: another process keeps it, and lives.
        """
        if self._own:
            self._own[0].unlink(missing_ok=True)
            self.let_go()
        elif self.earlier() is not None:
            (self._folder / _KEPT).unlink()

    def let_go(self) -> None:
        """As when this process ends: what is kept holds on."""
        if self._own:
            fcntl.flock(self._own[1], fcntl.LOCK_UN)  # a forked child may have the descriptor
            os.close(self._own[1])
            self._own = None


class Note:
    """What has been done to the host, as JSON in a file: the old or the new, whatever happens meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Any:
        """None where there is none."""
        try:
            return json.loads(self._path.read_text())
        except FileNotFoundError:
            return None

    def write(self, value: Any) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(value))
        fresh.replace(self._path)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _decode(raw: dict[str, Any]) -> Hold:
    """The hold that JSON has made lists of. Of another version's, what is known here."""
    known: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in raw.items() if name in Hold._fields
    }
    grants = tuple(
        (group, Grant(user, jobs, tuple((name, first, last) for name, first, last in ports), tuple(ranges)))
        for group, (user, jobs, ports, ranges) in known.pop("grants", ())
    )
    return Hold(**known, grants=grants)
