"""Which jobs are meant: "7", "7_3", "7_1-5,9", "12-15" or a name."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from attrs import frozen

from batchns.daemon.service import Refused
from batchns.units import quote

_MOST = 1000  # selectors of one question
_TASK = re.compile(r"([1-9][0-9]{0,14})(?:_\[?([0-9,-]{1,200})\]?)?")
_RANGE = re.compile(r"([1-9][0-9]{0,14})-([1-9][0-9]{0,14})")
_SPAN = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


@frozen
class Selector:
    """`first` and `last` of array ids; `spans` of task indices, empty for all; or a `name`."""

    text: str
    first: int = 0
    last: int = 0
    spans: tuple[tuple[int, int], ...] = ()
    name: str = ""


class _Spans:
    """Numbers, as spans that do not touch: whether one is among them costs a look at few of many."""

    def __init__(self, spans: Iterable[tuple[int, int]]) -> None:
        self._first: list[int] = []
        self._last: list[int] = []
        for first, last in sorted(spans):
            if self._last and first <= self._last[-1] + 1:
                self._last[-1] = max(self._last[-1], last)
            elif first <= last:
                self._first.append(first)
                self._last.append(last)

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._first, number) - 1
        return place >= 0 and number <= self._last[place]


class Selection:
    """All selectors of one question. What it costs to ask of a job does not grow with their number."""

    def __init__(self, selectors: Sequence[Selector]) -> None:
        self.selectors = selectors
        self._names = {one.name for one in selectors if one.name}
        self._ranges = _Spans((one.first, one.last) for one in selectors if one.first < one.last)
        spans: dict[int, list[tuple[int, int]]] = {}
        for one in selectors:
            if not one.name and one.first == one.last:
                spans.setdefault(one.first, []).extend(one.spans or _ALL)
        self._arrays = {array: _Spans(some) for array, some in spans.items()}

    def __bool__(self) -> bool:
        return bool(self.selectors)

    @property
    def spans(self) -> list[tuple[int, int]] | None:
        """(first, last) id of the arrays among which all that is meant is; None: it may be anywhere."""
        if self._names or not self.selectors:
            return None
        return [(one.first, one.last) for one in self.selectors]

    def meets(self, job_id: str, array_id: str, name: str) -> bool:
        if name in self._names:
            return True
        array = int(array_id)
        return array in self._ranges or (array in self._arrays and _index(job_id) in self._arrays[array])

    def missing(self, found: Iterable[tuple[str, str, str]]) -> list[str]:
        """The selectors that mean none of these jobs (id, array's id, name), which are all that `meets`."""
        names, tasks = set(), dict[int, list[int]]()
        for job_id, array_id, name in found:
            names.add(name)
            tasks.setdefault(int(array_id), []).append(_index(job_id))
        arrays = sorted(tasks)
        for some in tasks.values():
            some.sort()

        def means_one(one: Selector) -> bool:
            if one.name:
                return one.name in names
            if one.first < one.last:
                return _any_within(arrays, one.first, one.last)
            some = tasks.get(one.first, [])
            return any(_any_within(some, low, high) for low, high in one.spans or _ALL)

        return [one.text for one in self.selectors if not means_one(one)]


_ALL = ((-1, 1 << 62),)  # also the job that is no array, whose index is -1 here


def _index(job_id: str) -> int:
    return int(job_id.partition("_")[2] or -1)


def _any_within(ordered: Sequence[int], low: int, high: int) -> bool:
    return bisect_left(ordered, low) < bisect_right(ordered, high)


def parse(texts: Sequence[str]) -> Selection:
    """Raises Refused: one is none, or there are too many."""
    if len(texts) > _MOST:
        raise Refused("invalid", f"{len(texts)} selectors are more than {_MOST}", "give ranges: 12-15")
    return Selection([_parse(text) for text in texts])


def _parse(text: str) -> Selector:
    if match := _RANGE.fullmatch(text):
        first, last = int(match[1]), int(match[2])
        if first > last:
            raise Refused("invalid", f"{text}: the range ends before it begins", f"write {last}-{first}")
        return Selector(text, first, last)
    if match := _TASK.fullmatch(text):
        number = int(match[1])
        return Selector(text, number, number, _spans(text, match[2]) if match[2] else ())
    if _NAME.fullmatch(text):
        return Selector(text, name=text)
    raise Refused("invalid", f"{quote(text[:80])} names no job", "write an id (7, 7_3, 7_1-5, 12-15) or a job's name")


def _spans(text: str, tasks: str) -> tuple[tuple[int, int], ...]:
    spans = []
    for part in tasks.split(","):
        match = _SPAN.fullmatch(part)
        if match is None:
            raise Refused("invalid", f"{text}: {quote(part)} is no task", "write 7_3, 7_1-5 or 7_1,3,8-9")
        low = int(match[1])
        high = int(match[2]) if match[2] else low
        if low > high:
            raise Refused("invalid", f"{text}: {part} ends before it begins", f"write {high}-{low}")
        spans.append((low, high))
    return tuple(spans)
