"""Reading back what a daemon goes on from, and what is known of one job."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from heapq import merge
from typing import Any

from batchns.store import history
from batchns.store.codec import Unreadable, decode_change
from batchns.store.codec import load as load_json
from batchns.store.interface import Entry, Loaded, Stored, Submission
from batchns.store.jobs import Reader
from batchns.store.keys import id_of, key_of

# Arrays with a job that is not over, and arrays that those depend on; of both, all jobs: whoever comes to depend on an
# array has to see all of it.
_WANTED = """
    WITH waiting (array) AS (
        SELECT DISTINCT job >> 20 FROM open
    ), kept (array) AS (
        SELECT array FROM waiting UNION SELECT edge.needs FROM waiting JOIN edge USING (array)
    ), wanted (job) AS (
        SELECT job.key FROM kept JOIN job ON job.key >= kept.array << 20 AND job.key < (kept.array + 1) << 20
    )
"""
_SUBMISSION = "submission.number, submission.at, submission.uid, submission.user, submission.anchors, submission.parts"
_JOB = "job.key, job.spec, job.demand, job.bounds, job.rest, job.last"
_ENTRY = "entry.number, entry.at, entry.job, entry.kind, entry.change, entry.data"
_SWITCHES = ("Closed", "Opened")  # of the whole node: the last of either holds

_Numbered = tuple[int, Submission | Entry]


def load(db: sqlite3.Connection) -> Loaded:
    """Raises Unreadable."""
    db.execute("BEGIN")  # one moment for all that is read
    try:
        entries = merge(_entries(db), _of_node(db), key=_number)
        log = tuple(item for _, item in merge(_submissions(db), entries, key=_number))
        notes = {name: load_json(text) for name, text in db.execute("SELECT name, value FROM note")}
        last: float = db.execute("SELECT last FROM state").fetchone()[0]
        return Loaded(log=log, notes=notes, last=last)
    finally:
        db.execute("COMMIT")


def _number(item: _Numbered) -> int:
    return item[0]


def _submissions(db: sqlite3.Connection) -> Iterator[_Numbered]:
    reader = Reader()
    rows = db.execute(
        f"{_WANTED} SELECT {_JOB}, job.submission FROM wanted JOIN job ON job.key = wanted.job"
        " ORDER BY job.submission, job.key"
    ).fetchall()
    heads = {row[-1] for row in rows}
    found = iter(rows)
    row = next(found, None)
    for number in sorted(heads):
        head = db.execute(f"SELECT {_SUBMISSION} FROM submission WHERE number = ?", (number,)).fetchone()
        mine = []
        while row is not None and row[-1] == number:
            mine.append(row[:-1])
            row = next(found, None)
        if head is None:
            raise Unreadable(f"job {id_of(mine[0][0])}: its submission lacks")
        yield number, _submission(reader, head, mine)


def _submission(reader: Reader, head: tuple[Any, ...], rows: list[Any]) -> Submission:
    _, at, uid, user, anchors, text = head
    parts = text.split("\n")
    jobs = []
    for row in rows:
        try:
            jobs.append(reader.job(parts, row))
        except Unreadable as error:
            raise Unreadable(f"job {id_of(row[0])}: {error}") from None
    return Submission(at=at, jobs=tuple(jobs), uid=uid, user=user, anchors=load_json(anchors))


def _entries(db: sqlite3.Connection) -> Iterator[_Numbered]:
    text = f"{_WANTED} SELECT {_ENTRY} FROM wanted JOIN entry ON entry.job = wanted.job ORDER BY entry.number"
    for row in db.execute(text):
        yield row[0], _entry(row)


def _of_node(db: sqlite3.Connection) -> Iterator[_Numbered]:
    """The last entry of each kind that is about no job."""
    rows = db.execute(f"SELECT {_ENTRY}, max(number) FROM entry WHERE job IS NULL GROUP BY kind").fetchall()
    switch = max((row[0] for row in rows if row[3] in _SWITCHES), default=0)
    kept = [row[:-1] for row in rows if row[3] not in _SWITCHES or row[0] == switch]
    return iter([(row[0], _entry(row)) for row in sorted(kept)])


def _entry(row: tuple[Any, ...]) -> Entry:
    number, at, key, kind, text, data = row
    job_id = None if key is None else id_of(key)
    try:
        change = decode_change(kind, job_id, text)
        return Entry(at=at, change=change, data={} if data is None else load_json(data))
    except Unreadable as error:
        raise Unreadable(f"entry {number}{f' of job {job_id}' if job_id else ''}: {error}") from None


def stored(db: sqlite3.Connection, job_id: str) -> Stored | None:
    """What is known of the job; None: there is none. Raises Unreadable."""
    try:
        key = key_of(job_id)
    except ValueError:
        return None
    db.execute("BEGIN")
    try:
        row = db.execute(
            f"SELECT {_JOB}, {_SUBMISSION} FROM job JOIN submission ON submission.number = job.submission"
            " WHERE job.key = ?",
            (key,),
        ).fetchone()
        if row is None:
            return None
        entries = db.execute(f"SELECT {_ENTRY} FROM entry WHERE job = ? ORDER BY number", (key,)).fetchall()
        ending = db.execute(f"SELECT {history.COLUMNS} FROM ending WHERE job = ?", (key,)).fetchone()
    finally:
        db.execute("COMMIT")
    return Stored(
        submission=_submission(Reader(), row[6:], [row[:6]]),
        entries=tuple(map(_entry, entries)),
        ending=None if ending is None else history.ending_of(ending),
    )
