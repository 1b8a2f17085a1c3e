"""A schedule that lives a random life, kept in a store as the daemon does it: what is loaded leads to the same one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from batchns.core.changes import Closed, Opened, Submitted, apply_change
from batchns.core.node import NodeCapacity
from batchns.core.schedule import Schedule
from batchns.model.result import JobResult
from batchns.store.interface import Batch, Ending, Entry, Submission
from batchns.store.store import Store

from ..core import recorded, same

NODE = NodeCapacity(cpus=tuple(range(6)), memory=12 << 30, jobs=7)


class Keeper:
    """Commits what has happened since the last time, and jobs that are over, as one batch for each submission."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.place = 0
        self.open: dict[str, tuple[str, float]] = {}

    def keep(self, life: recorded.Life) -> None:
        entries: list[Entry] = []
        for at, change in life.log[self.place :]:
            if isinstance(change, Submitted):
                self.store.commit(Batch(entries=tuple(entries)))
                entries = []
                user = change.jobs[0].user if change.jobs else ""
                self.store.commit(Batch(submissions=(Submission(at=at, jobs=change.jobs, uid=1, user=user),)))
                self.open |= {job.id: (job.spec.name, at) for job in change.jobs}
            else:
                entries.append(Entry(at=at, change=change))
        self.place = len(life.log)
        over = [job_id for job_id in self.open if job_id not in life.schedule or life.schedule.over(job_id)]
        self.store.commit(Batch(entries=tuple(entries), endings=tuple(self._ending(life, job_id) for job_id in over)))

    def _ending(self, life: recorded.Life, job_id: str) -> Ending:
        name, at = self.open.pop(job_id)
        state = life.schedule[job_id].state
        result = JobResult(job_id=job_id, name=name, state=state)
        return Ending(
            job_id=job_id, result=result, uid=1, user="", queue="", submitted=at, started=None, ended=life.now, cpus=1.0
        )


@pytest.mark.parametrize("seed", range(6))
def test_what_is_loaded_leads_to_the_same_schedule(tmp_path: Path, seed: int) -> None:
    """At many moments, across restarts of the store and with old jobs pruned."""
    chance = random.Random(seed)
    life = recorded.Life(Schedule(NODE, recorded.LIVELY), chance)
    keeper = Keeper(Store.open(tmp_path / "state" / "batchns.db"))
    for step in range(250):
        if chance.random() < 0.12:
            life.submit(recorded.crowd(chance))
        life.decide()
        if step % 10 == 9:
            life.happen()
        keeper.keep(life)  # before anything is forgotten
        life.happen()
        keeper.keep(life)
        if step % 25 == 24:
            keeper.store.close()
            keeper.store = Store.open(keeper.store.path)
            check(life, keeper.store)
            for job in list(life.schedule):  # what is over leaves memory before it leaves the disk
                life.schedule.forget(job.id)
            keeper.store.prune(life.now - 60.0)
            check(life, keeper.store)
    assert keeper.store.check() == []
    assert keeper.store.recent(1000)
    keeper.store.close()


def check(life: recorded.Life, store: Store) -> None:
    loaded = [
        (item.at, Submitted(item.jobs) if isinstance(item, Submission) else item.change) for item in store.load().log
    ]
    outdated = {id(change) for _, change in [one for one in life.log if isinstance(one[1], Closed | Opened)][:-1]}
    expected = [(at, change) for at, change in life.stored() if id(change) not in outdated]
    assert loaded == expected
    again = Schedule(NODE, recorded.LIVELY)
    again.shares.restore(life.exported)
    for at, change in loaded:
        apply_change(again, change, at)
    found = [text for text in same.differences(life.schedule, again) if not text.startswith("claims")]
    assert not found
