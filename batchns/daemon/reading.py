"""What users may know: lists, one job in full, why it waits, history, and the node.

1. Nothing here changes anything. What takes long (looking ahead, history) is done in a thread, on a copy.
2. Who may see what is decided in one place, `Sight`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

import trio
from attrs import asdict, define, evolve, field, frozen

from batchns.core.explain import forecast, reasons_of
from batchns.core.job import ACTIVE, Job
from batchns.core.reasons import FULL, Reason, render
from batchns.core.schedule import Schedule
from batchns.daemon import rows, selectors
from batchns.daemon.advice import advice
from batchns.daemon.detail import detail
from batchns.daemon.hub import Ended, Hub
from batchns.daemon.owners import Owners
from batchns.daemon.places import FIRST, Place, place_of
from batchns.daemon.service import HistoryQuery, JobQuery, Peer, Refused, RowsPage
from batchns.errors import UserError
from batchns.model.config import Config, See
from batchns.model.lifecycle import State
from batchns.store import interface as store
from batchns.supervise import users
from batchns.supervise.books import Books
from batchns.wire import types as wire

_OWNERS = ("env", "script")  # of a job's table: its owner's alone
_LOOK = 0.01  # seconds of CPU time for which one question looks ahead
_MOST_ENDINGS = 20_000  # that a summary of use is made of


@frozen
class Sight:
    """Whose jobs the peer sees."""

    peer: Peer
    all: bool  # batchns.toml lets everybody see everybody's

    def sees(self, uid: int) -> bool:
        return self.all or self.peer.admin or uid == self.peer.uid


@define(kw_only=True, eq=False)
class Reading:
    config: Callable[[], Config]
    journal: store.Journal
    books: Books
    hub: Hub
    owners: Owners
    clock: Callable[[], float]
    # One looks ahead at a time: it is all one processor.
    _looking: trio.CapacityLimiter = field(init=False, factory=lambda: trio.CapacityLimiter(1))

    def sight(self, peer: Peer) -> Sight:
        return Sight(peer, self.config().daemon.see is See.ALL)

    # Lists.

    async def jobs(self, peer: Peer, query: JobQuery) -> RowsPage:
        """A page of lines, by id: arrays in the order of their submission, tasks in that of their indices."""
        wanted = selectors.parse(query.select)
        states = frozenset(map(_state, query.states))
        limit = max(1, min(query.limit, wire.MOST_ROWS))
        after = _cursor(query.after)
        sight = self.sight(peer)
        found: list[Job | Ended] = []
        for item in self._known(self.hub.places.between(wanted.spans, after), ended=query.ended):
            if self._meant(item, query, sight, states, wanted):
                found.append(item)
                if len(found) > limit:
                    break
        page = found[:limit]
        schedule = self.books.schedule
        waiting = [item.id for item in page if isinstance(item, Job) and item.state is State.PENDING]
        reasons = _texts(reasons_of(schedule, waiting))
        lines = [self.hub.row(item, reasons.get(item.id)) if isinstance(item, Job) else item.row for item in page]
        last = page[-1] if page else None
        job_id = "" if last is None else last.id if isinstance(last, Job) else last.job_id
        return RowsPage(rows=lines, next=job_id if len(found) > limit else "")

    def _known(self, job_ids: Iterable[str], *, ended: bool) -> Iterator[Job | Ended]:
        """`ended`: those that are over, too."""
        schedule, gone = self.books.schedule, self.hub.ended
        for job_id in job_ids:
            if job_id in schedule:
                job = schedule[job_id]
                if ended or not job.state.final:
                    yield job
            elif ended and job_id in gone:
                yield gone[job_id]

    def _meant(
        self,
        item: Job | Ended,
        query: JobQuery,
        sight: Sight,
        states: Collection[State],
        wanted: selectors.Selection,
    ) -> bool:
        job_id, array_id, name, uid, user, queue, state = _facts(item, self.owners)
        if not sight.sees(uid) or (states and state not in states):
            return False
        if (query.queue and queue != query.queue) or (query.user and user != query.user):
            return False
        return not wanted or wanted.meets(job_id, array_id, name)

    # One job.

    async def job(self, peer: Peer, job_id: str) -> wire.JobDetail:
        """Raises Refused: not_found."""
        stored = await trio.to_thread.run_sync(self.journal.job, job_id)
        if stored is None or not self.sight(peer).sees(stored.submission.uid):
            raise no_such_job(job_id)
        if stored.ending is None and job_id not in self.books.schedule:  # it has ended since, which is recorded
            stored = await trio.to_thread.run_sync(self.journal.job, job_id)
        if stored is None or (stored.ending is None and job_id not in self.books.schedule):
            raise no_such_job(job_id)
        found = self._detail(job_id, stored)
        return found if peer.admin or stored.submission.uid == peer.uid else _of_another(found)

    def _detail(self, job_id: str, stored: store.Stored) -> wire.JobDetail:
        schedule = self.books.schedule
        if job_id in schedule and stored.ending is None:
            job = schedule[job_id]
            return detail(self.hub.row(job), stored, self.books.accounts[job_id], self.books.attempts.get(job_id), job)
        assert stored.ending is not None
        return detail(rows.of_ending(stored.ending), stored, None, None, None)

    async def why(self, peer: Peer, job_id: str) -> wire.Why:
        """Raises Refused: not_found."""
        schedule = self.books.schedule
        if job_id not in schedule:
            row = (await self.job(peer, job_id)).row
            return wire.Why(id=job_id, code="over", text=f"it is over: {row.state}", expected=None)
        job = schedule[job_id]
        if not self.sight(peer).sees(self.owners[job.array_id].uid):
            raise no_such_job(job_id)
        if job.state not in (State.PENDING, State.SUSPENDED):
            return wire.Why(id=job_id, code="running", text=f"it is {job.state.value}")
        look = partial(look_ahead, schedule.copy(), job_id, self.clock())
        return why_of(job_id, await trio.to_thread.run_sync(look, limiter=self._looking))

    # What is over.

    async def history(self, peer: Peer, query: HistoryQuery) -> RowsPage:
        page = await self._endings(peer, query, min(max(query.limit, 1), wire.MOST_ROWS))
        return RowsPage(rows=[rows.of_ending(ending) for ending in page.endings], next=page.next)

    async def usage(self, peer: Peer, query: HistoryQuery) -> wire.UsageAnswer:
        """Asked against used, by user and name, of the latest ends."""
        endings: list[store.Ending] = []
        after = ""
        while len(endings) < _MOST_ENDINGS:
            page = await self._endings(peer, query, wire.MOST_ROWS, after)
            endings += page.endings
            after = page.next
            if not after:
                break
        return wire.UsageAnswer(rows=tuple(usage_rows(endings)), more=bool(after))

    async def _endings(
        self, peer: Peer, query: HistoryQuery, limit: int, after: str | None = None
    ) -> store.HistoryPage:
        asked = store.HistoryQuery(
            uid=await self._uid(peer, query.user),
            since=query.since,
            until=query.until,
            names=query.names,
            states=tuple(map(_state, query.states)),
            queue=query.queue,
            limit=limit,
            after=query.after if after is None else after,
        )
        return await trio.to_thread.run_sync(self.journal.history, asked)

    async def _uid(self, peer: Peer, user: str | None) -> int | None:
        """Whose history: None for everybody's."""
        if user is None or user == peer.user:
            return peer.uid
        if not self.sight(peer).sees(-1):
            hint = "ask for your own: leave out --user and --all-users"
            raise Refused("forbidden", "other users' jobs are not for you to see", hint)
        if user == "*":
            return None
        try:
            return (await trio.to_thread.run_sync(users.named, user)).uid
        except UserError as error:
            raise Refused("invalid", error.what, error.hint) from None

    # The node.

    def queues(self, peer: Peer, open_to: Callable[[str], bool]) -> wire.QueuesAnswer:
        counts: dict[str, dict[str, int]] = {}
        for job in self.books.schedule:
            of_queue = counts.setdefault(job.spec.queue, {"waiting": 0, "running": 0, "frozen": 0})
            if kind := kind_of(job):
                of_queue[kind] += 1
        found = []
        for name, queue in sorted(self.config().queues.items(), key=lambda entry: (-entry[1].priority, entry[0])):
            limits = {
                key: {limit: value for limit, value in asdict(bound).items() if value is not None}
                for key, bound in (("per_job", queue.per_job), ("per_user", queue.per_user), ("total", queue.total))
            }
            found.append(
                wire.QueueRow(
                    name=name,
                    priority=queue.priority,
                    open_to_you=open_to(name),
                    preempts=tuple(queue.preempts),
                    preempt_mode=queue.preempt_mode.value,
                    limits={key: table for key, table in limits.items() if table},
                    **counts.get(name, {}),
                )
            )
        return wire.QueuesAnswer(queues=tuple(found))


def look_ahead(schedule: Schedule, job_id: str, now: float) -> Reason:
    """Why the job waits, and until when, as far as that is found soon. `schedule`: a copy. Blocks."""
    end = time.thread_time() + _LOOK
    return forecast(schedule, job_id, now, enough=lambda: time.thread_time() > end, own=True)


def kind_of(job: Job) -> str:
    """ "waiting", "running", "frozen", or "" for one that is over."""
    if job.state is State.PENDING:
        return "waiting"
    if job.state is State.SUSPENDED:
        return "frozen"
    return "running" if job.state in ACTIVE else ""


def no_such_job(job_id: str) -> Refused:
    return Refused("not_found", f"there is no job {job_id[:40]} that you may see", "see batchns ps, or batchns history")


def _of_another(found: wire.JobDetail) -> wire.JobDetail:
    """What anybody may know of it, where lists are everybody's: no secrets that its environment or script has."""
    return evolve(found, spec={key: value for key, value in found.spec.items() if key not in _OWNERS})


def why_of(job_id: str, reason: Reason) -> wire.Why:
    lack = reason.shortage
    lacks = (
        {}
        if lack is None
        else {
            "resource": lack.resource,
            "wanted": lack.needed / FULL if lack.resource == "cpus" else lack.needed,
            "free": lack.free / FULL if lack.resource == "cpus" else lack.free,
        }
    )
    return wire.Why(
        id=job_id,
        code=reason.why.value,
        text=render(reason),
        behind=reason.behind,
        lacks=lacks,
        expected=reason.expected,
        not_before=reason.not_before,
        at=reason.at,
    )


def usage_rows(endings: Iterable[store.Ending]) -> Iterator[wire.UsageRow]:
    """By user and name, in the order of the latest end. The newest of `endings` come first."""
    groups: dict[tuple[str, str], list[store.Ending]] = {}
    for ending in endings:
        if ending.started is not None:
            groups.setdefault((ending.user, ending.result.name), []).append(ending)
    for (user, name), group in groups.items():
        yield _usage_row(user, name, group)


def _usage_row(user: str, name: str, group: Sequence[store.Ending]) -> wire.UsageRow:
    latest = group[0]
    ran = [ending.result.running_seconds for ending in group]
    held = sum(ending.cpus * ending.result.running_seconds for ending in group)
    used = [ending.result.usage.cpu_seconds for ending in group]
    peaks = [peak for ending in group if (peak := ending.result.usage.memory_peak_bytes) is not None]
    efficiency = sum(filter(None, used)) / held if held and any(value is not None for value in used) else None
    row = wire.UsageRow(
        user=user,
        name=name,
        jobs=len(group),
        completed=sum(ending.result.state is State.COMPLETED for ending in group),
        cpus=latest.cpus,
        cpu_efficiency=None if efficiency is None else min(efficiency, 1.0),
        memory=latest.memory,
        memory_peak=max(peaks, default=None),
        time_limit=latest.time_limit,
        running_seconds=statistics.median(ran),
        longest_seconds=max(ran),
    )
    return evolve(row, advice=advice(row, group))


def _state(text: str) -> State:
    try:
        return State(text.upper())
    except ValueError:
        names = ", ".join(state.value for state in State)
        raise Refused("invalid", f"{text[:40]!r} is no state", f"choose from {names}") from None


def _cursor(text: str) -> Place:
    if not text:
        return FIRST
    try:
        return place_of(text)
    except ValueError:
        what = f"after={text[:40]!r} is no cursor"
        raise Refused("invalid", what, "give what the page before said as next") from None


def _texts(reasons: Mapping[str, Reason]) -> dict[str, str]:
    """What many have in common is one object, and made a text of once."""
    texts: dict[int, str] = {}
    for reason in reasons.values():
        if id(reason) not in texts:
            texts[id(reason)] = render(reason)
    return {job_id: texts[id(reason)] for job_id, reason in reasons.items()}


def _facts(item: Job | Ended, owners: Owners) -> tuple[str, str, str, int, str, str, State]:
    if isinstance(item, Job):
        owner = owners[item.array_id]
        return item.id, item.array_id, item.spec.name, owner.uid, owner.user, item.spec.queue, item.state
    return item.job_id, item.array_id, item.name, item.uid, item.user, item.queue, item.state
