"""Looking after the file from outside, beside a daemon that uses it: a copy, and what is wrong with it. Only reads."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from batchns.core.changes import (
    Change,
    Finished,
    FreezeEnded,
    Freezing,
    Launched,
    Requeued,
    Started,
    Stopped,
    Thawed,
)
from batchns.errors import HostError
from batchns.model.lifecycle import Event, IllegalEvent, State, apply
from batchns.store import files, schema
from batchns.store.codec import Unreadable, decode_change
from batchns.store.keys import id_of

_MOST = 100  # problems that SQLite names
_OK = ("ok",)
_MAGIC = b"SQLite format 3\0"  # https://sqlite.org/fileformat.html#magic_header_string


def backup_store(path: Path, target: Path, *, overwrite: bool = False) -> None:
    """Copy the store at `path` to `target`, as it is at this moment; a daemon may go on using it.

    Raises:
        HostError: there is no store, `target` is there and not to be overwritten, or the disk cannot do it.
    """
    _open(path).close()
    backup(path, target, overwrite=overwrite)


def check_store(path: Path, *, copy: bool = False) -> list[str]:
    """What is wrong with the store at `path`, a line each; empty when all is well. A daemon may go on using it.

    `copy`: somebody has named the file, which may be anything.

    Raises:
        Damaged: SQLite can make nothing of it.
        HostError: there is no store, or it cannot be read at all.
    """
    if copy:
        _check_named(path)
    with files.told(path):
        db = _open(path)
        try:
            return problems(db)
        finally:
            db.close()


def _open(path: Path) -> sqlite3.Connection:
    if not path.exists():
        raise HostError(f"{path}: there is no store", "name the state folder that has one (--state), or a copy")
    with files.told(path):
        db = files.connect(path)
        try:
            _check_ours(path, db)
        except BaseException:
            db.close()
            raise
        return db


def _check_named(path: Path) -> None:
    """
    Raises:
        HostError: it is no file of SQLite's.
    """
    if not path.exists():
        return
    hint = "name a copy that batchns store backup has made"
    if not path.is_file():
        raise HostError(f"{path}: no plain file", hint)
    with files.told(path), path.open("rb") as opened:
        if opened.read(len(_MAGIC)) != _MAGIC:
            raise HostError(f"{path}: no store of batchns", hint)


def _check_ours(path: Path, db: sqlite3.Connection) -> None:
    version = schema.version_of(db)
    if db.execute("PRAGMA application_id").fetchone()[0] != schema.APPLICATION:
        raise HostError(f"{path}: no store of batchns", "name the state folder that has one (--state), or a copy")
    if version != schema.VERSION:
        raise HostError(
            f"{path}: version {version}; this batchns reads {schema.VERSION}",
            "use the batchns that wrote it" if version > schema.VERSION else "start the daemon once: it brings it up",
        )


def backup(path: Path, target: Path, *, overwrite: bool) -> None:
    """As `backup_store`, of a store of any version."""
    target = target.absolute()
    if target.exists() and target.samefile(path):
        raise HostError(f"{target}: is the store itself", "choose another name")
    if not target.parent.is_dir():
        raise HostError(f"{target.parent}: there is no such folder", f"mkdir -p {target.parent}")
    part = target.with_name(f"{target.name}.part-{os.getpid()}")
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            _copy(path, part)
            if overwrite:
                part.rename(target)
            else:
                os.link(part, target)
            files.sync_folder(target.parent)
        finally:
            part.unlink(missing_ok=True)
    except FileExistsError:
        name = target if target.exists() else part
        raise HostError(f"{name}: is there already", "choose another name, or say --overwrite") from None
    except OSError as error:
        raise files.unusable(target, error) from None


def _copy(path: Path, part: Path) -> None:
    with files.told(path):
        source = files.connect(path)
    try:
        with files.told(part):
            copy = sqlite3.connect(part, isolation_level=None)
            try:
                source.backup(copy)  # in one step: one moment
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, and no other beside it
            finally:
                copy.close()
            with part.open("rb") as file:
                os.fsync(file.fileno())
    finally:
        source.close()


def problems(db: sqlite3.Connection) -> list[str]:
    """What is wrong, a line each."""
    found = [str(row[0]) for row in db.execute(f"PRAGMA integrity_check({_MOST})") if row != _OK]
    if found:
        return found  # what stands in a damaged file is not worth a second look
    db.execute("BEGIN")
    try:
        for table, row, parent, _ in db.execute("PRAGMA foreign_key_check"):
            found.append(f"{table} {row if table == 'entry' else id_of(row)}: its {parent} lacks")
        found += _of_jobs(db)
        found += _of_journals(db)
    finally:
        with suppress(sqlite3.Error):
            db.execute("COMMIT")
    return found


def _of_jobs(db: sqlite3.Connection) -> Iterator[str]:
    """Each job is either open or has ended."""
    for text, what in (
        ("SELECT open.job FROM open JOIN ending USING (job)", "is over, and among those that are not"),
        (
            "SELECT key FROM job WHERE NOT EXISTS (SELECT 1 FROM open WHERE open.job = key)"
            " AND NOT EXISTS (SELECT 1 FROM ending WHERE ending.job = key)",
            "is neither over nor among those that are not",
        ),
    ):
        for (key,) in db.execute(text):
            yield f"job {id_of(key)}: {what}"


def _of_journals(db: sqlite3.Connection) -> Iterator[str]:
    """The journal of each job leads through the lifecycle's table to the state that it ended in."""
    rows = db.execute(
        "SELECT key, ending.state, entry.number, entry.kind, entry.change FROM job"
        " LEFT JOIN ending ON ending.job = key LEFT JOIN entry ON entry.job = key ORDER BY key, entry.number"
    )
    for (key, ended), entries in groupby(rows, key=itemgetter(0, 1)):
        job_id, state, at = id_of(key), State.PENDING, None
        try:
            for _, _, number, kind, text in entries:
                at = number
                if kind is not None and (event := event_of(decode_change(kind, job_id, text))) is not None:
                    state = apply(job_id, state, event)
        except (IllegalEvent, Unreadable) as error:
            yield f"entry {at}: {error}" if isinstance(error, IllegalEvent) else f"entry {at} of job {job_id}: {error}"
            continue
        if ended is not None and ended != state.value:
            yield f"job {job_id}: ended as {ended}, and its journal as {state.value}"


def event_of(change: Change) -> Event | None:
    """The lifecycle's event that a change is; None: it moves nothing there."""
    match change:
        case Finished(_, event, _):
            return event
        case FreezeEnded(_, confirmed):
            return Event.FROZEN if confirmed else Event.FREEZE_FAILED
    return _EVENTS.get(type(change))


_EVENTS: dict[type, Event] = {
    Launched: Event.LAUNCH,
    Started: Event.STARTED,
    Freezing: Event.FREEZE,
    Thawed: Event.THAWED,
    Stopped: Event.STOP,
    Requeued: Event.REQUEUE,
}
