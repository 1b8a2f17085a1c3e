"""What a selector means: "7", "7_3", "7_1-5,9", "12-15" or a name."""

from __future__ import annotations

import re

from batchns.wire.types import JobRow

_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")
_TASKS = re.compile(r"([0-9]{1,18})_\[?([0-9,-]{1,200})\]?")
_SPAN = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


def matches(row: JobRow, selector: str) -> bool:
    """Does `selector` mean this job?"""
    job_id, array = row.id, row.array_id
    if selector in (job_id, array, row.name):
        return True
    if tasks := _TASKS.fullmatch(selector):
        return array == tasks[1] and row.index is not None and _within_spans(row.index, tasks[2])
    if span := _RANGE.fullmatch(selector):
        return array.isdecimal() and int(span[1]) <= int(array) <= int(span[2])
    return False


def _within_spans(index: int, text: str) -> bool:
    spans = map(_SPAN.fullmatch, text.split(","))
    return any(span and int(span[1]) <= index <= int(span[2] or span[1]) for span in spans)
