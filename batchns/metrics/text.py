"""A snapshot and its readings as Prometheus reads them: text format 0.0.4, or OpenMetrics 1.0.

1. What is of the node, of users and of the daemon goes through prometheus-client.
2. Jobs have tens of thousands of lines, of which that library makes some hundred a millisecond: theirs are written
   here, all of one metric together, as both formats want it.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.registry import Collector

from batchns.metrics.contract import CPU_MODES, DIRECTIONS, IO_DIRECTIONS, METRICS, RESOURCES, STALLS, Metric, Type
from batchns.metrics.meters import Counted, Distribution, Labels
from batchns.metrics.readings import Reading
from batchns.metrics.snapshot import JobNow

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_END = b"# EOF\n"


class Row(NamedTuple):
    """A job and what it uses."""

    job: JobNow
    reading: Reading


def format_of(accept: str) -> str:
    """The content type that is asked for by an Accept header, as prometheus-client understands it."""
    _, kind = exposition.choose_encoder(accept)
    return OPENMETRICS if kind.startswith("application/openmetrics-text") else PLAIN


def encode(
    kind: str,
    infos: Mapping[str, Labels],
    gauges: Mapping[str, Mapping[Labels, float]],
    counted: Counted,
    rows: Sequence[Row],
    *,
    names: bool = True,
) -> bytes:
    """`kind`: of `format_of`. `infos`: label values of metrics of that type. `names`: jobs' names are told."""
    collector = _Collector(infos, gauges, counted)
    if kind == OPENMETRICS:
        own: bytes = openmetrics_exposition.generate_latest(collector)  # type: ignore[no-untyped-call]
        assert own.endswith(_END)
        return own.removesuffix(_END) + "".join(_jobs(rows, names=names, openmetrics=True)).encode() + _END
    return exposition.generate_latest(collector) + "".join(_jobs(rows, names=names, openmetrics=False)).encode()


# What is not of a job.


class _Collector(Collector):
    def __init__(
        self, infos: Mapping[str, Labels], gauges: Mapping[str, Mapping[Labels, float]], counted: Counted
    ) -> None:
        self._infos, self._gauges, self._counted = infos, gauges, counted

    def collect(self) -> Iterator[Family]:
        for name, labels in self._infos.items():
            metric = METRICS[name]
            info = InfoMetricFamily(name.removesuffix("_info"), metric.help)
            info.add_metric((), dict(zip(metric.labels, labels, strict=True)))
            yield info
        for name, values in self._gauges.items():
            yield _filled(GaugeMetricFamily(name, METRICS[name].help, labels=METRICS[name].labels), values)
        for name, values in self._counted.counters.items():
            yield _filled(CounterMetricFamily(name, METRICS[name].help, labels=METRICS[name].labels), values)
        for name, distributions in self._counted.distributions.items():
            yield _histogram(METRICS[name], distributions)


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[Labels, float]
) -> GaugeMetricFamily | CounterMetricFamily:
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _histogram(metric: Metric, distributions: Mapping[Labels, Distribution]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    bounds = [*map(str, metric.buckets), "+Inf"]
    for labels, found in distributions.items():
        count, buckets = 0, []
        for bound, more in zip(bounds, found.counts, strict=True):
            count += more
            buckets.append((bound, float(count)))
        family.add_metric(labels, buckets, found.sum)
    return family


# Jobs.

Value = float | int | None
_Series = tuple[str, Callable[[Row], Value]]  # labels besides the job's id, as text; its value


def _part(of: Callable[[Row], tuple[int | None, int | None] | None], number: int) -> Callable[[Row], Value]:
    def value(row: Row) -> Value:
        pair = of(row)
        return None if pair is None else pair[number]

    return value


def _directed(of: Callable[[Row], tuple[int | None, int | None] | None], names: Sequence[str]) -> tuple[_Series, ...]:
    return tuple((f',direction="{name}"', _part(of, number)) for number, name in enumerate(names))


def _stall(resource: str, kind: str) -> _Series:
    key = (resource, kind)
    return f',resource="{resource}",kind="{kind}"', lambda row: row.reading.sample.stalls.get(key)


_SERIES: Mapping[str, tuple[_Series, ...]] = {
    "batchns_job_start_time_seconds": (("", lambda row: row.job.started),),
    "batchns_job_cpus": (("", lambda row: row.job.cpus),),
    "batchns_job_cpu_seconds_total": (
        (f',mode="{CPU_MODES[0]}"', lambda row: row.reading.sample.cpu_user),
        (f',mode="{CPU_MODES[1]}"', lambda row: row.reading.sample.cpu_system),
    ),
    "batchns_job_cpu_throttled_seconds_total": (("", lambda row: row.reading.sample.throttled),),
    "batchns_job_memory_usage_bytes": (("", lambda row: row.reading.sample.memory),),
    "batchns_job_memory_working_set_bytes": (("", lambda row: row.reading.sample.working_set),),
    "batchns_job_memory_peak_bytes": (("", lambda row: row.reading.sample.peak),),
    "batchns_job_memory_limit_bytes": (("", lambda row: row.reading.sample.limit),),
    "batchns_job_oom_kills_total": (("", lambda row: row.reading.sample.oom_kills),),
    "batchns_job_tasks": (("", lambda row: row.reading.sample.tasks),),
    "batchns_job_io_bytes_total": _directed(lambda row: row.reading.sample.io, IO_DIRECTIONS),
    "batchns_job_io_operations_total": _directed(lambda row: row.reading.sample.operations, IO_DIRECTIONS),
    "batchns_job_network_bytes_total": _directed(lambda row: row.reading.traffic, DIRECTIONS),
    "batchns_job_network_limit_bytes_per_second": (
        (f',direction="{DIRECTIONS[0]}"', lambda row: row.job.egress),
        (f',direction="{DIRECTIONS[1]}"', lambda row: row.job.ingress),
    ),
    "batchns_job_network_drops_total": _directed(lambda row: row.reading.drops, DIRECTIONS),
    "batchns_job_frozen": (("", lambda row: int(row.job.frozen)),),
    "batchns_job_frozen_seconds_total": (("", lambda row: row.job.frozen_seconds),),
    "batchns_job_pressure_seconds_total": tuple(_stall(one, kind) for one in RESOURCES for kind in STALLS),
}


def _jobs(rows: Sequence[Row], *, names: bool, openmetrics: bool) -> Iterator[str]:
    if not rows:
        return
    yield _head(METRICS["batchns_job_info"], openmetrics=openmetrics)
    for one in rows:
        job = one.job
        values = zip(
            METRICS["batchns_job_info"].labels,
            (job.job_id, job.name if names else "", job.user, job.queue),
            strict=True,
        )
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in values if value)
        yield f"batchns_job_info{{{labels}}} 1\n"
    ids = [one.job.job_id for one in rows]
    for name, series in _SERIES.items():
        lines = [line for labels, value in series for line in _lines(name, labels, ids, map(value, rows))]
        if lines:
            yield _head(METRICS[name], openmetrics=openmetrics)
            yield "".join(lines)


def _lines(name: str, labels: str, ids: Sequence[str], values: Iterable[Value]) -> list[str]:
    return [
        f'{name}{{job_id="{job_id}"{labels}}} {value}\n'
        for job_id, value in zip(ids, values, strict=True)
        if value is not None
    ]


def _head(metric: Metric, *, openmetrics: bool) -> str:
    name, kind = metric.name, metric.type.value
    if openmetrics:
        name = name.removesuffix("_total").removesuffix("_info")
    elif metric.type is Type.INFO:
        kind = "gauge"
    return f"# HELP {name} {metric.help}\n# TYPE {name} {kind}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
