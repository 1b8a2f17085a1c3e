"""Queries, spelt once. `which` are label matchers as they are written: HERE, QUEUE, 'state="RUNNING"'.

`WINDOW` is the reader's choice, for what happens seldom: of one start in ten minutes a rate over one minute shows
nothing. `RATE` is Grafana's own, at least four scrapes.
"""

from __future__ import annotations

HERE = 'job="$job",instance="$instance"'
QUEUE = 'queue=~"$queue"'
USER = 'user=~"$user"'
JOB = 'job_id="$job_id"'
RATE = "$__rate_interval"
WINDOW = "$window"


def of(metric: str, *which: str) -> str:
    """The series of the machine that is looked at."""
    return f"{metric}{{{','.join((HERE, *which))}}}"


def last(metric: str, *which: str) -> str:
    """What the series had last within the time that is shown: also of what is over."""
    return f"last_over_time({of(metric, *which)}[$__range])"


def total(metric: str, *which: str, by: str = "") -> str:
    return f"sum{_by(by)}({of(metric, *which)})"


def greatest(metric: str, *which: str, by: str = "") -> str:
    """For one series of each `by`, without its other labels."""
    return f"max{_by(by)}({of(metric, *which)})"


def rate(metric: str, *which: str, by: str = "", window: str = RATE) -> str:
    """Per second."""
    return f"sum{_by(by)}(rate({of(metric, *which)}[{window}]))"


def increase(metric: str, *which: str, by: str = "", window: str = WINDOW) -> str:
    return f"sum{_by(by)}(increase({of(metric, *which)}[{window}]))"


def part(one: str, whole: str) -> str:
    """Nothing where there is no whole."""
    return f"{one} / ({whole} > 0)"


def quantile(part: float, metric: str, *which: str, by: str = "", window: str = WINDOW) -> str:
    """Of a histogram; `metric` without `_bucket`."""
    labels = ", ".join(filter(None, ("le", by)))
    return f"histogram_quantile({part}, {rate(f'{metric}_bucket', *which, by=labels, window=window)})"


def mean(metric: str, *which: str, by: str = "", window: str = WINDOW) -> str:
    """Of a histogram."""
    parts = (rate(f"{metric}_{part}", *which, by=by, window=window) for part in ("sum", "count"))
    return " / ".join(parts)


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else " "
