"""What jobs took, on its way to the history: written behind the loop's back, so that a slow disk holds nobody up.

A record that cannot be written is lost, and said once: history is for estimates and for replay, nothing depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import trio
from attrs import define, field

from batchns.core.estimates import Estimates, tells
from batchns.core.job import Job
from batchns.errors import HostError
from batchns.model.result import Usage
from batchns.model.submitter import Submitter
from batchns.supervise.account import Account
from batchns.supervise.events import Mailbox
from batchns.supervise.history import Record
from batchns.supervise.ports import Blocking

RECENT = 2000  # records that estimates are made of
LAST_SECONDS = 5.0  # at the end of a run, for what is not written yet


class Keeper(Protocol):
    """`supervise.history.History`, whose documentation holds here."""

    def append(self, *records: Record) -> None: ...

    def recent(self, limit: int) -> list[Record]: ...


@define(kw_only=True, eq=False)
class Chronicle:
    """`keeper` None: nothing is kept. `wall`: seconds since the epoch; `tell`: for the user."""

    keeper: Keeper | None
    blocking: Blocking
    submitter: Submitter
    wall: Callable[[], float]
    tell: Callable[[str], None] = print
    _waiting: Mailbox[Record | None] = field(init=False, factory=Mailbox)
    _written: trio.Event = field(init=False, factory=trio.Event)

    async def estimates(self) -> Estimates:
        """What is known of how long jobs take; nothing where the history cannot be read."""
        known = Estimates()
        if self.keeper is not None:
            try:
                records = await self.blocking(partial(self.keeper.recent, RECENT))
            except HostError:
                records = []
            for record in records:
                if tells(record.state):
                    known.learn(record.user, record.name, record.running_seconds, record.time_limit)
        return known

    def ended(self, job: Job, account: Account) -> None:
        """An attempt is over. One that never ran is not kept."""
        if self.keeper is None or job.run_base is None or account.usage == Usage():
            return
        now = self.wall()
        running, frozen = job.ledger.running - job.run_base, job.ledger.frozen
        self._waiting.post(
            Record(
                job_id=job.id,
                name=job.spec.name,
                uid=self.submitter.uid,
                user=self.submitter.name,
                queue=job.spec.queue,
                submitted=now - sum(job.ledger[1:]),
                started=now - running - frozen,
                ended=now,
                running_seconds=running,
                frozen_seconds=frozen,
                cpus=job.demand.cpus,
                memory=job.demand.memory,
                memory_peak=account.usage.memory_peak_bytes,
                time_limit=job.bounds.time_limit,
                state=job.state,
                exit_code=account.exit_code,
            )
        )

    def concluded(self, job: Job, account: Account) -> None:
        """Nothing: each attempt has been kept."""

    async def write(self) -> None:
        """Write what is posted, until `close`."""
        keeper, open_ = self.keeper, True
        while open_:
            records = [await self._waiting.get()]
            while self._waiting:  # what has come meanwhile goes with it: many short jobs cost few writes
                records.append(self._waiting.get_nowait())
            open_ = None not in records
            ended = [record for record in records if record is not None]
            if keeper is not None and ended:
                try:
                    await self.blocking(partial(keeper.append, *ended))
                except HostError as error:
                    keeper = None
                    self.tell(f"the history is not kept: {error}")
        self._written.set()

    async def close(self) -> None:
        """No more comes: what is not written yet has its time to be."""
        self._waiting.post(None)
        with trio.move_on_after(LAST_SECONDS):
            await self._written.wait()
