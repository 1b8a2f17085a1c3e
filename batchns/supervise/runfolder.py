"""What one run of the scheduler owns on the machine while it lives, and how others see that it is dead.

    RUN/run-<id>/lock        locked (flock) as long as the run lives; the kernel unlocks it, however the run ends
    RUN/run-<id>/records/    exit records
    RUN/slots/<n>            taken by the run whose id it contains
    STATE/next_job_id        one counter for the machine, so that output files of different runs do not meet

1. A name is claimed before it is used: a slot's file exists before an id range or an address of it does.
2. Every kernel object's name begins with the run's id, so a dead run's objects can be found (sweep.py).
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections import deque
from contextlib import suppress
from errno import EACCES, ENOSPC, EPERM, EROFS
from pathlib import Path
from types import TracebackType

from batchns.errors import HostError
from batchns.kernel.network import addresses
from batchns.launch.build import IDS_PER_RANGE, Slot
from batchns.model.config import Config

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 5
# A slot rests before it is used again: the kernel takes a moment to remove the last holder's link and addresses.
_RESTING = 8


class RunFolder:
    """One run's folder and claims. A context manager: leaving it gives everything back."""

    def __init__(self, config: Config) -> None:
        """Raises HostError where the folders cannot be written."""
        self._config = config
        self._base = Path(config.paths.run)
        self._free: deque[Slot] = deque()
        self._claimed: list[Slot] = []
        self._next_slot = 0
        try:
            (self._base / "slots").mkdir(parents=True, exist_ok=True, mode=0o755)
            self.run_id, self._lock = self._create()
        except OSError as error:
            raise _unusable(error, self._base) from None
        self.path = str(self._base / f"run-{self.run_id}")

    def _create(self) -> tuple[str, int]:
        """A new folder under an id that no other run has, and its lock."""
        while True:
            run_id = "".join(secrets.choice(_DIGITS) for _ in range(_ID_LENGTH))
            # Made under another name first: a sweep must never see a folder of ours that is not locked yet.
            making = self._base / f"making-{run_id}"
            making.mkdir(mode=0o700)
            (making / "records").mkdir(mode=0o700)
            lock = os.open(making / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                making.rename(self._base / f"run-{run_id}")
                return run_id, lock
            except OSError:
                os.close(lock)
                shutil.rmtree(making, ignore_errors=True)

    def job_ids(self, count: int) -> int:
        """The first of `count` job ids that no other run on this machine has.

        Raises:
            HostError: the state folder cannot be written.
        """
        path = Path(self._config.paths.state) / "next_job_id"
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                text = file.read().strip()
                first = int(text) if text.isdecimal() else 1
                file.seek(0)
                file.write(f"{first + count}\n")
                file.truncate()
        except OSError as error:
            raise _unusable(error, path) from None
        return first

    def attempt_name(self, serial: int) -> str:
        """The name of this run's attempt number `serial`: the run's id and the number in base 36."""
        digits = ""
        while serial or not digits:
            serial, digit = divmod(serial, 36)
            digits = _DIGITS[digit] + digits
        return f"{self.run_id}-{digits}"

    def record_path(self, attempt_name: str) -> str:
        """Where the exit record of this attempt goes."""
        return f"{self.path}/records/{attempt_name}"

    def acquire_slot(self) -> Slot:
        """A slot that no other job on this machine has.

        Raises:
            HostError: all slots are taken, or the folder cannot be written.
        """
        if len(self._free) > _RESTING:
            return self._free.popleft()
        slot = self._claim()
        if slot is not None:
            self._claimed.append(slot)
            return slot
        if self._free:
            return self._free.popleft()
        raise HostError(
            f"all {self._count()} places for running jobs are taken",
            "write a larger network.pool and more isolation.id_ranges in batchns.toml, or run fewer jobs at a time",
        )

    def release_slot(self, slot: Slot) -> None:
        """Give a slot back, for the next job of this run."""
        self._free.append(slot)

    def close(self) -> None:
        """Give everything back."""
        for slot in self._claimed:
            with suppress(FileNotFoundError):
                os.unlink(self._slot_path(slot.number))
        self._claimed.clear()
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _count(self) -> int:
        return min(self._config.isolation.id_ranges, addresses.capacity(self._config.network.pool))

    def _slot_path(self, number: int) -> str:
        return f"{self._base}/slots/{number}"

    def _claim(self) -> Slot | None:
        for number in range(self._next_slot, self._count()):
            try:
                fd = os.open(self._slot_path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except FileExistsError:
                continue
            except OSError as error:
                raise _unusable(error, self._base) from None
            os.write(fd, self.run_id.encode())
            os.close(fd)
            self._next_slot = number + 1
            settings = self._config.isolation
            return Slot(
                number=number,
                id_start=settings.id_start + number * IDS_PER_RANGE,
                address=addresses.job_address(self._config.network.pool, number),
            )
        return None


def _unusable(error: OSError, path: Path) -> HostError:
    hint = ""
    if error.errno in (EACCES, EPERM):
        hint = "run batchns as root, or write folders of your own under [paths] in batchns.toml"
    elif error.errno == ENOSPC:
        hint = "free some space there"
    elif error.errno == EROFS:
        hint = "write folders that can be written under [paths] in batchns.toml"
    return HostError(f"{error.filename or path}: {os.strerror(error.errno or 0)}", hint)
