"""The file on disk: who may open it, what is said when it cannot be used.

    STATE/batchns.db        the database; batchns.db-wal and -shm beside it belong to it
    STATE/batchns.db.lock   locked (flock) by the daemon that has it, whose process id it contains

1. One daemon at a time changes it; whoever only reads (a backup, a check) asks nobody.
2. Every error of SQLite leaves here as a `StoreError` that says what is wrong with which file, and what to do.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, EDQUOT, ENOSPC, EPERM, EROFS
from pathlib import Path

from batchns.errors import HostError
from batchns.store.codec import Unreadable
from batchns.store.interface import Damaged, StoreError

_BUSY_SECONDS = 10.0  # readers never keep a writer waiting; this is for programs that are not ours
_FULL = 1 << 16  # bytes: with less than that free, an error of the disk is taken for a full one
_SUFFIXES = ("-wal", "-shm")


class Lock:
    """The right to change the store; the kernel gives it back however its process ends."""

    def __init__(self, path: Path) -> None:
        """Raises HostError where another process has it, or the file cannot be made."""
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(path, error) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)
        except BlockingIOError:
            pid = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            self.close()
            holder = f"process {pid}" if pid.isdecimal() else "another process"
            raise HostError(
                f"{path.with_suffix('')}: {holder} has it open",
                "one daemon at a time: stop that one first (systemctl stop batchns), or give this one"
                " a state folder of its own",
            ) from None
        except OSError as error:
            self.close()
            raise unusable(path, error) from None

    def close(self) -> None:
        os.close(self._descriptor)


def prepare(path: Path) -> None:
    """The folder and an empty file, if there are none; nobody else may read the file, nor write to the folder.

    Raises:
        HostError: they cannot be made, or others may write there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = path.parent.stat()
        if folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or folder.st_uid not in (0, os.geteuid()):
            raise HostError(
                f"{path.parent}: others may write there", f"chmod 700 {path.parent}, or choose another state folder"
            )
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)  # before SQLite opens it: a close would give its locks away
        sync_folder(path.parent)
    except OSError as error:
        raise unusable(path, error) from None


def sync_folder(folder: Path) -> None:
    """Names in it are on disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def connect(path: Path, *, write: bool = False) -> sqlite3.Connection:
    """A connection that any thread may use, one at a time; without `write` it changes nothing."""
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'rw' if write else 'ro'}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    db.execute("PRAGMA temp_store = MEMORY")
    if write:
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA synchronous = FULL")
    return db


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Errors of SQLite, of the disk and of what is in the file, as a StoreError."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise unusable(path, error) from None
    except Unreadable as error:
        raise StoreError(
            f"{path}: {error}",
            "start the version of batchns that wrote it, or put a backup in its place: docs/store.md",
        ) from None


def unusable(path: Path, error: sqlite3.Error | OSError) -> StoreError:
    """What to tell of the error."""
    if isinstance(error, OSError):
        return _of_system(path, error)
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    if name.startswith("SQLITE_FULL") or (name.startswith("SQLITE_IOERR") and _is_full(path)):
        return _full(path)
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return damaged(path, str(error))
    if name.startswith("SQLITE_IOERR"):
        return StoreError(f"{path}: the disk fails ({name})", "see what the kernel says of it: dmesg | tail")
    if name.startswith("SQLITE_READONLY"):
        return StoreError(f"{path}: cannot be written: {error}", f"see whether {path.parent} is mounted read-only")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreError(f"{path}: another program has locked it", f"see which one: fuser {path}")
    if name.startswith("SQLITE_CANTOPEN"):
        return StoreError(f"{path}: cannot be opened", f"see whether it is there and yours: ls -l {path}")
    if name.startswith("SQLITE_CONSTRAINT"):
        return StoreError(f"{path}: contradicts what is there: {error}", "this is a mistake of batchns: report it")
    return StoreError(f"{path}: {error} ({name})", f"see what it says of itself: sqlite3 {path} 'PRAGMA quick_check'")


def damaged(path: Path, detail: str) -> Damaged:
    files = " ".join(str(path.with_name(path.name + suffix)) for suffix in ("", *_SUFFIXES))
    return Damaged(
        f"{path}: damaged: {detail}",
        f"stop the daemon, move it away with what belongs to it (mkdir {path}.damaged && mv -t {path}.damaged {files})"
        f" and put a backup in its place (cp BACKUP {path}); without a backup a new store is made at the next start",
    )


def _of_system(path: Path, error: OSError) -> StoreError:
    name = error.filename or path
    if error.errno in (ENOSPC, EDQUOT):
        return _full(path)
    if error.errno in (EACCES, EPERM):
        return StoreError(f"{name}: permission denied", "run this as root")
    if error.errno == EROFS:
        return StoreError(f"{name}: the file system is read-only", f"mount {path.parent} for writing")
    return StoreError(f"{name}: {os.strerror(error.errno or 0)}", f"see whether it is there and yours: ls -l {name}")


def _full(path: Path) -> StoreError:
    return StoreError(f"{path}: the disk is full", f"make room there (see: df -h {path.parent})")


def _is_full(path: Path) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(path.parent).free < _FULL
    return False
