"""What is told of jobs: lines for lists, and events for those who watch.

1. A change is told when the turn that made it has been recorded, not before.
2. Nobody who watches is waited for: events are kept for a while, and who is later than that looks anew.
3. Jobs that ended are known for a while after they have left the schedule; then history knows them.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

import trio
from attrs import define, field, frozen

from batchns.core.job import Job
from batchns.daemon import rows
from batchns.daemon.owners import Owners
from batchns.daemon.places import Places
from batchns.daemon.service import StateEvent
from batchns.model.lifecycle import State
from batchns.supervise.books import Books, why

KEPT_EVENTS = 10_000
KEPT_ENDED = 2_000


@frozen
class Ended:
    """A job that has left the schedule."""

    job_id: str
    array_id: str
    name: str
    uid: int
    user: str
    queue: str
    state: State
    row: bytes


@frozen
class _Told:
    event: StateEvent
    uid: int
    job_id: str
    array_id: str
    name: str


@define(eq=False)
class Hub:
    """Hears what the loop's books tell. `watched`: told of each job that a turn has changed, once it is recorded.

    `number`: of the last event; where daemons of one machine begin with the time, no number means two events.
    """

    owners: Owners
    number: int = 0
    watched: Callable[[Job, bytes], None] | None = None
    places: Places = field(factory=Places)  # of all that are known here, in the schedule or ended
    books: Books = field(init=False)
    ended: OrderedDict[str, Ended] = field(init=False, factory=OrderedDict)
    _heads: dict[str, bytes] = field(init=False, factory=dict)
    _changed: dict[str, None] = field(init=False, factory=dict)
    _events: deque[_Told] = field(init=False, factory=lambda: deque(maxlen=KEPT_EVENTS))
    _news: trio.Event = field(init=False, factory=trio.Event)

    def changed(self, job_id: str) -> None:
        """From the loop: to be told when the turn is over."""
        self._changed[job_id] = None
        self._heads.pop(job_id, None)
        self.places.add(job_id)

    def turn_over(self) -> None:
        """What has changed is told now."""
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        schedule = self.books.schedule
        for job_id in changed:
            if job_id not in schedule:
                continue
            job = schedule[job_id]
            row = self.row(job)
            self.number += 1
            uid = self.owners[job.array_id].uid
            self._events.append(
                _Told(StateEvent(number=self.number, job_id=job_id, row=row), uid, job_id, job.array_id, job.spec.name)
            )
            if self.watched is not None:
                self.watched(job, row)
        news, self._news = self._news, trio.Event()
        news.set()

    def row(self, job: Job, reason: str | None = None) -> bytes:
        """The job's line. `reason`: why it waits, where that is known already."""
        account = self.books.accounts[job.id]
        line = self._heads.get(job.id)
        if line is None:
            line = self._heads[job.id] = rows.head(job, account, self.owners[job.array_id].user)
        if reason is None:
            reason = why(self.books.schedule, job)
            if not reason and job.state is not State.PENDING:
                reason = account.reason or account.asked_to_end
        return rows.with_reason(line, reason)

    def leave(self, job: Job, row: bytes) -> None:
        """The job has left the schedule, as `row` says."""
        owner = self.owners[job.array_id]
        name, queue = job.spec.name, job.spec.queue
        self.ended[job.id] = Ended(job.id, job.array_id, name, owner.uid, job.user, queue, job.state, row)
        self._heads.pop(job.id, None)
        while len(self.ended) > KEPT_ENDED:
            self.places.remove(self.ended.popitem(last=False)[0])

    async def watch(
        self, wanted: Callable[[int, str, str, str], bool], after: int | None
    ) -> AsyncGenerator[StateEvent | None, None]:
        """Events of jobs that are `wanted` (uid, id, array's id, name), see `Service.events`."""
        position = self.number if after is None else after
        if position > self.number or position < self._oldest() - 1:
            position = self.number
            yield None
        while True:
            news = self._news
            if position < self._oldest() - 1:
                position = self.number
                yield None
                continue
            for told in self._since(position):
                position = told.event.number
                if wanted(told.uid, told.job_id, told.array_id, told.name):
                    yield told.event
            if position == self.number:
                await news.wait()

    def _oldest(self) -> int:
        """The number of the oldest event that is still known."""
        return self.number - len(self._events) + 1

    def _since(self, position: int) -> Sequence[_Told]:
        count = self.number - position
        if count <= 0:
            return ()
        return [self._events[index] for index in range(len(self._events) - count, len(self._events))]


def lines(hub: Hub, jobs: Sequence[Job], reasons: dict[str, str]) -> Iterator[bytes]:
    """The lines of several jobs. `reasons`: of those that wait."""
    for job in jobs:
        yield hub.row(job, reasons.get(job.id))
