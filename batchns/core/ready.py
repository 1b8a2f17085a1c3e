"""The jobs that compete for room, pending ones and frozen ones that want to go on, in lanes of jobs that are alike.

1. Jobs of one lane have the same queue, user and demand (and, where their array has a throttle, the same array): where
   the first of a lane does not fit, no other of it does. A decision looks at lanes, not at ten thousand jobs.
2. A lane is sorted by the jobs' order, and a second time by how long they may take; reading changes neither.
3. `Walk` goes through all of them in the order in which they are to start.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from math import floor, log2
from typing import Any, NamedTuple

from batchns.core.demand import Demand
from batchns.core.job import Job, Order

Entry = tuple[Order, str, float]  # (order, job id, span)
_CLASSES = 4  # lanes by length: so many for each doubling


class LaneKey(NamedTuple):
    """What the jobs of a lane have in common. `length`: a class of expected length, where the order goes by it."""

    queue: str
    user: str
    demand: Demand
    frozen: bool
    array: str | None
    throttle: int | None
    length: int


class Lane:
    """Jobs that are alike: `entries` by their order, `spans` by (span, order, id)."""

    __slots__ = ("aging", "entries", "key", "number", "spans")

    def __init__(self, key: LaneKey, number: int) -> None:
        self.key = key
        self.number = number  # for ties: lanes themselves do not compare
        self.entries: list[Entry] = []
        self.spans: list[tuple[float, Order, str]] = []
        self.aging: tuple[float, float, float] | None = None  # how its first job's rank comes about, once looked up


class Ready:
    """Jobs by lane. `by_length`: lanes are of jobs that take about as long, too."""

    def __init__(self, *, by_length: bool = False) -> None:
        self._by_length = by_length
        self._lanes: dict[LaneKey, Lane] = {}
        self._keys: dict[str, LaneKey] = {}
        self._numbers = 0
        self._streams: dict[tuple[str, str], list[tuple[Order, int, Lane]]] = {}
        self._whole: dict[int, dict[int, Lane]] = {}  # by exclusive CPUs, then by lane number
        self._widths: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._keys

    def copy(self) -> Ready:
        other = Ready(by_length=self._by_length)
        other._keys, other._numbers = self._keys.copy(), self._numbers
        twins: dict[int, Lane] = {}
        for key, lane in self._lanes.items():
            twin = other._lanes[key] = twins[lane.number] = Lane(key, lane.number)
            twin.entries, twin.spans = lane.entries.copy(), lane.spans.copy()
        other._streams = {
            stream: [(order, number, twins[number]) for order, number, _ in heads]
            for stream, heads in self._streams.items()
        }
        other._whole = {width: {number: twins[number] for number in lanes} for width, lanes in self._whole.items()}
        other._widths = self._widths.copy()
        return other

    def waiting(self) -> Counter[str]:
        """How many compete to start, by queue."""
        found: Counter[str] = Counter()
        for key, lane in self._lanes.items():
            if not key.frozen:
                found[key.queue] += len(lane.entries)
        return found

    def add(self, job: Job, demand: Demand, *, frozen: bool = False) -> None:
        """The job competes with `demand`. `frozen`: to go on, not to start."""
        array, throttle = (None, None) if frozen or job.throttle is None else (job.array_id, job.throttle)
        length = floor(_CLASSES * log2(max(job.estimate, 1.0))) if self._by_length else 0
        key = LaneKey(job.spec.queue, job.user, demand, frozen, array, throttle, length)
        lane = self._lanes.get(key)
        if lane is None:
            self._numbers += 1
            lane = self._lanes[key] = Lane(key, self._numbers)
            self._index(lane)
        before = lane.entries[0][0] if lane.entries else None
        insort(lane.entries, (job.order, job.id, job.span))
        insort(lane.spans, (job.span, job.order, job.id))
        self._keys[job.id] = lane.key  # not the equal one that was made to look for it: there are many jobs
        self._move_head(lane, before)

    def remove(self, job: Job) -> None:
        """Take the job out; one that is not in is no error."""
        key = self._keys.pop(job.id, None)
        if key is None:
            return
        lane = self._lanes[key]
        before = lane.entries[0][0]
        del lane.entries[bisect_left(lane.entries, (job.order, job.id, job.span))]
        del lane.spans[bisect_left(lane.spans, (job.span, job.order, job.id))]
        self._move_head(lane, before)
        if not lane.entries:
            del self._lanes[key]
            self._forget(lane)

    def key_of(self, job_id: str) -> LaneKey | None:
        """What the job competes as; None where it does not."""
        return self._keys.get(job_id)

    def lanes(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def streams(self) -> Iterator[tuple[tuple[str, str], list[tuple[Order, int, Lane]]]]:
        """For each (queue, user): its lanes' first orders, ascending."""
        return iter(self._streams.items())

    def wide(self, cpus: int) -> Iterator[tuple[int, Iterable[Lane]]]:
        """Lanes that want more than so many exclusive CPUs, by how many they want."""
        for width in self._widths[bisect_right(self._widths, cpus) :]:
            yield width, self._whole[width].values()

    def narrow(self, cpus: int) -> Iterator[Lane]:
        """Lanes that want no more than so many exclusive CPUs."""
        for width in self._widths:
            if width > cpus:
                break
            yield from self._whole[width].values()

    def _index(self, lane: Lane) -> None:
        width = lane.key.demand.whole
        if width not in self._whole:
            self._whole[width] = {}
            insort(self._widths, width)
        self._whole[width][lane.number] = lane

    def _forget(self, lane: Lane) -> None:
        width = lane.key.demand.whole
        del self._whole[width][lane.number]
        if not self._whole[width]:
            del self._whole[width]
            self._widths.remove(width)

    def _move_head(self, lane: Lane, before: Order | None) -> None:
        after = lane.entries[0][0] if lane.entries else None
        if after == before:
            return
        lane.aging = None
        stream = (lane.key.queue, lane.key.user)
        heads = self._streams.setdefault(stream, [])
        if before is not None:
            del heads[bisect_left(heads, (before, lane.number))]
        if after is not None:
            insort(heads, (after, lane.number, lane))
        if not heads:
            del self._streams[stream]


class Item(NamedTuple):
    """A job whose turn it is. `place`: in its lane."""

    key: tuple[Any, ...]
    number: int
    place: int
    lane: Lane

    @property
    def entry(self) -> Entry:
        return self.lane.entries[self.place]


class Walk:
    """Jobs in the order in which they are to start. The one who walks says whether a lane goes on after its job.

    `key` gives what is compared, by lane and entry: (queue priority, job priority, ...), smaller first. `ranked`: the
    lanes to go through; None: all of them, and `key` must agree with the jobs' own order within one queue and user, so
    that only the lanes' heads are looked at whose turn comes.
    """

    def __init__(
        self, ready: Ready, key: Callable[[Lane, Entry], tuple[Any, ...]], ranked: Iterable[Lane] | None
    ) -> None:
        self._key = key
        self._heap: list[tuple[tuple[Any, ...], int, int, Lane]] = []
        self._queued: dict[int, tuple[list[tuple[Order, int, Lane]], int]] = {}
        if ranked is not None:
            self._heap = [(key(lane, lane.entries[0]), lane.number, 0, lane) for lane in ranked]
            heapq.heapify(self._heap)
        else:
            for _, heads in ready.streams():
                self._push_head(heads, 0)

    def __iter__(self) -> Walk:
        return self

    def __next__(self) -> Item:
        if not self._heap:
            raise StopIteration
        item = Item(*heapq.heappop(self._heap))
        if item.place == 0 and item.number in self._queued:
            heads, place = self._queued.pop(item.number)
            if place + 1 < len(heads):
                self._push_head(heads, place + 1)
        return item

    def go_on(self, item: Item) -> None:
        """The next job of the item's lane has its turn, too."""
        lane, index = item.lane, item.place + 1
        if index < len(lane.entries):
            heapq.heappush(self._heap, (self._key(lane, lane.entries[index]), lane.number, index, lane))

    def _push_head(self, heads: list[tuple[Order, int, Lane]], place: int) -> None:
        _, number, lane = heads[place]
        self._queued[number] = (heads, place)
        heapq.heappush(self._heap, (self._key(lane, lane.entries[0]), number, 0, lane))
