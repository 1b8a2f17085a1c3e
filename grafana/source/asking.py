"""Prometheus asked over its HTTP API, as Grafana asks it: variables filled in, answers as samples.

Source: https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from __future__ import annotations

import json
import math
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import frozen

_VARIABLE = re.compile(r"\$(?:\{(\w+)[^}]*\}|(\w+))")
_LABEL_VALUES = re.compile(r"label_values\((.*), (\w+)\)$")
_TIMEOUT = 20.0  # seconds

Labels = Mapping[str, str]


@frozen
class Answer:
    """One series. `points`: seconds since the epoch, and values; one of them at a moment."""

    labels: Labels
    points: Sequence[tuple[float, float]]

    @property
    def value(self) -> float:
        return self.points[-1][1]


@frozen
class Prometheus:
    """`url`: without a slash at its end."""

    url: str

    def get(self, path: str, **arguments: Any) -> Any:
        """Its data. Raises OSError where nobody answers, ValueError where it does not understand."""
        query = urllib.parse.urlencode(arguments, doseq=True)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=_TIMEOUT) as reply:
            answer = json.load(reply)
        if answer["status"] != "success":
            raise ValueError(answer)
        return answer["data"]

    def at(self, expr: str, **when: float) -> list[Answer]:
        """Now, or at `time`; a number that does not belong to any series has no labels."""
        data = self.get("query", query=expr, **when)
        if data["resultType"] == "scalar":
            return [Answer({}, [_point(data["result"])])]
        return [Answer(one["metric"], [_point(one["value"])]) for one in data["result"]]

    def over(self, expr: str, begin: float, end: float, step: float) -> list[Answer]:
        data = self.get("query_range", query=expr, start=begin, end=end, step=step)
        return [Answer(one["metric"], [*map(_point, one["values"])]) for one in data["result"]]

    def asked(
        self, target: Mapping[str, Any], values: Mapping[str, str], begin: float, end: float, step: float
    ) -> list[Answer]:
        """What Grafana gets for a panel's query: of the last moment alone, or over the time that is shown."""
        expr = filled(target["expr"], {**values, "__range": f"{math.ceil(end - begin)}s"})
        return self.at(expr, time=end) if target.get("instant") else self.over(expr, begin, end, step)

    def choices(self, query: str) -> list[str]:
        """What a variable offers."""
        selector, label = parts_of(query)
        return sorted({labels[label] for labels in self.get("series", **{"match[]": selector}) if label in labels})


def _point(pair: Sequence[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


def parts_of(query: str) -> tuple[str, str]:
    """Selector and label of a variable's label_values(...)."""
    found = _LABEL_VALUES.match(query)
    if not found:
        raise ValueError(f"this is no label_values(selector, label): {query}")
    return found[1], found[2]


def filled(text: str, values: Mapping[str, str]) -> str:
    """With the variables' values. Raises KeyError where one has none."""
    return _VARIABLE.sub(lambda found: values[found[1] or found[2]], text)


def panels(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Those that ask for something: rows are none."""
    yield from (panel for panel in board["panels"] if panel["type"] != "row")


def queries(board: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every query, with its panel's title."""
    for panel in panels(board):
        yield from ((panel["title"], target) for target in panel["targets"])


def variables(board: Mapping[str, Any]) -> dict[str, str]:
    """The queries of its variables, by name, in their order."""
    return {one["name"]: one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"}
