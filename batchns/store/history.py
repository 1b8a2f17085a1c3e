"""Jobs that are over, page by page: the newest end first.

1. A page goes on where the one before it ended, by the moment of the end and the job: what ends meanwhile is newer, and
   moves nothing.
2. Each page is one walk along an index of moments.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from attrs import evolve

from batchns.errors import UserError
from batchns.model.lifecycle import State
from batchns.store.codec import RESULT, Unreadable
from batchns.store.interface import Ending, HistoryPage, HistoryQuery
from batchns.store.keys import id_of, key_of

MOST = 10_000  # endings on a page
COLUMNS = "job, ended, uid, user, name, queue, state, submitted, started, cpus, memory, time_limit, result"
_CURSOR = re.compile(r"([0-9.e+-]{1,32}):([0-9]{1,19})")


def row_of(ending: Ending) -> tuple[Any, ...]:
    """A row of COLUMNS."""
    result = ending.result
    return (
        key_of(ending.job_id),
        ending.ended,
        ending.uid,
        ending.user,
        result.name,
        ending.queue,
        result.state.value,
        ending.submitted,
        ending.started,
        ending.cpus,
        ending.memory,
        ending.time_limit,
        RESULT.encode(result),
    )


def ending_of(row: Sequence[Any]) -> Ending:
    """Raises Unreadable."""
    key, ended, uid, user, name, queue, state, submitted, started, cpus, memory, time_limit, result = row
    job_id = id_of(key)
    try:
        reached = State(state)
    except ValueError:
        raise Unreadable(f"job {job_id}: a state {state!r} is not known") from None
    return Ending(
        job_id=job_id,
        result=RESULT.decode(result, job_id=job_id, name=name, state=reached),
        uid=uid,
        user=user,
        queue=queue,
        submitted=submitted,
        started=started,
        ended=ended,
        cpus=cpus,
        memory=memory,
        time_limit=time_limit,
    )


def page(db: sqlite3.Connection, query: HistoryQuery) -> HistoryPage:
    """Raises UserError where `after` is no cursor."""
    limit = max(1, min(query.limit, MOST))
    walks = [_select(one) for one in _walks(query)]
    rows = [row for text, values in walks for row in db.execute(text, (*values, limit + 1))]
    if len(walks) > 1:
        rows.sort(key=lambda row: (row[1], row[0]), reverse=True)
    shown = rows[:limit]
    return HistoryPage(
        endings=tuple(map(ending_of, shown)), next=f"{shown[-1][1]!r}:{shown[-1][0]}" if len(rows) > limit else ""
    )


def _walks(query: HistoryQuery) -> list[HistoryQuery]:
    """The query as queries that are each one walk along an index."""
    if query.names:
        return [evolve(query, names=(name,)) for name in dict.fromkeys(query.names)]
    if query.states and query.uid is None:
        return [evolve(query, states=(state,)) for state in dict.fromkeys(query.states)]
    return [query]


def _select(query: HistoryQuery) -> tuple[str, list[Any]]:
    if query.names:
        index = "ending_name"
    elif query.uid is not None:
        index = "ending_uid"
    else:
        index = "ending_state" if query.states else "ending_queue" if query.queue is not None else "ending_ended"
    conditions: list[str] = []
    values: list[Any] = []
    for condition, value in (
        ("name = ?", query.names[0] if query.names else None),
        ("uid = ?", query.uid),
        ("ended >= ?", query.since),
        ("ended < ?", query.until),
        ("queue = ?", query.queue),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    if query.states:
        marks = ", ".join("?" * len(query.states))
        conditions.append(f"state IN ({marks})" if len(query.states) > 1 else "state = ?")
        values += [state.value for state in query.states]
    if query.after:
        conditions.append("(ended, job) < (?, ?)")
        values += _cursor(query.after)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {COLUMNS} FROM ending INDEXED BY {index}{where} ORDER BY ended DESC, job DESC LIMIT ?", values


def _cursor(text: str) -> tuple[float, int]:
    match = _CURSOR.fullmatch(text)
    with suppress(ValueError):  # float's
        if match is not None and int(match[2]) < 1 << 63:
            return float(match[1]), int(match[2])
    raise UserError("after: this is no place in the history", "leave it away to begin with the newest")


def recent(db: sqlite3.Connection, limit: int) -> list[Ending]:
    """The last `limit` endings, the oldest first."""
    rows = db.execute(f"SELECT {COLUMNS} FROM ending ORDER BY ended DESC, job DESC LIMIT ?", (max(0, limit),))
    return [ending_of(row) for row in rows][::-1]
