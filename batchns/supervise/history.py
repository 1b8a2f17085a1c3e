"""What jobs took, kept for estimates and for replay: one line of JSON for each attempt that ended.

1. Several processes append at once: each line is written under the file's lock, whole or not at all.
2. A writer may die at any moment: what it left of a line is skipped, and does not spoil the next one.
3. The files have a bound: a full one takes the place of the one before it, so between one and two bounds are kept.

It is not the journal: it decides nothing, so it is not synced to disk with every line.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from batchns.errors import HostError
from batchns.kernel.locks import lock_within
from batchns.model.lifecycle import State
from batchns.supervise.runfolder import open_plain, unusable

FILE = "history.jsonl"  # in the state folder
_BOUND = 8 << 20  # bytes of one file: some 20,000 attempts
_LOCK_SECONDS = 5.0  # the lock is held for one line, or one read
_TRIES = 50  # of locking a file that is not replaced meanwhile


@frozen(kw_only=True)
class Record:
    """One attempt that ended. Times are seconds since the epoch, sizes bytes."""

    job_id: str
    name: str
    uid: int
    user: str
    queue: str
    submitted: float
    started: float
    ended: float
    running_seconds: float
    frozen_seconds: float
    cpus: float  # asked for
    memory: int | None = None  # asked for
    memory_peak: int | None = None
    time_limit: float | None = None  # seconds
    state: State
    exit_code: int | None = None


class History:
    """The records at `path`, and the older ones beside it in `path` + ".1". `bound`: bytes of one file.

    Blocks for as long as another process has the lock, within a bound: call it in a thread.
    """

    def __init__(self, path: Path, bound: int = _BOUND) -> None:
        self._path = path
        self._older = path.with_name(f"{path.name}.1")
        self._bound = bound

    def append(self, *records: Record) -> None:
        """Add records, all or none of them.

        Raises:
            HostError: the file cannot be written, or others have locked it for seconds. Nothing was added.
        """
        line = b"".join(map(_line, records))
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            while not self._append(line):
                pass
        except OSError as error:
            raise unusable(error, self._path) from None

    def _append(self, line: bytes) -> bool:
        """False: the file was full, and has made place for a new one."""
        descriptor = self._locked(fcntl.LOCK_EX)
        try:
            size = os.fstat(descriptor).st_size
            if size and size + len(line) > self._bound:
                self._path.rename(self._older)  # whoever waits for its lock finds that it was replaced
                return False
            _write(descriptor, line)
            return True
        finally:
            os.close(descriptor)

    def recent(self, limit: int) -> list[Record]:
        """The last records that were added, at most `limit` of them, the oldest first; none where there is no file.

        What is not a record, or one of a version to come that means something else, is left out.

        Raises:
            HostError: the file cannot be read, or others have locked it for seconds.
        """
        try:
            texts = self._texts()
        except OSError as error:
            raise unusable(error, self._path) from None
        found: list[Record] = []
        for text in texts:
            for line in reversed(text.splitlines()):
                if len(found) >= limit:
                    break
                record = _record(line)
                if record is not None:
                    found.append(record)
        return found[::-1]

    def _texts(self) -> list[bytes]:
        """The newer file's and the older one's, as they were at one moment; without those that are not there."""
        texts = []
        with ExitStack() as open_files:
            with suppress(FileNotFoundError):
                descriptor = self._locked(fcntl.LOCK_SH)
                open_files.callback(os.close, descriptor)
                texts.append(_all(descriptor))
            with suppress(FileNotFoundError):
                descriptor = open_plain(self._older, os.O_RDONLY)
                open_files.callback(os.close, descriptor)
                texts.append(_all(descriptor))
        return texts

    def _locked(self, kind: int) -> int:
        """A descriptor of the file that has the name now, locked."""
        flags = os.O_RDONLY if kind == fcntl.LOCK_SH else os.O_RDWR | os.O_APPEND | os.O_CREAT
        for _ in range(_TRIES):
            descriptor = open_plain(self._path, flags)
            if not lock_within(descriptor, kind, _LOCK_SECONDS):
                os.close(descriptor)
                break
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), self._path.lstat()):
                    return descriptor
            os.close(descriptor)
        raise HostError(
            f"{self._path}: locked for more than {_LOCK_SECONDS:.0f} s by another batchns",
            f"see which process it is with: fuser {self._path}",
        )


def _write(descriptor: int, line: bytes) -> None:
    """Append the line, after the end of what a writer that died has left of its own; or nothing."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line
    written = 0
    try:
        while written < len(line):  # a disk that fills up takes a part
            written += os.write(descriptor, line[written:])
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _all(descriptor: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read()


def _line(record: Record) -> bytes:
    table = {**attrs.asdict(record), "state": record.state.value}
    return json.dumps(table, allow_nan=False, separators=(",", ":")).encode() + b"\n"


# What JSON may say for each annotation above. A bool is an int to Python, and no number here.
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "int | None": (int, type(None)),
    "float | None": (int, float, type(None)),
    "State": (str,),
}


def _record(line: bytes) -> Record | None:
    """The record of a line; None where it is none."""
    try:
        table = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(table, dict):
        return None
    values: dict[str, Any] = {}
    for field in attrs.fields(Record):
        value = table.get(field.name)
        if type(value) not in _TYPES[str(field.type)] or (isinstance(value, float) and not math.isfinite(value)):
            return None
        values[field.name] = value
    try:
        return Record(**{**values, "state": State(values["state"])})
    except ValueError:
        return None
