"""Who starts, or goes on, now.

1. Jobs are taken in the order of their rank. The first ones that do not fit get reservations; who comes after may start
   as long as it delays none of those (backfilling).
2. A job for which room is being made comes first, and until it has all of it nobody takes the parts.
3. Where a job does not fit and may take somebody's place, that is asked for, and the decision ends there: the room is
   there only when the kernel has confirmed it.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from math import inf

from batchns.core.actions import Action, Launch, Thaw
from batchns.core.backfill import Reservations, Use, uses_of
from batchns.core.demand import Demand
from batchns.core.job import Job
from batchns.core.placement import Placement
from batchns.core.preempt import Claim, Preemptor
from batchns.core.promises import used
from batchns.core.quota import Quotas
from batchns.core.rank import Ranking
from batchns.core.ready import Entry, Item, Lane, LaneKey, Walk
from batchns.core.schedule import Schedule
from batchns.model.config import Backfill, Order
from batchns.model.lifecycle import State


def starts(schedule: Schedule, now: float) -> list[Action]:
    """Launches, thaws, and what makes room for the next one."""
    if not schedule.ready:
        return []
    return _Starts(schedule, now).decide()


def startable(schedule: Schedule, now: float, most: int) -> Counter[str]:
    """How many waiting jobs lack nothing but the next decision, by queue: those that would start in their order, up to
    the first one that lacks room, or for which others would have to give way.

    Where decisions are made there are none for longer than a moment. At most `most` jobs are looked at.
    """
    if not schedule.ready or schedule.draining is not None or schedule.paused or schedule.closed is not None:
        return Counter()
    if schedule.room().exhausted:
        return Counter()
    return Counter(schedule[job_id].spec.queue for job_id in _Starts(schedule, now).front(most))


class _Starts:
    def __init__(self, schedule: Schedule, now: float) -> None:
        self._schedule = schedule
        self._now = now
        self._settings = schedule.settings
        self._by_length = self._settings.order is Order.SHORTEST
        self._ranking = Ranking(schedule, now)
        self._gone: set[str] = set()  # those that are decided upon
        self._preemptor = Preemptor(schedule, now, self._ranking, self._gone)
        self._promised = self._preemptor.any
        self._closed = schedule.closed is not None
        self._room = schedule.room()
        self._quotas: Quotas | None = None  # a copy, once something has started
        self._tasks: Counter[str] = Counter()
        self._started: list[Use] = []
        self._reservations_made = 0
        self._waiting: list[tuple[Demand, float]] = []  # of those that are to have one, not yet reserved
        self._reserved: Reservations | None = None
        self.actions: list[Action] = []

    def decide(self) -> list[Action]:
        self._meet_claims()
        if self._overdue_make_room() or (self._room.exhausted and not self._preemptor.any):
            return self.actions
        ranked: Iterable[Lane] | None = None
        if self._closed:
            ranked = [lane for lane in self._schedule.ready.lanes() if lane.key.frozen]
        elif self._by_length:
            ranked = self._worth_a_look()
        walk = Walk(self._schedule.ready, self._ranking.of_entry, ranked)
        for item in walk:
            entry = item.entry
            if entry[1] in self._gone:
                walk.go_on(item)
                continue
            if self._barred(item.lane.key):
                continue
            if self._start(item.lane, entry):
                walk.go_on(item)
                continue
            if self._make_room(item):
                return self.actions
            if self._settings.backfill is Backfill.OFF:
                return self.actions
            if self._wants_reservation():
                self._reserve(item)
                walk.go_on(item)
            if not (self._by_length or self._preemptor.any or self._wants_reservation()):
                break
        if not self._by_length:
            self._backfill()
        return self.actions

    def front(self, most: int) -> list[str]:
        """Those that start before anybody has to wait for room. `most`: lanes that are looked at."""
        self._meet_claims()
        if not self._overdue_make_room():
            ranked = self._schedule.ready.lanes() if self._by_length else None
            walk = Walk(self._schedule.ready, self._ranking.of_entry, ranked)
            for item in islice(walk, most):
                gone = item.entry[1] in self._gone
                if not gone and self._barred(item.lane.key):
                    continue
                if not gone and not self._start(item.lane, item.entry):
                    break
                walk.go_on(item)
        return [action.job for action in self.actions if isinstance(action, Launch)]

    def _worth_a_look(self) -> Iterable[Lane]:
        """Lanes in which somebody may start, or take somebody's place; all of them where those in front bar others."""
        lanes, idle = self._schedule.ready.lanes(), self._room.idle
        if self._wants_reservation() or self._settings.backfill is Backfill.OFF:
            return lanes
        found = list(self._schedule.ready.narrow(idle))
        rank, queues = self._ranking.of_lane, self._schedule.config.queues
        for width, wide in self._schedule.ready.wide(idle):
            hopeful = {queue: self._preemptor.hopeful(queue, width - idle) for queue in queues}
            found += [lane for lane in wide if rank(lane) < hopeful.get(lane.key.queue, -inf)]
        return found

    # Those that go before the order.

    def _meet_claims(self) -> None:
        """Those whose room is made start first; what is free of it is kept for those who still wait for the rest."""
        for job_id in self._schedule.claims:
            job, key = self._schedule[job_id], self._schedule.ready.key_of(job_id)
            if key is None or self._barred(key):
                continue
            if self._schedule.claims.under_way(job_id):
                self._room.withhold(key.demand)
                self._gone.add(job_id)
            elif (placement := self._room.place(key.demand)) is not None and self._keeps_promises(job):
                self._take(job, key.demand, placement, self._end(job))

    def _overdue_make_room(self) -> bool:
        """Frozen jobs whose time to go on has come. True: room is being made for one, and that is all for now."""
        overdue = [
            (job.frozen.thaw_by, job)
            for job in self._schedule.lending
            if job.state is State.SUSPENDED and job.frozen is not None and job.frozen.thaw_by is not None
            if job.frozen.thaw_by <= self._now
        ]
        for _, job in sorted(overdue, key=lambda pair: (pair[0], pair[1].order)):
            key = self._schedule.ready.key_of(job.id)
            if key is None or job.id in self._gone or self._barred(key):
                continue
            self._gone.add(job.id)
            placement = self._room.place(key.demand)
            if placement is not None:
                if self._promised:
                    self._preemptor.promises().force(job.id, job.over(self._now), used(job.demand))
                self._take(job, key.demand, placement, self._end(job))
                continue
            claim = Claim(job, key.demand, job.over(self._now), True)
            if not self._closed and (made := self._preemptor.make_room(claim, self._room)):
                self.actions += made
                return True
            self._room.withhold(key.demand)
        return False

    # One job.

    def _barred(self, key: LaneKey) -> bool:
        """Nobody of the lane may start now, whatever room there is."""
        if self._closed and not key.frozen:
            return True
        if key.throttle is not None and key.array is not None:
            tasks = self._schedule.active_tasks(key.array) + self._tasks[key.array]
            if tasks >= key.throttle:
                return True
        if self._schedule.yielding and self._schedule.queue(key.queue).yields:
            return True
        quotas = self._quotas or self._schedule.quotas
        demand = key.demand.to_thaw() if key.frozen else key.demand  # its memory counts all the time
        return quotas.reached(key.queue, key.user, demand) is not None

    def _start(self, lane: Lane, entry: Entry) -> bool:
        demand = lane.key.demand
        placement = self._room.place(demand)
        if placement is None:
            return False
        if not (self._promised or self._reservations_made or lane.key.frozen):  # nothing to look at but the room
            self._take(self._schedule[entry[1]], demand, placement, self._now + entry[2])
            return True
        job = self._schedule[entry[1]]
        end = self._end(job)
        if self._reservations_made and not self._reservations().admits(demand, placement, end):
            return False
        if not self._keeps_promises(job):
            return False
        self._take(job, demand, placement, end)
        return True

    def _keeps_promises(self, job: Job) -> bool:
        """Whether the frozen could still go on in time if the job started; then it is taken to."""
        return not self._promised or self._preemptor.promises().start(job.id, job.over(self._now), used(job.demand))

    def _take(self, job: Job, demand: Demand, placement: Placement, end: float) -> None:
        self._room.take(demand, placement)
        self._gone.add(job.id)
        if self._reserved is not None:
            self._reserved.take(demand, placement, end)
        else:
            self._started.append((end, job.demand, placement))
        if job.lends:
            self.actions.append(Thaw(job.id, placement))
        else:
            self.actions.append(Launch(job.id, placement))
            if job.throttle is not None:
                self._tasks[job.array_id] += 1
        if self._quotas is None:
            self._quotas = self._schedule.quotas.copy()
        self._quotas.change(job.spec.queue, job.user, demand.to_thaw() if job.lends else demand, 1)

    def _make_room(self, item: Item) -> bool:
        key = item.lane.key
        if self._closed or not self._preemptor.any or not self._preemptor.may(key.queue):
            return False
        cpus = key.demand.whole - self._room.idle
        if cpus > 0 and self._by_length and item.key[3] >= self._preemptor.hopeful(key.queue, cpus):
            return False
        job = self._schedule[item.entry[1]]
        made = self._preemptor.make_room(Claim(job, key.demand, job.over(self._now), False), self._room)
        self.actions += made
        return bool(made)

    def _end(self, job: Job) -> float:
        return job.expected_end(self._now) if job.lends else self._now + job.span

    # Reservations.

    def _wants_reservation(self) -> bool:
        most = self._settings.reservations
        return most is None or self._reservations_made < most

    def _reserve(self, item: Item) -> None:
        job = self._schedule[item.entry[1]]
        self._waiting.append((item.lane.key.demand, self._end(job) - self._now))
        self._reservations_made += 1

    def _reservations(self) -> Reservations:
        """Made when somebody asks: often nobody is left who could start."""
        if self._reserved is None:
            uses = uses_of(self._schedule.expected_ends(self._now), self._started)
            shared = self._schedule.shared or any(demand.share for _, demand, _ in self._started)
            single = self._settings.reservations == 1
            self._reserved = Reservations(
                self._now, self._schedule.measure, self._room, uses, single=single, shared=shared
            )
        for demand, span in self._waiting:
            self._reserved.reserve(demand, span)
        self._waiting.clear()
        return self._reserved

    # Backfilling: only lanes that fit are looked at.

    def _backfill(self) -> None:
        shortest = self._settings.backfill is Backfill.SHORTEST
        heap: list[tuple[tuple[object, ...], int, Lane, Entry]] = []
        for lane in self._schedule.ready.narrow(self._room.idle):
            self._offer(heap, lane, shortest=shortest, after=None)
        while heap:
            _, _, lane, entry = heapq.heappop(heap)
            if self._barred(lane.key) or not self._room.fits(lane.key.demand):
                continue
            if self._start(lane, entry) or self._reservations_made:
                self._offer(heap, lane, shortest=shortest, after=entry)

    def _offer(
        self,
        heap: list[tuple[tuple[object, ...], int, Lane, Entry]],
        lane: Lane,
        *,
        shortest: bool,
        after: Entry | None,
    ) -> None:
        """The lane's next candidate, behind `after`."""
        if not self._room.fits(lane.key.demand) or self._barred(lane.key):
            return
        for entry in _candidates(lane, after, self._window(lane), shortest=shortest):
            if entry[1] not in self._gone:
                rank = (entry[2], entry[0]) if shortest else self._ranking.of_entry(lane, entry)
                heapq.heappush(heap, (rank, lane.number, lane, entry))
                return

    def _window(self, lane: Lane) -> float:
        """How long a job of the lane may take to be worth a look; inf: all are."""
        if not self._reservations_made:
            return inf
        reserved = self._reservations()
        if reserved.window == -inf or reserved.may_stay(lane.key.demand):
            return inf
        return reserved.window - self._now


def _candidates(lane: Lane, after: Entry | None, window: float, *, shortest: bool) -> Iterator[Entry]:
    if shortest:
        for span, order, job_id in lane.spans:
            if span > window:
                return
            if after is None or (span, order) > (after[2], after[0]):
                yield (order, job_id, span)
        return
    if lane.spans[0][0] > window:
        return
    for entry in lane.entries:
        if entry[2] <= window and (after is None or entry[0] > after[0]):
            yield entry
