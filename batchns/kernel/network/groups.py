"""Device groups: the number that says what a job's link may reach besides. Pure, but for chance.

1. A number says nothing by itself, and is taken by chance: one that a run had which has just been killed may be that
   of jobs that are dying still.
2. Those of jobs that reach each other come from blocks, each of one user: so two rules of the firewall are enough for
   two blocks, however many different grants that user's jobs have.
3. They are far from those that an administrator numbers by hand.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping

from batchns.kernel.network.types import Grant

BLOCK = 1 << 12
_LEAST_JOBS, _LEAST, _END = 1 << 30, 3 << 29, 1 << 31


def block(group: int) -> int:
    """The first number of the block that it belongs to."""
    return group - group % BLOCK


def numbered(
    fresh: Iterable[Grant], own: tuple[tuple[int, Grant], ...], others: Mapping[int, Grant]
) -> tuple[tuple[int, Grant], ...]:
    """`own` with the `fresh` ones, under numbers that none of these and none of the `others` have."""
    made = dict(own)
    for grant in fresh:
        made[_number(grant, made, others)] = grant
    return tuple(made.items())


def _number(grant: Grant, own: Mapping[int, Grant], others: Mapping[int, Grant]) -> int:
    if not grant.jobs:
        return _another(_LEAST, _END, {*own, *others})
    blocks = list(
        dict.fromkeys(block(group) for group, other in own.items() if other.jobs and other.user == grant.user)
    )
    for start in blocks:
        taken = {group for group in own if block(group) == start}
        if len(taken) < BLOCK // 2:  # chance has to find a free one
            return _another(start, start + BLOCK, taken)
    start = block(_another(_LEAST_JOBS, _LEAST, ()))
    while start in {block(group) for group in (*own, *others)}:
        start = block(_another(_LEAST_JOBS, _LEAST, ()))
    return _another(start, start + BLOCK, ())


def _another(least: int, end: int, taken: Iterable[int]) -> int:
    while (number := least + secrets.randbelow(end - least)) in taken:
        pass
    return number


def peers(grants: Mapping[int, Grant]) -> Iterator[tuple[int, int]]:
    """Both directions of every pair of blocks of one user, a block and itself included."""
    members = dict.fromkeys((block(group), grant.user) for group, grant in grants.items() if grant.jobs)
    return ((one, other) for one, user in members for other, same in members if user == same)
