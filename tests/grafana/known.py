"""What expressions may name: series and labels of the contract, of recorded rules, and of Prometheus itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from batchns.metrics.contract import (
    ACTIONS,
    CPU_MODES,
    DIRECTIONS,
    IO_DIRECTIONS,
    METRICS,
    PREEMPTIONS,
    RESOURCES,
    STALLS,
    Type,
)
from batchns.metrics.counting import OUTCOMES, PHASES, REASONS, SOURCES
from batchns.metrics.snapshot import LIVE
from grafana.source import asking

from .promql import read

FOLDER = Path(__file__).parents[2] / "grafana"
BOARDS: Mapping[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "dashboards").glob("*.json"))
}
RULE_FILES = tuple(sorted((FOLDER / "rules").glob("*.yml")))
RULES: tuple[dict[str, Any], ...] = tuple(
    rule for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]
)
RECORDED = {rule["record"]: rule for rule in RULES if "record" in rule}
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}

TARGET = {"job", "instance"}  # labels that Prometheus gives to all that it scrapes
_OWN = {"up", "scrape_duration_seconds", "scrape_samples_scraped"}  # series that it makes of each scrape
_VALUES: Mapping[str, tuple[str, ...]] = {
    "state": LIVE,
    "outcome": OUTCOMES,
    "reason": REASONS,
    "phase": PHASES,
    "source": SOURCES,
    "direction": (*DIRECTIONS, *IO_DIRECTIONS),
    "mode": (*CPU_MODES, *PREEMPTIONS),
    "action": ACTIONS,
    "resource": RESOURCES,
    "kind": STALLS,
}


def labels_of(series: str) -> set[str] | None:
    """None: there is no such series."""
    if series in _OWN:
        return set(TARGET)
    if series in RECORDED:
        level, _, _ = series.partition(":")
        return TARGET | {*level.split("_")}
    for metric in METRICS.values():
        if series in metric.series:
            bucket = metric.type is Type.HISTOGRAM and series.endswith("_bucket")
            return TARGET | {*metric.labels} | ({"le"} if bucket else set())
    return None


def unknown(expr: str) -> list[str]:
    """What the expression names that does not exist."""
    found, wrong = read(expr), []
    labels: set[str] = set()
    for selector in found.selectors:
        its = labels_of(selector.metric)
        if its is None:
            wrong.append(f"there is no series {selector.metric}")
            continue
        labels |= its
        for label, _, value in selector.matchers:
            if label not in its:
                wrong.append(f"{selector.metric} has no label {label}")
            elif label in _VALUES and re.fullmatch(r"[\w|]+", value):
                wrong += [f"{label} is never {one}" for one in value.split("|") if one not in _VALUES[label]]
    return wrong + [f"none of its series has a label {label}" for label in found.labels - labels]


def expressions() -> Iterator[tuple[str, str]]:
    """All of panels and rules, each with where it is."""
    for name, board in BOARDS.items():
        for title, target in asking.queries(board):
            yield f"{name}: {title}: {target['refId']}", target["expr"]
    for rule in RULES:
        yield rule.get("record") or rule["alert"], rule["expr"]


def placeholders() -> dict[str, str]:
    """A value for every variable, also for those that Grafana itself fills in."""
    names = {name for board in BOARDS.values() for name in asking.variables(board)}
    return dict.fromkeys(names, "x") | {"window": "1h", "__rate_interval": "1m", "__range": "6h"}
