"""The contract itself, and the text that is made by it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from batchns.kernel.cgroups.sample import RESOURCES, Sample
from batchns.kernel.network.types import Counters
from batchns.metrics import contract, text
from batchns.metrics.contract import METRICS, Type
from batchns.metrics.meters import Meters
from batchns.metrics.readings import Reading
from batchns.metrics.shapers import Drops
from batchns.metrics.snapshot import JobNow
from batchns.metrics.table import markdown

from .served import Served, complaints

DOCS = Path(__file__).parents[2] / "docs/metrics.md"
JOB = JobNow("7_3", "abcde-1", 'it\'s "new"\\\n', "ada", "normal", 2.0, 1e9, True, 4.5, 9.0, 125.0, 250.0, "bnslink")
FULL = Sample(
    1.5, 0.25, 0.125, 1000, 900, 2000, 4096, 1, 7, (10, 20), (1, 2), {(one, "some"): 1.0 for one in RESOURCES}
)
READING = Reading(FULL, Counters(111, 222), Drops(3, 4))


def served(kind: str, *rows: text.Row) -> Served:
    """Everything of the contract, each metric with one series."""
    meters = Meters()
    gauges = {}
    for metric in METRICS.values():
        labels = tuple("x" for _ in metric.labels)
        if metric in contract.JOB or metric.type is Type.INFO:
            continue
        if metric.type is Type.GAUGE:
            gauges[metric.name] = {labels: 3.0}
        else:
            meters.begin(metric.name, [labels])
    infos = {"batchns_build_info": ("1", "v2")}
    return Served(kind, text.encode(kind, infos, gauges, meters.counted(), rows).decode())


@pytest.mark.parametrize("kind", [text.PLAIN, text.OPENMETRICS])
def test_all_that_is_served_is_in_the_contract_and_the_other_way_round(kind: str) -> None:
    made = served(kind, text.Row(JOB, READING))
    assert complaints(made) == []
    assert {sample.name for sample in made.samples()} >= {name for one in METRICS.values() for name in one.series}


@pytest.mark.parametrize("kind", [text.PLAIN, text.OPENMETRICS])
def test_types_are_those_of_the_contract(kind: str) -> None:
    told = dict(re.findall(r"^# TYPE (\S+) (\S+)$", served(kind, text.Row(JOB, READING)).text, re.MULTILINE))
    for metric in METRICS.values():
        name = metric.name
        if kind == text.OPENMETRICS:
            name = name.removesuffix("_total").removesuffix("_info")
        expected = "gauge" if metric.type is Type.INFO and kind == text.PLAIN else metric.type.value
        assert told[name] == expected, metric


def test_the_check_of_the_contract_notices_a_name_and_a_label() -> None:
    assert complaints(Served(text.PLAIN, "batchns_jobz 1\n")) == ["batchns_jobz is not in the contract"]
    (found,) = complaints(Served(text.PLAIN, 'batchns_jobs{queue="a",state="b",job_id="7"} 1\n'))
    assert "has labels ['job_id', 'queue', 'state']" in found


def test_what_is_not_known_of_a_job_has_no_line() -> None:
    made = served(text.PLAIN, text.Row(JOB, Reading()))
    with_job = {sample.name for sample in made.samples() if sample.labels.get("job_id") == "7_3"}
    assert with_job == {
        *("batchns_job_info", "batchns_job_start_time_seconds", "batchns_job_cpus", "batchns_job_frozen"),
        *("batchns_job_frozen_seconds_total", "batchns_job_network_limit_bytes_per_second"),
    }


@pytest.mark.parametrize("kind", [text.PLAIN, text.OPENMETRICS])
def test_names_come_back_whatever_is_in_them(kind: str) -> None:
    (info,) = [
        sample.labels for sample in served(kind, text.Row(JOB, READING)).samples() if sample.name == "batchns_job_info"
    ]
    assert info == {"job_id": "7_3", "name": JOB.name, "user": "ada", "queue": "normal"}


def test_bytes_sent_are_egress() -> None:
    made = served(text.PLAIN, text.Row(JOB, READING))
    assert made.value("batchns_job_network_bytes_total", direction="egress") == 111
    assert made.value("batchns_job_network_bytes_total", direction="ingress") == 222
    assert made.value("batchns_job_io_bytes_total", direction="write") == 20


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", text.PLAIN),
        ("*/*", text.PLAIN),
        ("text/plain;version=0.0.4", text.PLAIN),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", text.OPENMETRICS),
        ("application/openmetrics-text", text.OPENMETRICS),
        ("\xff;;;,=", text.PLAIN),
    ],
)
def test_the_format_is_the_one_that_was_asked_for(accept: str, kind: str) -> None:
    assert text.format_of(accept) == kind


def test_names_are_prometheus_own() -> None:
    for metric in METRICS.values():
        assert re.fullmatch("batchns_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.type is Type.COUNTER), metric
        assert metric.name.endswith("_info") == (metric.type is Type.INFO), metric
        assert bool(metric.buckets) == (metric.type is Type.HISTOGRAM) and list(metric.buckets) == sorted(
            metric.buckets
        )
        assert "job" not in metric.labels and metric.help.endswith(".")
        unit = metric.unit.replace(" ", "_")
        assert unit in metric.name or metric.type is Type.INFO, metric


def test_the_manual_has_the_table() -> None:
    """Else: python -m batchns.metrics.table, at the end of docs/metrics.md"""
    assert DOCS.read_text().endswith(markdown())
