"""Users and queues: who has more than a fair share, who wastes what was asked for, who waits."""

from __future__ import annotations

from grafana.source.promql import QUEUE, USER, WINDOW, increase, of, part, quantile, rate, total
from grafana.source.spec import INSTANCE, QUEUES, SCRAPED, USERS, Board, Query, Row, Series, Step, Table, Unit

_CPU, _HAD = "batchns_user_cpu_seconds_total", "batchns_user_allocated_cpu_seconds_total"
_PEAK, _LIMIT = "batchns_user_memory_peak_bytes_total", "batchns_user_memory_limit_bytes_total"
_FINISHED = "batchns_user_jobs_finished_total"
_SHARE, _USAGE = "batchns_user_share_ratio", "batchns_user_usage_ratio"
_WASTE = "A user far below could ask for less, and start sooner: batchns usage says for how much."


def _since_start(metric: str, *which: str) -> str:
    return total(metric, QUEUE, USER, *which, by="user")


def _lately(used: str, asked: str) -> str:
    return part(increase(used, QUEUE, USER, by="user"), increase(asked, QUEUE, USER, by="user"))


NOW = Row(
    title="Users",
    panels=(
        Table(
            title="Since the daemon started",
            text="Share and usage are parts of the machine and of what was used lately; the rest is counted from the "
            "daemon's start.",
            queries=(
                Query(_since_start(_HAD), "CPU time had", Unit.SECONDS),
                Query(f"sum by (user) ({of(_SHARE, USER)})", "Share", Unit.PART),
                Query(f"sum by (user) ({of(_USAGE, USER)})", "Usage", Unit.PART),
                Query(part(_since_start(_CPU), _since_start(_HAD)), "CPU used", Unit.PART),
                Query(part(_since_start(_PEAK), _since_start(_LIMIT)), "Memory used", Unit.PART),
                Query(_since_start(_FINISHED), "Finished", Unit.PLAIN),
                Query(_since_start(_FINISHED, 'outcome!="COMPLETED"'), "Not completed", Unit.PLAIN),
            ),
            width=24,
            labels={"user": "User"},
            sort="CPU time had",
        ),
        Series(
            title="Usage",
            text="The part that each user had of what was used lately. Older use counts less: fair_share.half_life.",
            queries=(Query(of(_USAGE, USER), "{{user}}"),),
            width=12,
            unit=Unit.PART,
            stacked=True,
            maximum=1,
        ),
        Series(
            title="Usage beside share",
            text="Above 1 a user had more than the fair share, and others go first.",
            queries=(Query(part(of(_USAGE, USER), of(_SHARE, USER)), "{{user}}"),),
            width=12,
            steps=(Step(1, "orange"),),
        ),
    ),
)
CPU = Row(
    title="CPU and efficiency",
    panels=(
        Series(
            title="CPUs used",
            text="By user.",
            queries=(Query(rate(_CPU, QUEUE, USER, by="user"), "{{user}}"),),
            width=6,
            stacked=True,
        ),
        Series(
            title="CPUs had",
            text="By user, whether they were used or not.",
            queries=(Query(rate(_HAD, QUEUE, USER, by="user"), "{{user}}"),),
            width=6,
            stacked=True,
        ),
        Series(
            title="CPU efficiency",
            text=f"CPU time used, as part of that had. {_WASTE}",
            queries=(Query(_lately(_CPU, _HAD), "{{user}}"),),
            width=6,
            unit=Unit.PART,
        ),
        Series(
            title="Memory efficiency",
            text=f"Peaks of attempts that ended, as part of their limits. {_WASTE}",
            queries=(Query(_lately(_PEAK, _LIMIT), "{{user}}"),),
            width=6,
            unit=Unit.PART,
            maximum=1,
        ),
    ),
)
QUEUE_ROW = Row(
    title="Queues",
    panels=(
        Series(
            title="Running",
            text="Jobs whose command runs, by queue.",
            queries=(Query(total("batchns_jobs", QUEUE, 'state="RUNNING"', by="queue"), "{{queue}}"),),
            width=6,
            stacked=True,
        ),
        Series(
            title="Waiting",
            text="Jobs in the queue, beside those that compete to start: not held, no time or job to wait for.",
            queries=(
                Query(total("batchns_jobs", QUEUE, 'state="PENDING"', by="queue"), "{{queue}}"),
                Query(total("batchns_jobs_eligible", QUEUE, by="queue"), "{{queue}}: competing"),
            ),
            width=6,
        ),
        Series(
            title="Time in the queue, median",
            text="Of jobs that started within the time chosen above.",
            queries=(Query(quantile(0.5, "batchns_job_wait_seconds", QUEUE, by="queue"), "{{queue}}"),),
            width=6,
            unit=Unit.SECONDS,
            logarithmic=True,
        ),
        Series(
            title="Time in the queue, p95",
            text="One job in twenty waited longer.",
            queries=(Query(quantile(0.95, "batchns_job_wait_seconds", QUEUE, by="queue"), "{{queue}}"),),
            width=6,
            unit=Unit.SECONDS,
            logarithmic=True,
        ),
    ),
)
FINISHED = Row(
    title="Finished",
    panels=(
        Series(
            title="By outcome",
            text="Jobs that came to their end within the time chosen above.",
            queries=(Query(increase("batchns_jobs_finished_total", QUEUE, by="outcome") + " > 0", "{{outcome}}"),),
            width=8,
            stacked=True,
        ),
        Series(
            title="By user",
            text="Jobs that came to their end within the time chosen above.",
            queries=(Query(increase(_FINISHED, QUEUE, USER, by="user"), "{{user}}"),),
            width=8,
            stacked=True,
        ),
        Series(
            title="Running time",
            text="Of attempts that ended, frozen time left out; the median of each queue.",
            queries=(Query(quantile(0.5, "batchns_job_run_seconds", QUEUE, by="queue", window=WINDOW), "{{queue}}"),),
            width=8,
            unit=Unit.SECONDS,
            logarithmic=True,
        ),
    ),
)
BOARD = Board(
    file="users",
    title="batchns: users and queues",
    text="Who has more than a fair share, who wastes what was asked for, who waits.",
    variables=(SCRAPED, INSTANCE, QUEUES, USERS),
    window=True,
    begin="now-24h",
    rows=(NOW, CPU, QUEUE_ROW, FINISHED),
)
