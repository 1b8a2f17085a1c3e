"""Whose jobs they are: by the number that the kernel told at submission, and the user database of now."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import trio
from attrs import define, field, frozen

from batchns.core.job import Job
from batchns.model.submitter import Submitter
from batchns.store.interface import Submission
from batchns.supervise import users

_FRESH = 30.0  # seconds for which the user database is believed to say the same


@frozen
class Owner:
    """Of one submission, which `key` names."""

    uid: int
    user: str
    key: str


@define(eq=False)
class Owners:
    """By array id: tasks of one array have one owner. `clock`: seconds."""

    clock: Callable[[], float] = time.monotonic
    _owners: dict[str, Owner] = field(init=False, factory=dict)
    _jobs: Counter[int] = field(init=False, factory=Counter)  # by uid
    _edges: dict[str, int] = field(init=False, factory=dict)  # dependencies of its jobs, by array id
    _waits: Counter[int] = field(init=False, factory=Counter)  # the same, by uid
    _arrays: Counter[str] = field(init=False, factory=Counter)  # by submission
    _known: dict[int, tuple[float, Submitter]] = field(init=False, factory=dict)

    def add(self, submission: Submission) -> None:
        key = submission.jobs[0].array_id
        owner = Owner(submission.uid, submission.user, key)
        for array_id in {job.array_id for job in submission.jobs}:
            self._owners[array_id] = owner
            self._arrays[key] += 1
        self._jobs[submission.uid] += len(submission.jobs)
        for job in submission.jobs:
            if job.edges:
                self._edges[job.array_id] = self._edges.get(job.array_id, 0) + len(job.edges)
                self._waits[submission.uid] += len(job.edges)

    def __getitem__(self, array_id: str) -> Owner:
        return self._owners[array_id]

    def count(self, uid: int) -> int:
        """How many jobs of the user are known."""
        return self._jobs[uid]

    def waits(self, uid: int) -> int:
        """How many dependencies those have in all."""
        return self._waits[uid]

    def forget(self, array_id: str, jobs: int) -> bool:
        """None of its jobs is known any more: so many. Returns whether that was the last array of its submission."""
        owner = self._owners.pop(array_id)
        self._waits[owner.uid] -= self._edges.pop(array_id, 0)
        if not self._waits[owner.uid]:
            del self._waits[owner.uid]
        self._jobs[owner.uid] -= jobs
        if not self._jobs[owner.uid]:
            del self._jobs[owner.uid]
        self._arrays[owner.key] -= 1
        if self._arrays[owner.key]:
            return False
        del self._arrays[owner.key]
        return True

    def key(self, job: Job) -> str:
        """The name of the job's submission: the id of its first job."""
        return self._owners[job.array_id].key

    def submitter(self, job: Job) -> Submitter:
        """The job's owner with the groups that the user database gives now, or gave half a minute ago.

        Raises:
            UserError: there is no such user any more.
        """
        uid = self._owners[job.array_id].uid
        return self.user(uid)

    def user(self, uid: int) -> Submitter:
        """The user of that number.

        Raises:
            UserError: there is none.
        """
        known, now = self._known.get(uid), self.clock()
        if known is None or now - known[0] > _FRESH:
            known = self._known[uid] = (now, users.numbered(uid))
        return known[1]

    async def look_up(self, uid: int) -> Submitter:
        """As `user`, for a question that may come from anybody at any time: nobody else waits for a slow database."""
        known = self._known.get(uid)
        if known is not None and self.clock() - known[0] <= _FRESH:
            return known[1]
        return await trio.to_thread.run_sync(self.user, uid)

    def refresh(self) -> None:
        """The user database may have changed."""
        self._known.clear()
