"""Every metric by name: what is served, what dashboards and alerts may read, and what docs/metrics.md lists.

1. Base units: seconds, bytes, bytes per second. `_total` on counters and on nothing else.
2. Labels are bounded. `queue`, `outcome`, `reason` and the like have few values, known from the start, and are served
   as zeros before the first event, so that a rate and an alert see it.
3. A job's own series carry `job_id` and no other name of it; the rest comes from `batchns_job_info` by a join.
4. What a host cannot tell has no series: never a zero that looks like a reading.
"""

from __future__ import annotations

from enum import Enum

from attrs import frozen


class Type(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


@frozen
class Metric:
    """`name`: as it is written in a query; of a histogram without `_bucket`, `_sum`, `_count`. `buckets`: upper bounds,
    in `unit`, without the last one, which is infinite.
    """

    name: str
    type: Type
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""  # "" for a count, a flag or an info
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The names that are served."""
        if self.type is not Type.HISTOGRAM:
            return (self.name,)
        return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))


# Seconds. Waits and runs from a moment to weeks; calls from a tenth of a millisecond to seconds.
LONG = (0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 86400.0, 7 * 86400.0)
LAUNCH = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SHORT = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

# Values of labels that are not the administrator's.
DIRECTIONS = ("egress", "ingress")  # of network traffic, as the job sees it: what it sends, what it receives
IO_DIRECTIONS = ("read", "write")
CPU_MODES = ("user", "system")
ACTIONS = ("freeze", "thaw")
PREEMPTIONS = ("suspend", "reclaim", "requeue", "cancel")
RESOURCES = ("cpu", "memory", "io")
STALLS = ("some", "full")

_COUNTER, _GAUGE, _HISTOGRAM, _INFO = Type.COUNTER, Type.GAUGE, Type.HISTOGRAM, Type.INFO
_S, _B, _BS = "seconds", "bytes", "bytes per second"

NODE = (
    Metric(
        "batchns_build_info", _INFO, "The version that runs, and the cgroup hierarchies.", ("version", "cgroup_mode")
    ),
    Metric("batchns_jobs", _GAUGE, "Jobs that are not over, by state.", ("queue", "state")),
    Metric(
        "batchns_jobs_eligible",
        _GAUGE,
        "Waiting jobs that compete to start: not held, no begin or other job to wait for.",
        ("queue",),
    ),
    Metric(
        "batchns_jobs_startable",
        _GAUGE,
        "Waiting jobs that lack nothing but the next decision: some for a moment, then none.",
        ("queue",),
    ),
    Metric("batchns_node_open", _GAUGE, "1 while jobs are started, 0 while the node is drained."),
    Metric("batchns_jobs_submitted_total", _COUNTER, "Jobs submitted.", ("queue",)),
    Metric("batchns_jobs_started_total", _COUNTER, "Attempts whose command was executed.", ("queue",)),
    Metric("batchns_jobs_finished_total", _COUNTER, "Jobs that are over for good.", ("queue", "outcome")),
    Metric("batchns_job_wait_seconds", _HISTOGRAM, "Time in the queue, up to a start.", ("queue",), _S, LONG),
    Metric(
        "batchns_job_run_seconds", _HISTOGRAM, "Running time of an attempt, frozen time left out.", ("queue",), _S, LONG
    ),
    Metric(
        "batchns_job_launch_seconds",
        _HISTOGRAM,
        "Time of a launch in the launcher, from its request to the command's execution.",
        ("phase",),
        _S,
        LAUNCH,
    ),
    Metric("batchns_freezes_total", _COUNTER, "Freezes that the kernel has confirmed.", ("queue", "reason")),
    Metric("batchns_thaws_total", _COUNTER, "Thaws that the kernel has confirmed.", ("queue", "reason")),
    Metric(
        "batchns_freeze_failures_total",
        _COUNTER,
        "Freezes that the kernel did not confirm and that were undone, thaws that are tried again.",
        ("queue", "action", "reason"),
    ),
    Metric(
        "batchns_freeze_duration_seconds",
        _HISTOGRAM,
        "From the write until the kernel confirms.",
        ("action",),
        _S,
        SHORT,
    ),
    Metric("batchns_preemptions_total", _COUNTER, "What was done to jobs for others' sake.", ("queue", "mode")),
    Metric("batchns_capacity_cpus", _GAUGE, "CPUs to hand out."),
    Metric("batchns_allocated_cpus", _GAUGE, "CPUs handed out."),
    Metric("batchns_capacity_memory_bytes", _GAUGE, "Memory to hand out.", (), _B),
    Metric("batchns_allocated_memory_bytes", _GAUGE, "Memory handed out.", (), _B),
    Metric("batchns_frozen_memory_bytes", _GAUGE, "Memory that frozen jobs use.", (), _B),
    Metric(
        "batchns_frozen_memory_reserved_bytes",
        _GAUGE,
        "Memory that is kept for jobs that are frozen for others: their limits, or what they were bounded to.",
        (),
        _B,
    ),
    Metric(
        "batchns_frozen_memory_limit_bytes",
        _GAUGE,
        "Memory that may be kept so; beyond it nobody is frozen for others.",
        (),
        _B,
    ),
    Metric("batchns_capacity_network_bytes_per_second", _GAUGE, "Bandwidth to hand out.", ("direction",), _BS),
    Metric("batchns_allocated_network_bytes_per_second", _GAUGE, "Bandwidth handed out.", ("direction",), _BS),
    Metric(
        "batchns_pressure_seconds_total",
        _COUNTER,
        "Time in which tasks of the machine waited.",
        ("resource", "kind"),
        _S,
    ),
)
ACCOUNTING = (
    Metric("batchns_user_cpu_seconds_total", _COUNTER, "CPU time of a user's jobs.", ("user", "queue"), _S),
    Metric(
        "batchns_user_allocated_cpu_seconds_total",
        _COUNTER,
        "CPUs that a user's jobs had, by time.",
        ("user", "queue"),
        _S,
    ),
    Metric(
        "batchns_user_memory_peak_bytes_total",
        _COUNTER,
        "Peaks of memory of attempts that ended.",
        ("user", "queue"),
        _B,
    ),
    Metric(
        "batchns_user_memory_limit_bytes_total",
        _COUNTER,
        "Memory limits of attempts that ended.",
        ("user", "queue"),
        _B,
    ),
    Metric(
        "batchns_user_jobs_finished_total",
        _COUNTER,
        "Jobs that are over for good, by user.",
        ("user", "queue", "outcome"),
    ),
    Metric("batchns_user_share_ratio", _GAUGE, "The part of the machine that is a user's fair share.", ("user",)),
    Metric("batchns_user_usage_ratio", _GAUGE, "The part of what was used lately that a user had.", ("user",)),
)
DAEMON = (
    Metric("batchns_schedule_pass_seconds", _HISTOGRAM, "Time of a decision.", (), _S, SHORT),
    Metric(
        "batchns_api_request_seconds", _HISTOGRAM, "Time until an answer began.", ("route", "method", "code"), _S, SHORT
    ),
    Metric("batchns_store_commit_seconds", _HISTOGRAM, "Time until changes were durable.", (), _S, SHORT),
    Metric("batchns_store_errors_total", _COUNTER, "Changes that could not be recorded at first."),
    Metric("batchns_loop_lag_seconds", _HISTOGRAM, "By how much a timer of the event loop was late.", (), _S, LAG),
    Metric("batchns_collect_seconds", _HISTOGRAM, "CPU time of a scrape, in a thread.", (), _S, SHORT),
    Metric("batchns_snapshot_seconds", _HISTOGRAM, "Time that the event loop spent on a scrape.", (), _S, SHORT),
    Metric("batchns_collect_errors_total", _COUNTER, "Readings that failed.", ("source",)),
    Metric("batchns_jobs_without_series", _GAUGE, "Live jobs that have no series of their own: too many.", ()),
)
JOB = (
    Metric("batchns_job_info", _INFO, "Whose job it is.", ("job_id", "name", "user", "queue")),
    Metric("batchns_job_start_time_seconds", _GAUGE, "When the attempt started, since the epoch.", ("job_id",), _S),
    Metric("batchns_job_cpus", _GAUGE, "CPUs that it asked for.", ("job_id",)),
    Metric("batchns_job_cpu_seconds_total", _COUNTER, "CPU time.", ("job_id", "mode"), _S),
    Metric("batchns_job_cpu_throttled_seconds_total", _COUNTER, "Time in which it was throttled.", ("job_id",), _S),
    Metric("batchns_job_memory_usage_bytes", _GAUGE, "Memory, its cache included.", ("job_id",), _B),
    Metric(
        "batchns_job_memory_working_set_bytes", _GAUGE, "Memory without cache that is easily given up.", ("job_id",), _B
    ),
    Metric("batchns_job_memory_peak_bytes", _GAUGE, "Most memory so far.", ("job_id",), _B),
    Metric("batchns_job_memory_limit_bytes", _GAUGE, "Memory limit in force.", ("job_id",), _B),
    Metric("batchns_job_oom_kills_total", _COUNTER, "Processes that the kernel killed for memory.", ("job_id",)),
    Metric("batchns_job_tasks", _GAUGE, "Processes and threads.", ("job_id",)),
    Metric("batchns_job_io_bytes_total", _COUNTER, "Bytes of block I/O.", ("job_id", "direction"), _B),
    Metric("batchns_job_io_operations_total", _COUNTER, "Requests of block I/O.", ("job_id", "direction")),
    Metric("batchns_job_network_bytes_total", _COUNTER, "Bytes sent and received.", ("job_id", "direction"), _B),
    Metric("batchns_job_network_limit_bytes_per_second", _GAUGE, "Rates in force.", ("job_id", "direction"), _BS),
    Metric("batchns_job_network_drops_total", _COUNTER, "Packets that its shapers dropped.", ("job_id", "direction")),
    Metric(
        "batchns_job_frozen",
        _GAUGE,
        "1 from the kernel's confirmation of a freeze to that of its thaw, as the job table has it.",
        ("job_id",),
    ),
    Metric("batchns_job_frozen_seconds_total", _COUNTER, "Time frozen.", ("job_id",), _S),
    Metric(
        "batchns_job_pressure_seconds_total",
        _COUNTER,
        "Time in which its tasks waited.",
        ("job_id", "resource", "kind"),
        _S,
    ),
)

METRICS = {metric.name: metric for metric in (*NODE, *ACCOUNTING, *DAEMON, *JOB)}
