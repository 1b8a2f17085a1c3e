"""From what a person types to jobs: selectors, and the one job that a name means."""

from __future__ import annotations

import re
from collections.abc import Sequence

from batchns.cli.plain import joined
from batchns.cli.rows import no_such_jobs, unmatched
from batchns.errors import UserError
from batchns.units import quote
from batchns.wire.engine import Engine, Refusal
from batchns.wire.types import JobDetail, JobRow

_ID = re.compile(r"[0-9]{1,18}(?:_[0-9]{1,9})?")
_NAMED = 5  # ids in a message


def find(client: Engine, selectors: Sequence[str]) -> list[JobRow]:
    """The jobs that are meant, over or not; those that ended long ago by their ids only.

    Raises:
        UserError: a selector means none.
    """
    rows = list(client.jobs(selectors, ended=True))
    missing = unmatched(rows, selectors)
    for selector in missing:
        if not _ID.fullmatch(selector):
            continue
        try:
            rows.append(client.job(selector).row)
        except Refusal as error:
            if error.code != "not_found":
                raise
    if missing and (wrong := unmatched(rows, missing)):
        raise no_such_jobs(wrong)
    return rows


def one_id(client: Engine, selector: str) -> str:
    """The id of the one job or array that `selector` means: an id is taken as it is.

    Raises:
        UserError: a name means none, or several.
    """
    if _ID.fullmatch(selector):
        return selector
    rows = find(client, (selector,))
    rows = [row for row in rows if row.ended is None] or rows
    if len(rows) == 1:
        return rows[0].id
    if len({row.array_id for row in rows}) > 1:
        raise several(selector, rows)
    return rows[0].array_id


def several(selector: str, rows: Sequence[JobRow]) -> UserError:
    ids = joined(row.id for row in rows[:_NAMED]) + (", ..." if len(rows) > _NAMED else "")
    return UserError(f"{quote(selector)} means {len(rows)} jobs", f"name one of them: {ids}")


def detail_of(client: Engine, selector: str) -> JobDetail | list[JobRow]:
    """All of one job; of an array its tasks.

    Raises:
        UserError: there is no such job, or there are several.
    """
    job_id = one_id(client, selector)
    try:
        return client.job(job_id)
    except Refusal as error:
        if error.code != "not_found":
            raise
        rows = list(client.jobs((job_id,), ended=True))
        if not rows:
            raise no_such_jobs([selector]) from None
        return rows


def next_of(client: Engine, selector: str) -> str:
    """As `one_id`; of an array the first task that waits, or else the first that there is.

    Raises:
        UserError: as there.
    """
    job_id = one_id(client, selector)
    if "_" in job_id:
        return job_id
    tasks = [row for row in client.jobs((job_id,), ended=True) if row.id != job_id]
    waiting = [row for row in tasks if row.state == "PENDING"]
    return (waiting or tasks)[0].id if tasks else job_id


def task_of(client: Engine, selector: str) -> str:
    """As `one_id`, and no array.

    Raises:
        UserError: also where it is an array of several tasks.
    """
    job_id = one_id(client, selector)
    if "_" not in job_id:
        tasks = [row for row in client.jobs((job_id,), ended=True) if row.id != job_id]
        if tasks:
            raise several(selector, tasks)
    return job_id
