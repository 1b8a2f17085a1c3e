"""The daemon's memory on disk: SQLite behind `store.interface`.

1. A batch is one transaction: synced to disk when `commit` returns, or nothing of it is kept.
2. One connection writes, under a lock; another one reads, so that a long look at history keeps no commit waiting.
3. What is pruned is pruned with all that belongs to it, and never while a job that is still there depends on it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attrs import evolve

from batchns.core.changes import Submitted
from batchns.errors import HostError
from batchns.store import files, history, schema
from batchns.store.check import backup, problems
from batchns.store.codec import Unreadable, dump, encode_change
from batchns.store.interface import (
    Batch,
    Ending,
    Entry,
    HistoryPage,
    HistoryQuery,
    Loaded,
    Stored,
    StoreError,
    Submission,
)
from batchns.store.jobs import encode_jobs, needed_arrays
from batchns.store.keys import LARGEST_ARRAY, key_of
from batchns.store.load import load, stored
from batchns.store.prune import Pruning

_CACHE_KIB = 16384
_WAL_BYTES = 32 << 20  # what the log keeps of its size after it was emptied


class Store:
    """Every method but `job_ids` blocks: call it in a thread; any thread will do.

    Raises StoreError where the disk cannot do it.
    """

    def __init__(self, path: Path, lock: files.Lock, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        """Use `open`."""
        self.path = path
        self._lock_file = lock
        self._writer, self._reader = writer, reader
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._numbering = threading.Lock()
        self._pruning = Pruning()
        self._next_number: int
        self._next_job_id: int
        self._last: float
        row = writer.execute("SELECT next_number, next_job_id, last FROM state").fetchone()
        if row is None:
            raise Unreadable("it says nothing of its state")
        self._next_number, self._next_job_id, self._last = row

    @classmethod
    def open(cls, path: Path) -> Self:
        """The store at `path`, made where there is none, brought to this version where it is of an earlier one.

        Raises:
            HostError: another daemon has it, it is of a newer version, damaged, or cannot be read or written.
        """
        path = Path(path).absolute()
        files.prepare(path)
        lock = files.Lock(path.with_name(path.name + ".lock"))
        connections: list[sqlite3.Connection] = []
        try:
            with files.told(path):
                connections.append(files.connect(path, write=True))
                _make_ready(path, connections[0])
                connections.append(files.connect(path))
                return cls(path, lock, *connections)
        except BaseException:
            for connection in connections[::-1]:
                connection.close()
            lock.close()
            raise

    def close(self) -> None:
        """Everything is in the one file then."""
        with self._writing, self._reading:
            self._reader.close()
            self._writer.close()
            self._lock_file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What is written.

    def commit(self, batch: Batch) -> int:
        """Make the batch durable: it is on disk when this returns. Returns the number of the last entry of all.

        Submissions come before entries, in the order that they have in the batch.

        Raises:
            StoreError: nothing of it is kept.
        """
        with self._writing:
            work = _Work(batch, self._next_number, self._last)
            if not work.statements:
                return self._next_number - 1
            with self._numbering:
                next_job_id = max(self._next_job_id, work.largest_array + 1)
            work.statements.append(
                (
                    "UPDATE state SET next_number = ?, next_job_id = ?, last = ?",
                    [(work.number, next_job_id, work.last)],
                )
            )
            with files.told(self.path):
                self._transact(work.statements)
            self._next_number, self._last = work.number, work.last
            with self._numbering:  # others may have been given ids meanwhile
                self._next_job_id = max(self._next_job_id, next_job_id)
            return work.number - 1

    def _transact(self, statements: list[tuple[str, list[Any]]]) -> None:
        db = self._writer
        try:
            db.execute("BEGIN IMMEDIATE")
            for text, rows in statements:
                db.executemany(text, rows)
            db.execute("COMMIT")
        except BaseException:
            self._undo()
            raise

    def _undo(self) -> None:
        """Nothing of the transaction is kept, not even where its end was written and only the sync failed: what stands
        in the log behind the last transaction that succeeded is written over, for whoever opens it after a crash.
        """
        db = self._writer
        try:
            if db.in_transaction:
                db.execute("ROLLBACK")
            db.execute("BEGIN IMMEDIATE")
            for step in (1, -1):  # what is as it was is not written
                db.execute("UPDATE state SET next_number = next_number + ?", (step,))
            db.execute("COMMIT")
        except sqlite3.Error:  # the same trouble again; the next commit writes at the same place
            if db.in_transaction:
                db.execute("ROLLBACK")

    def job_ids(self, count: int) -> int:
        """The first of `count` ids that no job has; taken for good as soon as jobs that have them are committed.

        Does not block, not even while a batch is written.
        """
        with self._numbering:
            first: int = self._next_job_id
            if first + count > LARGEST_ARRAY:
                raise StoreError(f"{self.path}: all ids of jobs are used up", "begin with a new store")
            self._next_job_id += count
            return first

    def prune(self, before: float) -> int:
        """Forget jobs that ended before the moment, with their journal: a part of them. No commit waits for more than
        some 50 ms because of it.

        Returns how many; 0: there are none left but tasks of arrays that are not over, and what jobs that are still
        there depend on.
        """
        while True:
            with self._writing, files.told(self.path):
                gone, over = self._pruning.piece(self._writer, before)
            if gone or over:
                return gone

    # What is read.

    def load(self) -> Loaded:
        """What a daemon needs to go on from where the one before it was."""
        with self._reading, files.told(self.path):
            return load(self._reader)

    def job(self, job_id: str) -> Stored | None:
        with self._reading, files.told(self.path):
            return stored(self._reader, job_id)

    def history(self, query: HistoryQuery) -> HistoryPage:
        """Raises UserError where `after` is no cursor."""
        with self._reading, files.told(self.path):
            return history.page(self._reader, query)

    def endings(self, query: HistoryQuery) -> Iterator[Ending]:
        """All endings of the query, page by page of `limit`; others may write and read in between."""
        while True:
            page = self.history(query)
            yield from page.endings
            if not page.next:
                return
            query = evolve(query, after=page.next)

    def recent(self, limit: int) -> list[Ending]:
        """The last endings, at most `limit` of them, the oldest first: what estimates are learnt from."""
        with self._reading, files.told(self.path):
            return history.recent(self._reader, limit)

    # Upkeep.

    def backup(self, target: Path, *, overwrite: bool = False) -> None:
        """A copy of the store at this moment, while it is in use.

        Raises:
            HostError: `target` is there and not to be overwritten, or the disk cannot do it.
        """
        backup(self.path, Path(target), overwrite=overwrite)

    def check(self) -> list[str]:
        """What is wrong with the store, a line each; empty when all is well."""
        with files.told(self.path):
            db = files.connect(self.path)
            try:
                return problems(db)
            finally:
                db.close()


def _make_ready(path: Path, db: sqlite3.Connection) -> None:
    version = schema.version_of(db)
    tables = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if not version and not tables:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute(f"PRAGMA application_id = {schema.APPLICATION}")
    elif db.execute("PRAGMA application_id").fetchone()[0] != schema.APPLICATION:
        raise HostError(f"{path}: another program's database", "choose another state folder, or move the file away")
    if version > schema.VERSION:
        raise HostError(
            f"{path}: version {version}, written by a newer batchns; this one reads up to {schema.VERSION}",
            f"start the newer batchns again, or put the backup from before its first start in its place: ls {path}.*",
        )
    if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise HostError(f"{path}: this file system cannot share memory", "choose a state folder on a local disk")
    db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    db.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    if 0 < version < schema.VERSION:
        backup(path, path.with_name(f"{path.name}.version-{version}"), overwrite=True)
    schema.migrate(db)


class _Work:
    """A batch as statements, each with its rows. `number` and `last`: as they are after it."""

    def __init__(self, batch: Batch, number: int, last: float) -> None:
        self.number, self.last = number, last
        self.largest_array = 0
        self.statements: list[tuple[str, list[Any]]] = []
        self._submissions(batch.submissions)
        self._entries(batch.entries)
        if batch.endings:
            rows = [history.row_of(ending) for ending in batch.endings]
            marks = ", ".join("?" * len(rows[0]))
            self._add(f"INSERT INTO ending ({history.COLUMNS}) VALUES ({marks})", rows)
            self._add("DELETE FROM open WHERE job = ?", [row[:1] for row in rows])
        kept = [(name, dump(value)) for name, value in batch.notes.items() if value is not None]
        self._add("INSERT OR REPLACE INTO note VALUES (?, ?)", kept)
        self._add("DELETE FROM note WHERE name = ?", [(name,) for name, value in batch.notes.items() if value is None])

    def _add(self, text: str, rows: list[Any]) -> None:
        if rows:
            self.statements.append((text, rows))

    def _submissions(self, submissions: tuple[Submission, ...]) -> None:
        heads, jobs, keys = [], [], []
        edges: list[tuple[int, int]] = []
        for submission in submissions:
            parts, rows = encode_jobs(submission.jobs)
            number = self._next(submission.at)
            # As JSON: a folder's name may be no valid Unicode.
            heads.append((number, submission.at, submission.uid, submission.user, dump(submission.anchors), parts))
            for key, *rest in rows:
                jobs.append((key, number, *rest))
                keys.append((key,))
            edges += needed_arrays(submission.jobs)
            self.largest_array = max([self.largest_array, *{int(job.array_id) for job in submission.jobs}])
        self._add("INSERT INTO submission VALUES (?, ?, ?, ?, ?, ?)", heads)
        self._add("INSERT INTO job VALUES (?, ?, ?, ?, ?, ?, ?)", jobs)
        self._add("INSERT INTO open VALUES (?)", keys)
        self._add("INSERT INTO edge VALUES (?, ?)", edges)

    def _entries(self, entries: tuple[Entry, ...]) -> None:
        rows = []
        for entry in entries:
            change = entry.change
            if isinstance(change, Submitted):
                raise TypeError("jobs are submitted with a Submission")
            job: str | None = getattr(change, "job", None)
            kind, text = encode_change(change)
            data = dump(dict(entry.data)) if entry.data else None
            rows.append((self._next(entry.at), entry.at, None if job is None else key_of(job), kind, text, data))
        self._add("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)", rows)

    def _next(self, at: float) -> int:
        number = self.number
        self.number += 1
        self.last = max(self.last, at)
        return number
