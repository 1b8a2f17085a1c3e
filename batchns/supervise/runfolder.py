"""What one run of the scheduler owns on the machine while it lives, and how others see that it is dead.

    RUN/run-<id>/lock        locked (flock) as long as the run lives; the kernel unlocks it, however the run ends
    RUN/run-<id>/records/    exit records
    RUN/run-<id>/seccomp-*   compiled filters, by the profile's name
    RUN/run-<id>/resolv.conf jobs' name servers; hosts beside it: names of the jobs that reach each other
    RUN/run-<id>/claim       the run's id
    RUN/run-<id>/kept        the boot in which the run may go on after its process has ended: nobody sweeps it
    RUN/run-<id>/launcher/   what the kept launcher of such a run knows
    RUN/slots/<n>            taken by the run whose id it contains: another name of that run's claim
    STATE/next_job_id        one counter for the machine, so that output files of different runs do not meet

1. A name is claimed before it is used: a slot's file exists before an id range or an address of it does. It appears
   with its content (link(2)), so what is empty or not a run's was never a claim.
2. Every kernel object's name begins with the run's id, so a dead run's objects can be found (sweep.py).
3. What is read here may be damaged: it is read in one bounded piece, and from plain files only.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from errno import EACCES, EEXIST, EINVAL, EISDIR, ELOOP, ENOENT, ENOSPC, ENOTEMPTY, ENXIO, EPERM, EROFS
from pathlib import Path
from types import TracebackType

from batchns.errors import HostError
from batchns.kernel.locks import lock_within
from batchns.kernel.network import addresses
from batchns.launch.build import Slot
from batchns.launch.notes import boot_id
from batchns.model.config import Config
from batchns.supervise.idranges import id_starts

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 5
RUN_ID = re.compile(rb"[0-9a-z]{5}")
NOT_PLAIN = (EINVAL, EISDIR, ELOOP, ENXIO)  # what `open_plain` says
_BOUND = 64  # bytes, more than any file that is read here has
# A slot rests before it is used again: the kernel takes a moment to remove the last holder's link and addresses.
_RESTING = 32
_TRIES = 10  # of making the run's folder: another run's sweep may take it for a dead one's while it is made
_LOCK_SECONDS = 10.0  # the counter is locked for one read and write
_LARGEST_ID = 10**15


class RunFolder:
    """One run's folder and claims. A context manager: leaving it gives everything back, unless the run is kept."""

    def __init__(self, config: Config, *, _again: tuple[str, int] | None = None) -> None:
        """Raises HostError where the folders cannot be written, or ids of jobs are somebody else's."""
        self._config = config
        self._id_starts = id_starts(config.isolation)
        self._base = Path(config.paths.run)
        self._free: deque[Slot] = deque()
        self._claimed: list[Slot] = []
        self._unclear: list[Slot] = []  # claimed by the run before it was opened again
        self._left = False
        try:
            (self._base / "slots").mkdir(parents=True, exist_ok=True, mode=0o755)
            self.run_id, self._lock = _again or self._create()
        except OSError as error:
            raise unusable(error, self._base) from None
        self.path = str(self._base / f"run-{self.run_id}")
        # Each run begins elsewhere: the links of one that has just ended vanish in the background.
        self._next_slot = int(self.run_id, 36) % self._count()

    @classmethod
    def reopen(cls, config: Config, run_id: str) -> RunFolder | None:
        """A kept run's folder again; None: there is no such run of this boot.

        None of the slots that it has claimed is free before `free_all_but`.

        Raises:
            HostError: another process has it, or the folders cannot be used.
        """
        folder = Path(config.paths.run) / f"run-{run_id}"
        try:
            if not is_kept(folder):
                return None
            lock = open_plain(folder / "lock", os.O_RDWR)
        except OSError as error:
            raise unusable(error, folder) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise HostError(
                f"{folder}: another batchns uses it", f"see which process it is with: fuser {folder}/lock"
            ) from None
        try:
            runs = cls(config, _again=(run_id, lock))
            runs._know_claims()
        except BaseException:
            os.close(lock)
            raise
        return runs

    def _know_claims(self) -> None:
        try:
            for path in (self._base / "slots").iterdir():
                if path.name.isdecimal() and int(path.name) < self._count() and slot_owner(path) == self.run_id:
                    self._unclear.append(self.slot(int(path.name)))
        except OSError as error:
            raise unusable(error, self._base) from None
        self._claimed = list(self._unclear)
        self._left = True

    def _create(self) -> tuple[str, int]:
        """A new folder under an id that no other run has, and its lock."""
        tries = 0
        while True:
            tries += 1
            try:
                return self._make("".join(secrets.choice(_DIGITS) for _ in range(_ID_LENGTH)))
            except OSError as error:
                if error.errno not in (EEXIST, ENOTEMPTY, ENOENT) or tries == _TRIES:
                    raise

    def _make(self, run_id: str) -> tuple[str, int]:
        # Made under another name first: a sweep must never see a folder of ours that is not locked yet.
        making = self._base / f"making-{run_id}"
        making.mkdir(mode=0o700)
        lock = -1
        try:
            lock = os.open(making / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            (making / "records").mkdir(mode=0o700)
            (making / "claim").write_text(run_id)
            making.rename(self._base / f"run-{run_id}")
        except OSError:
            if lock >= 0:
                os.close(lock)
            shutil.rmtree(making, ignore_errors=True)
            raise
        return run_id, lock

    def job_ids(self, count: int) -> int:
        """The first of `count` job ids that no other run on this machine has.

        Raises:
            HostError: the state folder cannot be written, or what is in it is no number.
        """
        path = Path(self._config.paths.state) / "next_job_id"
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = open_plain(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise unusable(error, path) from None
        try:
            if not lock_within(descriptor, fcntl.LOCK_EX, _LOCK_SECONDS):
                raise HostError(
                    f"{path}: locked for more than {_LOCK_SECONDS:.0f} s by another batchns",
                    f"see which process it is with: fuser {path}",
                )
            first = _next_id(os.pread(descriptor, _BOUND, 0), path)
            text = f"{first + count}\n".encode()
            os.pwrite(descriptor, text, 0)
            os.ftruncate(descriptor, len(text))
        except OSError as error:
            raise unusable(error, path) from None
        finally:
            os.close(descriptor)
        return first

    def attempt_name(self, serial: int) -> str:
        """The name of this run's attempt number `serial`: the run's id and the number in base 36."""
        digits = ""
        while serial or not digits:
            serial, digit = divmod(serial, 36)
            digits = _DIGITS[digit] + digits
        return f"{self.run_id}-{digits}"

    @property
    def resolver_path(self) -> str:
        """Where the jobs' resolv.conf goes."""
        return f"{self.path}/resolv.conf"

    @property
    def host_resolver_path(self) -> str:
        """Where the resolv.conf of jobs in the host's network goes."""
        return f"{self.path}/host-resolv.conf"

    @property
    def names_path(self) -> str:
        """Where the hosts file of the jobs that reach each other goes."""
        return f"{self.path}/hosts"

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

    def slot(self, number: int) -> Slot:
        """One that the run has claimed, by its number.

        Raises:
            HostError: by the settings of now there is none of this number.
        """
        if number >= len(self._id_starts):
            raise HostError(f"slot {number} is beyond isolation.id_ranges", "raise it again until the job is over")
        return Slot(
            number=number,
            id_start=self._id_starts[number],
            address=addresses.job_address(self._config.network.pool, number),
        )

    def free_all_but(self, used: Collection[int]) -> None:
        """Of the slots that a reopened run had claimed before, by number, these are in use and the others are not."""
        self._free.extend(slot for slot in self._unclear if slot.number not in used)
        self._unclear.clear()

    def keep(self) -> None:
        """From here on the run outlives this process: `close` gives nothing back, no sweep, and `reopen` finds it."""
        try:
            new = Path(self.path, "kept.new")
            new.write_text(boot_id())
            new.rename(Path(self.path, "kept"))
        except OSError as error:
            raise unusable(error, Path(self.path)) from None
        self._left = True

    def give_up(self) -> None:
        """No job is left of a kept run: `close` gives everything back."""
        Path(self.path, "kept").unlink(missing_ok=True)
        self._left = False

    @property
    def launcher_path(self) -> str:
        """The folder of a kept run's launcher."""
        return f"{self.path}/launcher"

    def leave_to_sweep(self) -> None:
        """Some of the run's jobs are still there: `close` gives nothing back, so that the next start finds them."""
        self._left = True

    def close(self) -> None:
        """Give everything back; nothing of a kept run's."""
        if self._left:
            os.close(self._lock)
            return
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
        return min(len(self._id_starts), addresses.capacity(self._config.network.pool))

    def _slot_path(self, number: int) -> str:
        return f"{self._base}/slots/{number}"

    def _claim(self) -> Slot | None:
        count = self._count()
        for step in range(count):
            number = (self._next_slot + step) % count
            try:
                os.link(f"{self.path}/claim", self._slot_path(number))
            except FileExistsError:
                continue
            except OSError as error:
                raise unusable(error, self._base) from None
            self._next_slot = (number + 1) % count
            return self.slot(number)
        return None


def open_plain(path: Path, flags: int) -> int:
    """A descriptor of a plain file; anything else is refused without waiting for it.

    Raises:
        OSError: one of `NOT_PLAIN` among others.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(EINVAL, os.strerror(EINVAL), str(path))
    return descriptor


def is_kept(folder: Path) -> bool:
    """Whether the run of this folder may go on without its process: it was kept, and the machine runs since.

    Raises:
        OSError: that cannot be read.
    """
    try:
        descriptor = open_plain(folder / "kept", os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return os.read(descriptor, _BOUND).decode(errors="replace") == boot_id()
    finally:
        os.close(descriptor)


def slot_owner(path: Path) -> str | None:
    """The id of the run whose claim `path` is; "" where it is none's, None where it is gone.

    Raises:
        OSError: it cannot be read.
    """
    try:
        descriptor = open_plain(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in NOT_PLAIN:
            return ""
        raise
    try:
        text = os.read(descriptor, _BOUND)
    finally:
        os.close(descriptor)
    return text.decode() if RUN_ID.fullmatch(text) else ""


def _next_id(text: bytes, path: Path) -> int:
    """The number in the counter's file; 1 in a new one."""
    digits = text.strip()
    if not digits:
        return 1
    if digits.isdigit() and int(digits) < _LARGEST_ID:
        return int(digits)
    raise HostError(
        f"{path}: there is no job id in it",
        f"write one that is larger than any so far: echo 100000 > {path}",
    )


def unusable(error: OSError, path: Path) -> HostError:
    """What is wrong with batchns's own file or folder, `path` where the error names none, and what to do about it."""
    hint = ""
    if error.errno in (EACCES, EPERM):
        hint = "run batchns as root, or write folders of your own under [paths] in batchns.toml"
    elif error.errno == ENOSPC:
        hint = "free some space there"
    elif error.errno in NOT_PLAIN:
        return HostError(f"{error.filename or path}: it is not a plain file", f"rm -r {error.filename or path}")
    elif error.errno == EROFS:
        hint = "write folders that can be written under [paths] in batchns.toml"
    return HostError(f"{error.filename or path}: {os.strerror(error.errno or 0)}", hint)
