"""The machine: what it has to hand out, who has it, who waits, who gave way."""

from __future__ import annotations

from grafana.source.promql import HERE, QUEUE, RATE, WINDOW, greatest, increase, of, part, quantile, rate, total
from grafana.source.spec import INSTANCE, QUEUES, SCRAPED, Board, Query, Row, Series, Stat, Step, Table, Unit

_CPUS, _MEMORY = "batchns_capacity_cpus", "batchns_capacity_memory_bytes"
_KEPT = "batchns_frozen_memory_reserved_bytes"
_LAUNCH = "batchns_job_launch_seconds"
_FULL = (Step(0.8, "yellow"), Step(0.95, "red"))
_PHASE_SECONDS = rate(f"{_LAUNCH}_sum", 'phase!="total"', by="phase", window=WINDOW)
_LAUNCHES = rate(f"{_LAUNCH}_count", 'phase="total"', window=WINDOW)  # not all of them have every phase
# Its queue is a label of the job's info alone.
_BUSIEST = (
    f"topk(20, {rate('batchns_job_cpu_seconds_total', by='job_id')} and on (job_id) {of('batchns_job_info', QUEUE)})"
)


def _jobs(state: str) -> str:
    return total("batchns_jobs", QUEUE, f'state=~"{state}"')


def _of_busiest(query: str) -> str:
    return f"{query} and on (job_id) ({_BUSIEST})"


def _bandwidth(direction: str) -> tuple[Query, Query]:
    which = f'direction="{direction}"'
    return (
        Query(of("batchns_allocated_network_bytes_per_second", which), direction),
        Query(of("batchns_capacity_network_bytes_per_second", which), f"{direction} capacity"),
    )


NOW = Row(
    title="Now",
    panels=(
        Stat(
            title="Daemon",
            text="Whether the last scrape of the daemon succeeded. Jobs run on while it is down.",
            queries=(Query(of("up")),),
            width=3,
            words={0: ("down", "red"), 1: ("up", "green")},
        ),
        Stat(
            title="Node",
            text="Drained: nothing starts, what runs goes on; batchns resume opens it again.",
            queries=(Query(of("batchns_node_open")),),
            width=3,
            words={0: ("drained", "orange"), 1: ("open", "green")},
        ),
        Stat(
            title="Running",
            text="Jobs whose command runs.",
            queries=(Query(_jobs("RUNNING")),),
            width=2,
            unit=Unit.PLAIN,
        ),
        Stat(
            title="Waiting",
            text="Jobs in the queue, for whatever reason.",
            queries=(Query(_jobs("PENDING")),),
            width=2,
            unit=Unit.PLAIN,
        ),
        Stat(
            title="Competing",
            text="Waiting jobs that compete to start: they lack room, or their queue, user or array has what it may.",
            queries=(Query(total("batchns_jobs_eligible", QUEUE)),),
            width=3,
            unit=Unit.PLAIN,
        ),
        Stat(
            title="Frozen",
            text="Jobs that are frozen, or are about to be.",
            queries=(Query(_jobs("SUSPENDED|SUSPENDING")),),
            width=2,
            unit=Unit.PLAIN,
        ),
        Stat(
            title="CPUs handed out",
            text="Part of the CPUs that jobs have, whether they use them or not.",
            queries=(Query(f"{of('batchns_allocated_cpus')} / {of(_CPUS)}"),),
            width=3,
            unit=Unit.PART,
            decimals=0,
        ),
        Stat(
            title="Memory handed out",
            text="Part of the memory that jobs have asked for.",
            queries=(Query(f"{of('batchns_allocated_memory_bytes')} / {of(_MEMORY)}"),),
            width=3,
            unit=Unit.PART,
            decimals=0,
        ),
        Stat(
            title="Frozen memory",
            text="What is kept for frozen jobs, as part of what may be. At 100% nobody is frozen for others.",
            queries=(Query(part(of(_KEPT), of("batchns_frozen_memory_limit_bytes"))),),
            width=3,
            unit=Unit.PART,
            decimals=0,
            steps=_FULL,
        ),
    ),
)
JOBS = Row(
    title="Jobs",
    panels=(
        Series(
            title="Jobs by state",
            text="Jobs that are not over.",
            queries=(Query(total("batchns_jobs", QUEUE, by="state") + " > 0", "{{state}}"),),
            width=12,
            stacked=True,
        ),
        Series(
            title="Submitted, started, finished",
            text="Jobs within the time chosen above. Attempts count as started: more than finished, where repeated.",
            queries=(
                Query(increase("batchns_jobs_submitted_total", QUEUE), "submitted"),
                Query(increase("batchns_jobs_started_total", QUEUE), "started"),
                Query(increase("batchns_jobs_finished_total", QUEUE), "finished"),
            ),
            width=12,
        ),
    ),
)
CAPACITY = Row(
    title="Handed out",
    panels=(
        Series(
            title="CPUs",
            text="CPUs that jobs have, and use, beside those that there are. Used may be more than had: shares are "
            "weights, not bounds.",
            queries=(
                Query(of("batchns_allocated_cpus"), "handed out"),
                Query(rate("batchns_user_cpu_seconds_total"), "used"),
                Query(of(_CPUS), "capacity"),
            ),
            width=8,
            bounds=("capacity",),
        ),
        Series(
            title="Memory",
            text="Memory that jobs have asked for, and use, beside what there is.",
            queries=(
                Query(of("batchns_allocated_memory_bytes"), "handed out"),
                Query(total("batchns_job_memory_usage_bytes"), "used"),
                Query(of(_MEMORY), "capacity"),
            ),
            width=8,
            unit=Unit.BYTES,
            bounds=("capacity",),
        ),
        Series(
            title="Bandwidth",
            text="Rates that jobs have asked for. There is nothing where batchns.toml says no egress and ingress.",
            queries=(*_bandwidth("egress"), *_bandwidth("ingress")),
            width=8,
            unit=Unit.BYTES_PER_SECOND,
            bounds=("egress capacity", "ingress capacity"),
        ),
    ),
)
WAITING = Row(
    title="How long it takes",
    panels=(
        Series(
            title="Time in the queue",
            text="Of jobs that started within the time chosen above.",
            queries=tuple(
                Query(quantile(one, "batchns_job_wait_seconds", QUEUE), f"p{one * 100:.0f}") for one in (0.5, 0.9, 0.99)
            ),
            width=8,
            unit=Unit.SECONDS,
            logarithmic=True,
        ),
        Series(
            title="Launch",
            text="In the launcher: from its request to the execution of the command.",
            queries=tuple(
                Query(quantile(one, _LAUNCH, 'phase="total"'), f"p{one * 100:.0f}") for one in (0.5, 0.9, 0.99)
            ),
            width=8,
            unit=Unit.SECONDS,
        ),
        Series(
            title="Launch by phase",
            text="What each phase adds to a launch, in the mean; phases that were done ahead add nothing.",
            queries=(Query(f"{_PHASE_SECONDS} / scalar({_LAUNCHES})", "{{phase}}"),),
            width=8,
            unit=Unit.SECONDS,
            stacked=True,
        ),
    ),
)
PREEMPTION = Row(
    title="Giving way",
    panels=(
        Series(
            title="Preemptions",
            text="Within the time chosen above, for others' sake: frozen, memory taken back, requeued or cancelled.",
            queries=(Query(increase("batchns_preemptions_total", QUEUE, by="mode"), "{{mode}}"),),
            width=6,
            stacked=True,
        ),
        Series(
            title="Freezes and thaws",
            text="Within the time chosen above, by reason; and those that the kernel did not confirm.",
            queries=(
                Query(increase("batchns_freezes_total", QUEUE, by="reason"), "freeze: {{reason}}"),
                Query(increase("batchns_thaws_total", QUEUE, by="reason"), "thaw: {{reason}}"),
                Query(increase("batchns_freeze_failures_total", QUEUE, by="action"), "failed: {{action}}"),
            ),
            width=6,
        ),
        Series(
            title="Until the kernel confirms",
            text="95% of freezes and thaws took no longer.",
            queries=(Query(quantile(0.95, "batchns_freeze_duration_seconds", by="action"), "{{action}}"),),
            width=6,
            unit=Unit.SECONDS,
        ),
        Series(
            title="Memory of frozen jobs",
            text="What frozen jobs use, what is kept for them, and what may be at most: schedule.frozen_memory.",
            queries=(
                Query(of("batchns_frozen_memory_bytes"), "used"),
                Query(of(_KEPT), "kept"),
                Query(of("batchns_frozen_memory_limit_bytes"), "limit"),
            ),
            width=6,
            unit=Unit.BYTES,
            bounds=("limit",),
        ),
    ),
)
MACHINE = Row(
    title="Machine",
    panels=(
        Series(
            title="Pressure",
            text="Part of the time in which some, or all, tasks of the machine waited for a resource.",
            queries=(Query(f"rate(batchns_pressure_seconds_total{{{HERE}}}[{RATE}])", "{{resource}} {{kind}}"),),
            width=10,
            height=10,
            unit=Unit.PART,
            steps=(Step(0.5, "orange"),),
        ),
        Table(
            title="Busiest jobs",
            text="The 20 jobs that use the most CPU.",
            queries=(
                Query(_of_busiest(greatest("batchns_job_info", by="job_id, name, user, queue"))),
                Query(_BUSIEST, "CPUs used"),
                Query(_of_busiest(greatest("batchns_job_cpus", by="job_id")), "CPUs"),
                Query(_of_busiest(greatest("batchns_job_memory_usage_bytes", by="job_id")), "Memory", Unit.BYTES),
                Query(_of_busiest(greatest("batchns_job_memory_limit_bytes", by="job_id")), "Limit", Unit.BYTES),
            ),
            width=14,
            height=10,
            labels={"job_id": "Job", "name": "Name", "user": "User", "queue": "Queue"},
            sort="CPUs used",
            link="job_id",
        ),
    ),
)
BOARD = Board(
    file="node",
    title="batchns: node",
    text="What the machine has to hand out, who has it, who waits and who gave way.",
    variables=(SCRAPED, INSTANCE, QUEUES),
    window=True,
    rows=(NOW, JOBS, CAPACITY, WAITING, PREEMPTION, MACHINE),
)
