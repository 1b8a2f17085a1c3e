"""One job: what it asked for beside what it uses."""

from __future__ import annotations

from grafana.source.promql import JOB, RATE, last, of, part, rate, total
from grafana.source.spec import (
    INSTANCE,
    JOBS,
    QUEUES,
    SCRAPED,
    USERS,
    Board,
    Query,
    Row,
    Series,
    Stat,
    Step,
    Table,
    Timeline,
    Unit,
)

_FROZEN = {0: ("running", "green"), 1: ("frozen", "blue")}
_BAD = (Step(1, "red"),)
_CPU, _ASKED = rate("batchns_job_cpu_seconds_total", JOB), total("batchns_job_cpus", JOB)


def _last(metric: str, by: str = "job_id") -> str:
    """Of its one series, also when the job is over."""
    return f"max by ({by}) ({last(metric, JOB)})"


def _per_second(metric: str) -> str:
    """Each of its series."""
    return f"rate({of(metric, JOB)}[{RATE}])"


NOW = Row(
    title="Job $job_id",
    panels=(
        Table(
            title="Whose it is",
            text="Name, owner and queue, and when the attempt that runs, or ran last, started.",
            queries=(
                Query(_last("batchns_job_info", by="job_id, name, user, queue")),
                Query(f"{_last('batchns_job_start_time_seconds')} * 1000", "Started", Unit.MOMENT),
                Query(_last("batchns_job_cpus"), "CPUs"),
                Query(_last("batchns_job_memory_limit_bytes"), "Memory", Unit.BYTES),
            ),
            width=12,
            height=4,
            labels={"job_id": "Job", "name": "Name", "user": "User", "queue": "Queue"},
        ),
        Stat(
            title="CPUs used",
            text="Now, as part of those that it asked for. A job that stays far below could ask for less, and start "
            "sooner.",
            queries=(Query(part(_CPU, _ASKED)),),
            width=3,
            unit=Unit.PART,
            decimals=0,
        ),
        Stat(
            title="Memory used",
            text="The most so far, as part of its limit.",
            queries=(Query(part(_last("batchns_job_memory_peak_bytes"), _last("batchns_job_memory_limit_bytes"))),),
            width=3,
            unit=Unit.PART,
            decimals=0,
            steps=(Step(0.9, "orange"), Step(1, "red")),
        ),
        Stat(
            title="Killed for memory",
            text="Processes of it that the kernel killed.",
            queries=(Query(_last("batchns_job_oom_kills_total")),),
            width=3,
            unit=Unit.PLAIN,
            steps=_BAD,
        ),
        Stat(
            title="Frozen so far",
            text="Its time limit stands still meanwhile.",
            queries=(Query(_last("batchns_job_frozen_seconds_total")),),
            width=3,
            unit=Unit.SECONDS,
        ),
    ),
)
CPU = Row(
    title="CPU and tasks",
    panels=(
        Timeline(
            title="Frozen or running",
            text="From the kernel's confirmation of a freeze to that of its thaw, as the job table has it.",
            queries=(Query(of("batchns_job_frozen", JOB), "state"),),
            width=24,
            height=4,
            words=_FROZEN,
        ),
        Series(
            title="CPU",
            text="CPUs in use, for its own code and in the kernel for it, beside those that it asked for.",
            queries=(
                Query(rate("batchns_job_cpu_seconds_total", JOB, by="mode"), "{{mode}}"),
                Query(of("batchns_job_cpus", JOB), "asked"),
            ),
            width=12,
            stacked=True,
            bounds=("asked",),
        ),
        Series(
            title="Throttled",
            text="Part of the time in which its threads had to stop, as they had used up what it may use.",
            queries=(Query(_per_second("batchns_job_cpu_throttled_seconds_total"), "throttled"),),
            width=6,
            unit=Unit.PART,
        ),
        Series(
            title="Tasks",
            text="Processes and threads.",
            queries=(Query(of("batchns_job_tasks", JOB), "tasks"),),
            width=6,
        ),
    ),
)
MEMORY = Row(
    title="Memory and waiting",
    panels=(
        Series(
            title="Memory",
            text="At the limit the kernel first takes cache back, then kills. The working set is what it cannot easily "
            "take.",
            queries=(
                Query(of("batchns_job_memory_usage_bytes", JOB), "usage"),
                Query(of("batchns_job_memory_working_set_bytes", JOB), "working set"),
                Query(of("batchns_job_memory_peak_bytes", JOB), "peak"),
                Query(of("batchns_job_memory_limit_bytes", JOB), "limit"),
            ),
            width=12,
            unit=Unit.BYTES,
            bounds=("limit",),
        ),
        Series(
            title="Pressure",
            text="Part of the time in which some, or all, of its tasks waited for a resource. Nothing on hosts whose "
            "cgroups do not tell.",
            queries=(Query(_per_second("batchns_job_pressure_seconds_total"), "{{resource}} {{kind}}"),),
            width=12,
            unit=Unit.PART,
        ),
    ),
)
IO = Row(
    title="Disk and network",
    panels=(
        Series(
            title="Disk",
            text="Bytes of block I/O; what the cache served is not in it.",
            queries=(Query(_per_second("batchns_job_io_bytes_total"), "{{direction}}"),),
            width=6,
            unit=Unit.BYTES_PER_SECOND,
        ),
        Series(
            title="Disk requests",
            text="Requests of block I/O.",
            queries=(Query(_per_second("batchns_job_io_operations_total"), "{{direction}}"),),
            width=6,
            unit=Unit.PER_SECOND,
        ),
        Series(
            title="Network",
            text="Egress is what it sends, ingress what it receives; dashed: what it may.",
            queries=(
                Query(_per_second("batchns_job_network_bytes_total"), "{{direction}}"),
                Query(of("batchns_job_network_limit_bytes_per_second", JOB, 'direction="egress"'), "egress limit"),
                Query(of("batchns_job_network_limit_bytes_per_second", JOB, 'direction="ingress"'), "ingress limit"),
            ),
            width=6,
            unit=Unit.BYTES_PER_SECOND,
            bounds=("egress limit", "ingress limit"),
        ),
        Series(
            title="Dropped packets",
            text="By the shaper that holds it to its rate: senders slow down by that.",
            queries=(Query(_per_second("batchns_job_network_drops_total"), "{{direction}}"),),
            width=6,
            unit=Unit.PER_SECOND,
        ),
    ),
)
BOARD = Board(
    file="job",
    title="batchns: job",
    text="One job: what it asked for beside what it uses. Jobs keep their series for a while after their end.",
    variables=(SCRAPED, INSTANCE, QUEUES, USERS, JOBS),
    begin="now-1h",
    rows=(NOW, CPU, MEMORY, IO),
)
