"""The daemon itself: whether it answers, records, decides and tells in time."""

from __future__ import annotations

from grafana.source.promql import RATE, increase, of, quantile, rate
from grafana.source.spec import INSTANCE, SCRAPED, Board, Query, Row, Series, Stat, Step, Unit

_API = "batchns_api_request_seconds"
_SCRAPE, _SNAPSHOT = "batchns_collect_seconds", "batchns_snapshot_seconds"
_BAD = (Step(1e-9, "red"),)


def _percentiles(metric: str, *parts: float) -> tuple[Query, ...]:
    return tuple(Query(quantile(part, metric, window=RATE), f"p{part * 100:.0f}") for part in parts)


NOW = Row(
    title="Now",
    panels=(
        Stat(
            title="Daemon",
            text="Whether the last scrape succeeded. If not: systemctl status batchns.",
            queries=(Query(of("up")),),
            width=4,
            words={0: ("down", "red"), 1: ("up", "green")},
        ),
        Stat(
            title="Version",
            text="The version that runs.",
            queries=(Query(of("batchns_build_info")),),
            width=4,
            label="version",
        ),
        Stat(
            title="cgroups",
            text="The hierarchies that it found: v1, v2 or hybrid.",
            queries=(Query(of("batchns_build_info")),),
            width=4,
            label="cgroup_mode",
        ),
        Stat(
            title="Not recorded at first",
            text="Changes that the store refused, within an hour; batchns node says why.",
            queries=(Query(increase("batchns_store_errors_total", window="1h")),),
            width=4,
            decimals=0,
            unit=Unit.PLAIN,
            steps=_BAD,
        ),
        Stat(
            title="Failed readings",
            text="Within an hour.",
            queries=(Query(increase("batchns_collect_errors_total", window="1h")),),
            width=4,
            decimals=0,
            unit=Unit.PLAIN,
            steps=_BAD,
        ),
        Stat(
            title="Jobs without series",
            text="Live jobs beyond metrics.max_jobs: they are counted, but have no dashboard.",
            queries=(Query(of("batchns_jobs_without_series")),),
            width=4,
            unit=Unit.PLAIN,
            steps=(Step(1, "orange"),),
        ),
    ),
)
API = Row(
    title="API",
    panels=(
        Series(
            title="Requests",
            text="Answers that began, by route.",
            queries=(Query(rate(f"{_API}_count", by="route"), "{{route}}"),),
            width=8,
            unit=Unit.REQUESTS,
            stacked=True,
        ),
        Series(
            title="Until an answer begins",
            text="All routes together.",
            queries=_percentiles(_API, 0.5, 0.95, 0.99),
            width=8,
            unit=Unit.SECONDS,
            logarithmic=True,
        ),
        Series(
            title="Errors",
            text="Within the time chosen above. 4xx are callers' mistakes, 5xx the daemon's: journalctl -u batchns.",
            queries=(Query(increase(f"{_API}_count", 'code=~"[45].."', by="code"), "{{code}}"),),
            width=8,
            stacked=True,
        ),
    ),
)
LOOP = Row(
    title="Loop and store",
    panels=(
        Series(
            title="Lag of the event loop",
            text="By how much a timer was late: everything that the daemon does waits for so long.",
            queries=_percentiles("batchns_loop_lag_seconds", 0.5, 0.99),
            width=6,
            unit=Unit.SECONDS,
            steps=(Step(0.25, "red"),),
        ),
        Series(
            title="Decisions",
            text="Time of a decision on who starts and who gives way.",
            queries=_percentiles("batchns_schedule_pass_seconds", 0.5, 0.99),
            width=6,
            unit=Unit.SECONDS,
        ),
        Series(
            title="Commits",
            text="Time until changes were durable.",
            queries=_percentiles("batchns_store_commit_seconds", 0.5, 0.99),
            width=6,
            unit=Unit.SECONDS,
        ),
        Series(
            title="How often",
            text="Decisions and commits.",
            queries=(
                Query(rate("batchns_schedule_pass_seconds_count"), "decisions"),
                Query(rate("batchns_store_commit_seconds_count"), "commits"),
            ),
            width=6,
            unit=Unit.PER_SECOND,
        ),
    ),
)
METRICS = Row(
    title="Metrics themselves",
    panels=(
        Series(
            title="Cost of a scrape",
            text="CPU time in the daemon, the longest that 95% took, beside the time that Prometheus saw.",
            queries=(
                Query(quantile(0.95, _SCRAPE, window="10m"), "CPU time, p95"),
                Query(quantile(0.95, _SNAPSHOT, window="10m"), "of the event loop, p95"),
                Query(of("scrape_duration_seconds"), "until the text was there"),
            ),
            width=8,
            unit=Unit.SECONDS,
        ),
        Series(
            title="Series",
            text="Series in a scrape, and live jobs that have none.",
            queries=(
                Query(of("scrape_samples_scraped"), "series"),
                Query(of("batchns_jobs_without_series"), "jobs without series"),
            ),
            width=8,
        ),
        Series(
            title="What failed",
            text="Within the time chosen above: readings, whose last values stay, and tries to record changes.",
            queries=(
                Query(increase("batchns_collect_errors_total", by="source"), "{{source}}"),
                Query(increase("batchns_store_errors_total"), "store"),
            ),
            width=8,
            stacked=True,
        ),
    ),
)
BOARD = Board(
    file="daemon",
    title="batchns: daemon",
    text="Whether the daemon answers, records, decides and tells in time.",
    variables=(SCRAPED, INSTANCE),
    window=True,
    rows=(NOW, API, LOOP, METRICS),
)
