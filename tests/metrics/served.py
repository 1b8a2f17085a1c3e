"""What was served, read back by prometheus-client's own parsers."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import frozen
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from batchns.metrics.contract import METRICS, Type

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@frozen
class Sample:
    name: str
    labels: Mapping[str, str]
    value: float


@frozen
class Served:
    kind: str
    text: str

    def samples(self) -> Iterator[Sample]:
        parse = parse_openmetrics if self.kind.startswith("application/openmetrics") else parse_plain
        for family in parse(self.text):
            for sample in family.samples:
                yield Sample(sample.name, sample.labels, sample.value)

    def value(self, name: str, /, **labels: str) -> float:
        """Of the one series that has these labels."""
        (found,) = self.values(name, **labels)
        return found

    def values(self, name: str, /, **labels: str) -> list[float]:
        return [
            sample.value for sample in self.samples() if sample.name == name and labels.items() <= sample.labels.items()
        ]


def complaints(served: Served) -> list[str]:
    """Where what is served is not what the contract says."""
    series = {name: metric for metric in METRICS.values() for name in metric.series}
    found = []
    for sample in served.samples():
        metric = series.get(sample.name)
        if metric is None:
            if not sample.name.endswith("_created"):
                found.append(f"{sample.name} is not in the contract")
            continue
        labels = set(sample.labels) - ({"le"} if sample.name.endswith("_bucket") else set())
        optional = {"name"} if metric.type is Type.INFO else set()
        if not set(metric.labels) - optional <= labels <= set(metric.labels):
            found.append(f"{sample.name} has labels {sorted(labels)}, not {sorted(metric.labels)}")
    return found


class Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(self._path))


def ask(connection: http.client.HTTPConnection, path: str = "/metrics", accept: str = "") -> tuple[int, Served]:
    """Status and body of one question, on a connection of its own."""
    try:
        connection.request("GET", path, headers={"Accept": accept} if accept else {})
        answer = connection.getresponse()
        return answer.status, Served(answer.getheader("content-type", ""), answer.read().decode())
    finally:
        connection.close()
