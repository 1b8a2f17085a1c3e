"""Forgetting jobs that have been over for long, a piece at a time.

The pages that become free are used again; beyond some of them, they are given back to the file system
(`auto_vacuum = INCREMENTAL`), a piece at a time too, so that a burst of jobs does not leave a large file for ever.
"""

from __future__ import annotations

import sqlite3
import time
from math import inf

from batchns.store.keys import array_of, first_key

_SECONDS = 0.02  # of looking for what can go; its commit comes on top
_PIECE = 64  # jobs between two looks at the clock
_MOST = 1000  # jobs in one transaction
_SPARE_PAGES = 1024  # free ones that are kept for what comes
_PAGES = 32  # given back between two looks at the clock

# The next ones by their ends. Kept: an array that another one depends on, as long as that one is there, over or not;
# and one that is not over as a whole.
_NEXT = """
    SELECT ending.job, ending.ended, job.submission,
        EXISTS (SELECT 1 FROM edge WHERE edge.needs = ending.job >> 20) OR EXISTS (
            SELECT 1 FROM open WHERE open.job >= ending.job >> 20 << 20 AND open.job < (ending.job >> 20) + 1 << 20
        )
    FROM ending INDEXED BY ending_ended JOIN job ON job.key = ending.job
    WHERE ending.ended < ? AND (ending.ended, ending.job) > (?, ?) ORDER BY ending.ended, ending.job LIMIT ?
"""
_START = (-inf, 0)
_SWITCHED = """
    DELETE FROM entry WHERE number IN (
        SELECT number FROM entry WHERE job IS NULL AND at < ? EXCEPT
        SELECT max(number) FROM entry WHERE job IS NULL GROUP BY kind LIMIT ?
    )
"""


class Pruning:
    """Remembers how far it has looked: those that are kept are passed once a round, and not with every piece."""

    def __init__(self) -> None:
        self._after = _START

    def piece(self, db: sqlite3.Connection, before: float) -> tuple[int, bool]:
        """Remove jobs that ended before the moment, the oldest first. Returns how many, and whether a round is over."""
        end = time.monotonic() + _SECONDS
        gone, place, over = 0, self._after, False
        db.execute("BEGIN IMMEDIATE")
        try:
            while gone < _MOST and not over and time.monotonic() < end:
                rows = db.execute(_NEXT, (before, *place, _PIECE)).fetchall()
                old = [(key, submission) for key, _, submission, kept in rows if not kept]
                _remove(db, old)
                gone += len(old)
                over = len(rows) < _PIECE
                place = _START if over else (rows[-1][1], rows[-1][0])
            if over:
                db.execute(_SWITCHED, (before, _PIECE))
                _give_back(db, end)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        self._after = place
        return gone, over


def _remove(db: sqlite3.Connection, rows: list[tuple[int, int]]) -> None:
    keys = [(key,) for key, _ in rows]
    db.executemany("DELETE FROM entry WHERE job = ?", keys)
    db.executemany("DELETE FROM ending WHERE job = ?", keys)
    db.executemany("DELETE FROM job WHERE key = ?", keys)
    db.executemany(
        "DELETE FROM submission WHERE number = ?1 AND NOT EXISTS (SELECT 1 FROM job WHERE submission = ?1)",
        [(number,) for number in {number for _, number in rows}],
    )
    db.executemany(
        "DELETE FROM edge WHERE array = ? AND NOT EXISTS (SELECT 1 FROM job WHERE key >= ? AND key < ?)",
        [(array, first_key(array), first_key(array + 1)) for array in {array_of(key) for key, _ in rows}],
    )


def _give_back(db: sqlite3.Connection, end: float) -> None:
    """Free pages, from the end of the file, as long as there are many."""
    while time.monotonic() < end:
        if db.execute("PRAGMA freelist_count").fetchone()[0] <= _SPARE_PAGES:
            return
        db.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
