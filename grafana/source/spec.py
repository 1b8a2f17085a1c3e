"""What a dashboard says, before it is Grafana's: panels in rows, on a grid of 24 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from attrs import frozen


class Unit(Enum):
    """As Grafana names them."""

    COUNT = "short"
    SECONDS = "s"
    BYTES = "bytes"
    BYTES_PER_SECOND = "binBps"
    PART = "percentunit"
    PER_SECOND = "cps"
    REQUESTS = "reqps"
    MOMENT = "dateTimeAsIso"  # milliseconds since the epoch
    PLAIN = "none"
    TEXT = "string"  # of labels: an id is no number that could be shortened


@frozen
class Query:
    """`legend`: of its series, {{label}} for a label's value; in a table its column, "" where that says nothing."""

    expr: str
    legend: str = ""
    unit: Unit | None = None  # of its column, where that is not the panel's


@frozen
class Step:
    """From `value` on, `colour`."""

    value: float
    colour: str


@frozen(kw_only=True)
class Panel:
    """`text`: what is seen here, for whoever points at the title."""

    title: str
    text: str
    queries: Sequence[Query]
    width: int
    height: int = 8
    unit: Unit = Unit.COUNT
    steps: Sequence[Step] = ()


@frozen(kw_only=True)
class Series(Panel):
    """Lines over time. `bounds`: legends of those that bound the others, drawn dashed."""

    stacked: bool = False
    bars: bool = False
    maximum: float | None = None
    logarithmic: bool = False
    bounds: Sequence[str] = ()


@frozen(kw_only=True)
class Stat(Panel):
    """One number, of now: nothing where there is none any more. `label`: instead of it, this label's value. `words`:
    instead of numbers.
    """

    height: int = 4
    label: str = ""
    words: Mapping[int, tuple[str, str]] = {}  # text and colour
    decimals: int | None = None


@frozen(kw_only=True)
class Table(Panel):
    """A row for each combination of `labels`, which are given titles; `link`: a label that leads to its job."""

    labels: Mapping[str, str]
    sort: str = ""  # a column, largest first
    link: str = ""


@frozen(kw_only=True)
class Timeline(Panel):
    """Spans of states."""

    words: Mapping[int, tuple[str, str]]


@frozen(kw_only=True)
class Row:
    title: str
    panels: Sequence[Panel]


@frozen(kw_only=True)
class Variable:
    """`query`: of Grafana's Prometheus data source. `several`: more than one may be chosen, or all."""

    name: str
    label: str
    text: str
    query: str
    several: bool = False
    newest_first: bool = False  # values are numbers
    hidden: bool = False


@frozen(kw_only=True)
class Board:
    """`file`: its name without .json; the uid is made of it, and stays. `window`: its queries use it."""

    file: str
    title: str
    text: str
    rows: Sequence[Row]
    variables: Sequence[Variable] = ()
    window: bool = False
    begin: str = "now-6h"

    @property
    def uid(self) -> str:
        return f"batchns-{self.file}"


SCRAPED = Variable(
    name="job",
    label="Job of Prometheus",
    text="The job of prometheus.yml that scrapes the daemon.",
    query="label_values(batchns_build_info, job)",
    hidden=True,
)
INSTANCE = Variable(
    name="instance",
    label="Machine",
    text="The daemon whose metrics are shown, as Prometheus names it.",
    query='label_values(batchns_build_info{job="$job"}, instance)',
)
QUEUES = Variable(
    name="queue",
    label="Queue",
    text="Queues that are looked at.",
    query='label_values(batchns_jobs{job="$job",instance="$instance"}, queue)',
    several=True,
)
USERS = Variable(
    name="user",
    label="User",
    text="Users whose jobs are looked at.",
    query='label_values(batchns_user_cpu_seconds_total{job="$job",instance="$instance",queue=~"$queue"}, user)',
    several=True,
)
JOBS = Variable(
    name="job_id",
    label="Job",
    text="The job, also one that was over within the time that is shown.",
    query='label_values(batchns_job_info{job="$job",instance="$instance",queue=~"$queue",user=~"$user"}, job_id)',
    newest_first=True,
)
