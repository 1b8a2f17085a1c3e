"""Ids of jobs as the numbers that the tables are sorted by: 7 is 7 * 2**20, and its task 3 is that + 4."""

from __future__ import annotations

import re

_TASKS = 1 << 20  # more than an array may have
LARGEST_ARRAY = (1 << 43) - 1  # of which the numbers fit into 64 bits
_ID = re.compile(r"([1-9][0-9]{0,13})(?:_(0|[1-9][0-9]{0,6}))?")


def key_of(job_id: str) -> int:
    """The number of "7" or "7_3".

    Raises:
        ValueError: it is no job's id.
    """
    match = _ID.fullmatch(job_id)
    if match is None:
        raise ValueError(f"{job_id!r} is no job's id")
    array, task = int(match[1]), -1 if match[2] is None else int(match[2])
    if array > LARGEST_ARRAY or task + 1 >= _TASKS:
        raise ValueError(f"{job_id!r} is larger than any job's id")
    return array * _TASKS + task + 1


def id_of(key: int) -> str:
    """The inverse of `key_of`."""
    array, task = divmod(key, _TASKS)
    return f"{array}_{task - 1}" if task else f"{array}"


def array_of(key: int) -> int:
    """The number of the job's array: 7 of "7" and "7_3"."""
    return key // _TASKS


def first_key(array: int) -> int:
    """The smallest number of a job of the array; `first_key(array + 1)` is larger than all of them."""
    return array * _TASKS
