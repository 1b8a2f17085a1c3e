"""Counts and distributions of what happens: changed by the loop's task alone, and copied for whoever serves them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import TypeVar

from attrs import define, field, frozen

from batchns.metrics.contract import METRICS, Type

V = TypeVar("V")
Labels = tuple[str, ...]  # values, in the order of the contract's names


@frozen
class Distribution:
    """`counts`: of values up to each bound of the metric's buckets, and beyond all of them; not cumulated."""

    counts: tuple[int, ...]
    sum: float


@define(eq=False)
class _Histogram:
    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    sum: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


@frozen
class Counted:
    """What had happened at a moment, by metric and labels."""

    counters: Mapping[str, Mapping[Labels, float]]
    distributions: Mapping[str, Mapping[Labels, Distribution]]


class Meters:
    """Every counter and histogram of the contract that is not read of a job."""

    def __init__(self) -> None:
        self._counters: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, _Histogram]] = {}

    def add(self, name: str, labels: Labels = (), by: float = 1.0) -> None:
        """Raises KeyError where the contract has no such metric."""
        of = self._counters.get(name) or self._kind(name, Type.COUNTER, self._counters)
        of[labels] = of.get(labels, 0.0) + by

    def observe(self, name: str, value: float, labels: Labels = ()) -> None:
        """Raises KeyError where the contract has no such metric."""
        of = self._histograms.get(name) or self._kind(name, Type.HISTOGRAM, self._histograms)
        histogram = of.get(labels)
        if histogram is None:
            histogram = of[labels] = _Histogram(METRICS[name].buckets)
        histogram.observe(value)

    def begin(self, name: str, labels: Iterable[Labels] = ((),)) -> None:
        """Serve these from now on, as zeros where nothing has happened."""
        if METRICS[name].type is Type.HISTOGRAM:
            histograms = self._kind(name, Type.HISTOGRAM, self._histograms)
            for one in labels:
                histograms.setdefault(one, _Histogram(METRICS[name].buckets))
        else:
            counters = self._kind(name, Type.COUNTER, self._counters)
            for one in labels:
                counters.setdefault(one, 0.0)

    def counted(self) -> Counted:
        """A copy."""
        return Counted(
            counters={name: of.copy() for name, of in self._counters.items()},
            distributions={
                name: {labels: Distribution(tuple(one.counts), one.sum) for labels, one in of.items()}
                for name, of in self._histograms.items()
            },
        )

    @staticmethod
    def _kind(name: str, kind: Type, of: dict[str, dict[Labels, V]]) -> dict[Labels, V]:
        assert METRICS[name].type is kind, name
        return of.setdefault(name, {})
