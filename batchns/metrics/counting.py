"""What the loop tells of, as counts. Each call is a few additions: the loop waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from itertools import product

from attrs import define, field

from batchns.core import changes
from batchns.core.changes import Change
from batchns.core.job import Cause, FreezeCause, Job
from batchns.metrics.contract import ACTIONS, METRICS, PREEMPTIONS, Type
from batchns.metrics.meters import Meters
from batchns.model.job import PreemptMode
from batchns.model.lifecycle import State
from batchns.model.result import Usage

OUTCOMES = tuple(state.value for state in State if state.final)
REASONS = tuple(cause.value for cause in FreezeCause)
PHASES = ("base", "cgroup", "network", "mounts", "identity", "exec", "total")
_TOTALS = tuple(name for name, one in METRICS.items() if one.type is Type.COUNTER and one.labels == ("user", "queue"))
SOURCES = ("cgroup", "link", "shaper", "pressure")


@define(kw_only=True, eq=False)
class Counting:
    """See `supervise.ports.Metering`. `last_cpu`: CPU seconds that were last read of the attempt while it lived; its
    end may say less, or nothing. `last_of`: told of an attempt that is over, with what `ended` is told.

    What ran before these counts began is not in them: it has been told by the daemon before. `had`: CPU seconds that
    such jobs had had by then, by job. `first_cpu`: what was first read that such attempts had used.
    """

    meters: Meters
    last_cpu: Callable[[str], float | None] = lambda attempt: None
    last_of: Callable[[str, Job, Usage, Mapping[str, str]], None] = lambda attempt, job, usage, texts: None
    had: dict[str, float] = field(init=False, factory=dict)
    first_cpu: MutableMapping[str, float] = field(init=False, factory=dict)  # also changed by a scrape's thread
    _causes: dict[str, str] = field(init=False, factory=dict)  # of jobs that are being thawed: why they were frozen

    def begin(self, queues: Iterable[str]) -> None:
        """Everything of these queues is served, as zeros, before it happens."""
        names = tuple(queues)
        values = {
            "queue": names,
            "outcome": OUTCOMES,
            "reason": REASONS,
            "mode": PREEMPTIONS,
            "action": ACTIONS,
            "phase": PHASES,
            "source": SOURCES,
        }
        for metric in METRICS.values():
            counted = metric.type in (Type.COUNTER, Type.HISTOGRAM)
            if counted and "job_id" not in metric.labels and all(label in values for label in metric.labels):
                self.meters.begin(metric.name, product(*(values[label] for label in metric.labels)))

    def expect(self, jobs: Iterable[Job]) -> None:
        """What is of users and will come of these jobs is served, as zeros, before it happens."""
        for user in {(job.user, job.spec.queue) for job in jobs}:
            for name in _TOTALS:
                self.meters.begin(name, [user])
            self.meters.begin("batchns_user_jobs_finished_total", [(*user, outcome) for outcome in OUTCOMES])

    def adopt(self, jobs: Iterable[Job], now: float) -> None:
        """These have been counted by others so far."""
        self.had |= {job.id: job.done(now) * job.demand.cpus for job in jobs if job.run_base is not None}

    def submitted(self, jobs: Sequence[Job]) -> None:
        self.expect(jobs)
        for job in jobs:
            self.meters.add("batchns_jobs_submitted_total", (job.spec.queue,))

    def changed(self, change: Change, before: Job, after: Job) -> None:
        queue = (after.spec.queue,)
        match change:
            case changes.Launched():  # before it, the ledger ends with the last attempt
                waited = after.ledger.queued - before.ledger.queued
                self.meters.observe("batchns_job_wait_seconds", waited, queue)
            case changes.FreezeEnded(_, True) if before.frozen is not None:
                self.meters.add("batchns_freezes_total", (*queue, before.frozen.cause.value))
                if before.frozen.cause is FreezeCause.PREEMPTED:
                    self.meters.add("batchns_preemptions_total", (*queue, "suspend"))
            case changes.Thawing(job_id):  # from here on the job itself does not say what it was frozen for
                self._causes.setdefault(job_id, _cause(before))
            case changes.Thawed(job_id):
                self.meters.add("batchns_thaws_total", (*queue, self._causes.pop(job_id, _cause(before))))
            case changes.Reclaimed(_, held) if held is not None:
                self.meters.add("batchns_preemptions_total", (*queue, "reclaim"))
            case changes.Stopped(_, Cause.PREEMPTED):
                mode = "requeue" if after.mode is PreemptMode.REQUEUE else "cancel"
                self.meters.add("batchns_preemptions_total", (*queue, mode))
            case changes.Finished(job_id):
                self._causes.pop(job_id, None)
                if before.run_base is not None:
                    ran = after.ledger.running - before.run_base
                    self.meters.observe("batchns_job_run_seconds", ran, queue)
                    user = (after.user, *queue)
                    allocated = max(0.0, ran * before.demand.cpus - self.had.get(job_id, 0.0))
                    self.meters.add("batchns_user_allocated_cpu_seconds_total", user, allocated)

    def started(self, job: Job, phases: Mapping[str, float]) -> None:
        self.meters.add("batchns_jobs_started_total", (job.spec.queue,))
        for phase in PHASES:
            if phase in phases:
                self.meters.observe("batchns_job_launch_seconds", phases[phase], (phase,))

    def confirmed(self, action: str, seconds: float) -> None:
        self.meters.observe("batchns_freeze_duration_seconds", seconds, (action,))

    def failed(self, action: str, job: Job) -> None:
        reason = self._causes.get(job.id, _cause(job))
        self.meters.add("batchns_freeze_failures_total", (job.spec.queue, action, reason))

    def decided(self, seconds: float) -> None:
        self.meters.observe("batchns_schedule_pass_seconds", seconds)

    def ended(self, attempt: str, job: Job, usage: Usage, texts: Mapping[str, str]) -> None:
        user = (job.user, job.spec.queue)
        # Two files of the kernel's, which need not agree: before Linux 5.16 cpuacct.stat counts ticks.
        cpu = max((one for one in (usage.cpu_seconds, self.last_cpu(attempt)) if one is not None), default=None)
        self.last_of(attempt, job, usage, texts)
        adopted = self.had.pop(job.id, None) is not None
        if cpu is not None:
            # Of one that ended before it was ever read nobody knows what it has used since.
            before = self.first_cpu.setdefault(attempt, cpu) if adopted else 0.0
            self.meters.add("batchns_user_cpu_seconds_total", user, max(0.0, cpu - before))
        if usage.memory_peak_bytes is not None:
            self.meters.add("batchns_user_memory_peak_bytes_total", user, usage.memory_peak_bytes)
            self.meters.add("batchns_user_memory_limit_bytes_total", user, job.demand.memory)

    def concluded(self, job: Job) -> None:
        outcome = job.state.value
        self.meters.add("batchns_jobs_finished_total", (job.spec.queue, outcome))
        self.meters.add("batchns_user_jobs_finished_total", (job.user, job.spec.queue, outcome))


def _cause(job: Job) -> str:
    """Why it is frozen."""
    return (FreezeCause.PAUSE if job.frozen is None else job.frozen.cause).value
