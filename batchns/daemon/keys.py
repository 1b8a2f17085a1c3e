"""Submissions by the keys that clients gave them: one that is sent again is not submitted again.

A key is durable with its jobs, in one batch, and is known for a day: to its user alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio
from attrs import define, field, frozen

from batchns.store.interface import Json
from batchns.wire import codec
from batchns.wire import types as wire

KEPT = 86400.0  # seconds
_PREFIX = "key "
LONGEST = 128  # letters of a key
MOST = 10_000  # keys of one user
MOST_JOBS = 100_000  # jobs that the answers to those name


@frozen
class _Known:
    """`answer`: as JSON, which takes a fifth of the memory; `jobs`: how many it names."""

    at: float
    answer: bytes
    jobs: int


@define(eq=False)
class Keys:
    _answers: dict[int, dict[str, _Known]] = field(init=False, factory=dict)  # by uid and name, the oldest first
    _jobs: Counter[int] = field(init=False, factory=Counter)  # that those answers name
    _dropped: dict[str, None] = field(init=False, factory=dict)  # names of notes that stand for nothing any more
    _under_way: dict[str, trio.Lock] = field(init=False, factory=dict)

    @asynccontextmanager
    async def turn(self, uid: int, key: str) -> AsyncIterator[None]:
        """One submission of a key at a time: the second finds what became of the first."""
        if not key:
            yield
            return
        name = _name(uid, key)
        lock = self._under_way.setdefault(name, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._under_way.pop(name, None)

    def answer(self, uid: int, key: str) -> wire.Submitted | None:
        """What was answered to the user's submission of that key."""
        found = self._answers.get(uid, {}).get(_name(uid, key)) if key else None
        return codec.decode(wire.Submitted, found.answer) if found else None

    def note(self, uid: int, key: str, answer: wire.Submitted, now: float) -> Mapping[str, Json]:
        """What is to be recorded with the jobs."""
        if not key:
            return {}
        jobs = [[job.id, job.name, job.tasks] for job in answer.jobs]
        return {_name(uid, key): {"at": now, "jobs": jobs}}

    def used(self, uid: int, key: str, answer: wire.Submitted, now: float) -> None:
        """It has been recorded. Where a user has very many, the oldest are forgotten before their day is over."""
        if not key:
            return
        name, mine = _name(uid, key), self._answers.setdefault(uid, {})
        self._dropped.pop(name, None)
        mine[name] = _Known(now, codec.encode(answer), len(answer.jobs))
        self._jobs[uid] += len(answer.jobs)
        while len(mine) > MOST or (self._jobs[uid] > MOST_JOBS and len(mine) > 1):
            self._drop(uid, next(iter(mine)))

    def recall(self, notes: Mapping[str, Json]) -> None:
        """After a restart."""
        found = [(value["at"], name, value["jobs"]) for name, value in notes.items() if name.startswith(_PREFIX)]
        for at, name, jobs in sorted(found):
            uid, _, key = name.removeprefix(_PREFIX).partition(" ")
            submitted = (wire.SubmittedJob(id=id_, name=job, tasks=tasks) for id_, job, tasks in jobs)
            self.used(int(uid), key, wire.Submitted(jobs=tuple(submitted)), at)

    def expired(self, now: float) -> list[str]:
        """Names of notes that are not needed any more; they are forgotten here, too."""
        old = [(uid, name) for uid, mine in self._answers.items() for name, one in mine.items() if one.at < now - KEPT]
        for uid, name in old:
            self._drop(uid, name)
        dropped, self._dropped = self._dropped, {}
        return list(dropped)

    def _drop(self, uid: int, name: str) -> None:
        mine = self._answers[uid]
        self._jobs[uid] -= mine.pop(name).jobs
        self._dropped[name] = None
        if not mine:
            del self._answers[uid], self._jobs[uid]


def _name(uid: int, key: str) -> str:
    return f"{_PREFIX}{uid} {key}"
