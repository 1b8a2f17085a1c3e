"""The tables, and how those of earlier versions become those of this one.

    state       one row: the numbers that come next, the moment of the last entry
    submission  jobs that came together: whose, when, and the parts that they consist of (jobs.py)
    job         one row per job: which parts are its own
    open        the jobs that are not over
    edge        an array, and an array that it depends on
    entry       the journal: one row per change, in the order of the numbers (which submissions have a share in)
    ending      the jobs that are over
    note        named values

1. A migration is one function of the table below, done in one transaction with the number of the version.
2. A published function is never changed: a new one follows it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

APPLICATION = 0x62746E73  # "btns": which program's file it is, sqlite.org/pragma.html#pragma_application_id


def _first(db: sqlite3.Connection) -> None:
    for statement in (
        "CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), next_number INTEGER NOT NULL,"
        " next_job_id INTEGER NOT NULL, last REAL NOT NULL)",
        "INSERT INTO state VALUES (1, 1, 1, 0.0)",
        "CREATE TABLE submission (number INTEGER PRIMARY KEY, at REAL NOT NULL, uid INTEGER NOT NULL,"
        " user TEXT NOT NULL, anchors TEXT NOT NULL, parts TEXT NOT NULL)",
        "CREATE TABLE job (key INTEGER PRIMARY KEY, submission INTEGER NOT NULL REFERENCES submission (number),"
        " spec INTEGER NOT NULL, demand INTEGER NOT NULL, bounds INTEGER NOT NULL, rest INTEGER NOT NULL,"
        " last INTEGER NOT NULL)",
        "CREATE INDEX job_submission ON job (submission)",
        "CREATE TABLE open (job INTEGER PRIMARY KEY REFERENCES job (key))",
        "CREATE TABLE edge (array INTEGER NOT NULL, needs INTEGER NOT NULL, PRIMARY KEY (array, needs)) WITHOUT ROWID",
        "CREATE INDEX edge_needs ON edge (needs)",
        "CREATE TABLE entry (number INTEGER PRIMARY KEY, at REAL NOT NULL, job INTEGER REFERENCES job (key),"
        " kind TEXT NOT NULL, change TEXT, data TEXT)",
        "CREATE INDEX entry_job ON entry (job)",
        "CREATE TABLE ending (job INTEGER PRIMARY KEY REFERENCES job (key), ended REAL NOT NULL, uid INTEGER NOT NULL,"
        " user TEXT NOT NULL, name TEXT NOT NULL, queue TEXT NOT NULL, state TEXT NOT NULL, submitted REAL NOT NULL,"
        " started REAL, cpus REAL NOT NULL, memory INTEGER, time_limit REAL, result TEXT NOT NULL)",
        "CREATE INDEX ending_ended ON ending (ended)",
        "CREATE INDEX ending_uid ON ending (uid, ended)",
        "CREATE INDEX ending_name ON ending (name, ended)",
        "CREATE INDEX ending_state ON ending (state, ended)",
        "CREATE INDEX ending_queue ON ending (queue, ended)",
        "CREATE TABLE note (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    ):
        db.execute(statement)


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_first,)  # number n leads to version n + 1
VERSION = len(MIGRATIONS)


def version_of(db: sqlite3.Connection) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    return version


def migrate(db: sqlite3.Connection, migrations: tuple[Callable[[sqlite3.Connection], None], ...] = MIGRATIONS) -> None:
    """From the version that the file has to the last one, each step as a whole or not at all."""
    for version in range(version_of(db), len(migrations)):
        db.execute("BEGIN IMMEDIATE")
        try:
            migrations[version](db)
            db.execute(f"PRAGMA user_version = {version + 1}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
