"""Everything that is known of one job, for `show`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from attrs import asdict

from batchns.core import changes
from batchns.core.job import FreezeCause, Job
from batchns.model.job import JobSpec, ScratchOn, Slurm
from batchns.model.reach import format_target
from batchns.model.result import LimitReading
from batchns.model.signals import signal_name
from batchns.store.interface import Entry, Stored
from batchns.supervise.account import Account
from batchns.supervise.attempt import Attempt
from batchns.supervise.node import format_cpu_list
from batchns.units import format_duration, format_rate, format_size
from batchns.wire import types as wire

# What an entry is called, by the change's class; those that are not here are of no interest to a job's owner.
_EVENTS: Mapping[type, str] = {
    changes.Launched: "launched",
    changes.Started: "started",
    changes.Freezing: "freezing",
    changes.FreezeEnded: "frozen",
    changes.Reclaimed: "memory reclaimed",
    changes.Thawed: "thawed",
    changes.ThawFailed: "thaw failed",
    changes.Warned: "warned of its time limit",
    changes.Stopped: "asked to end",
    changes.Killed: "killed",
    changes.Finished: "ended",
    changes.Requeued: "back in the queue",
    changes.Held: "held",
    changes.Released: "released",
    changes.Prioritised: "priority changed",
}


def detail(
    row: bytes, stored: Stored, account: Account | None, attempt: Attempt | None, job: Job | None
) -> wire.JobDetail:
    """`row`: the job's line. `account`, `attempt`, `job`: of one that is not over."""
    submitted = stored.submission.jobs[0]
    result = stored.ending.result if stored.ending else None
    limits: Mapping[str, LimitReading] = {}
    usage: dict[str, Any] = {}
    stdout = stderr = None
    if result is not None:
        limits, usage, stdout, stderr = result.limits, asdict(result.usage), result.stdout, result.stderr
    elif account is not None:
        limits, stdout, stderr = account.limits, account.stdout, account.stderr
        if attempt is not None:
            stdout, stderr = attempt.files
    running = attempt is not None and attempt.started is not None
    return wire.JobDetail(
        row=wire.JobRow(**json.loads(row)),
        spec=spec_table((job or submitted).spec),
        source=submitted.spec.source,
        limits={name: wire.Limit(**asdict(reading)) for name, reading in limits.items()},
        usage=usage,
        stdout=stdout,
        stderr=stderr,
        pid=attempt.started.pid if attempt is not None and attempt.started is not None else None,
        cgroup=_cgroup(attempt) if running and attempt is not None else "",
        happened=tuple(_happened(stored)),
    )


def _cgroup(attempt: Attempt) -> str:
    """Its folder; with several hierarchies the first that batchns made there."""
    folders = attempt.cgroup.directories
    return attempt.cgroup.into or next((one for one in folders if one.endswith(attempt.name)), attempt.name)


def _happened(stored: Stored) -> Iterator[wire.Happened]:
    yield wire.Happened(at=stored.submission.at, event="submitted")
    for entry in stored.entries:
        name = _EVENTS.get(type(entry.change))
        if name:
            yield wire.Happened(at=entry.at, event=_name(name, entry), detail=_said(entry))


def _name(name: str, entry: Entry) -> str:
    if isinstance(entry.change, changes.FreezeEnded) and not entry.change.confirmed:
        return "could not be frozen"
    return name


def _said(entry: Entry) -> str:
    match entry.change:
        case changes.Launched(_, placement):
            where = ",".join(map(str, placement.cpus))
            return f"on CPU {where}" if len(placement.cpus) == 1 else f"on CPUs {where}" if where else ""
        case changes.Freezing(_, cause, by, _):
            return f"for job {by}" if by else "by its owner" if cause is FreezeCause.OWNER else cause.value
        case changes.Reclaimed(_, held):
            return "" if held is None else f"down to {format_size(held)}"
        case changes.Stopped(_, cause, by, why):
            return why or (f"for job {by}" if by else cause.value)
        case changes.Finished(_, event, _):
            code, reason = entry.data.get("exit_code"), entry.data.get("reason", "")
            return reason or (event.value if code is None else f"exit code {code}")
        case changes.Prioritised(_, priority):
            return str(priority)
        case _:
            return ""


def spec_table(spec: JobSpec) -> dict[str, Any]:
    """The spec as a job file's table, with what was asked for only."""
    resources = spec.resources
    table: dict[str, Any] = {
        "name": spec.name,
        "command": list(spec.command) if spec.command else None,
        "script": spec.script,
        "cwd": spec.cwd,
        "env": dict(spec.env),
        "queue": spec.queue,
        "priority": spec.priority,
        "time_limit": _duration(spec.time_limit),
        "array": _array(spec),
        "dependency": [f"{edge.condition.value}:{edge.name}".rstrip(":") for edge in spec.dependency],
        "max_retries": spec.max_retries or None,
        "retry_delay": _duration(spec.retry_delay or None),
        "retry_memory": spec.retry_memory if spec.retry_memory != 1 else None,
        "begin": _moment(spec.begin, spec.begin_after),
        "deadline": _moment(spec.deadline, spec.deadline_after),
        "warn_signal": None if spec.warn is None else f"{signal_name(spec.warn.signal)}@{_duration(spec.warn.before)}",
        "stdout": spec.stdout,
        "stderr": spec.stderr,
        "hold": spec.hold or None,
        "notify": None if spec.notify is None else [notice.value for notice in spec.notify],
        "resources": {
            "cpus": resources.cpus,
            "cpuset": format_cpu_list(resources.cpuset) if resources.cpuset else None,
            "cpu_shares": resources.cpu_shares,
            "memory": _size(resources.memory),
            "blkio_weight": resources.blkio_weight,
            "pids": resources.pids,
            "scratch": _size(resources.scratch),
            "scratch_on": resources.scratch_on.value if resources.scratch_on is ScratchOn.DISK else None,
            "strict": resources.strict,
            **resources.named,
        },
        "network": {
            "mode": spec.network.mode.value,
            "egress": None if spec.network.egress is None else format_rate(spec.network.egress),
            "ingress": None if spec.network.ingress is None else format_rate(spec.network.ingress),
            "allow": [format_target(target) for target in spec.network.allow],
        },
        "isolation": {
            "rootfs": spec.isolation.rootfs,
            "rootfs_digest": spec.isolation.rootfs_digest,
            "overlay": _size(spec.isolation.overlay),
            "binds": [f"{bind.source}:{bind.target}{':ro' if bind.read_only else ''}" for bind in spec.isolation.binds],
            "identity": spec.isolation.identity.value if spec.isolation.identity else None,
            "seccomp": spec.isolation.seccomp if spec.isolation.seccomp != "default" else None,
            "apparmor": spec.isolation.apparmor,
            "selinux_label": spec.isolation.selinux_label,
        },
        "preempt": {
            "mode": spec.preempt.mode.value if spec.preempt.mode else None,
            "grace_time": _duration(spec.preempt.grace_time),
        },
        "slurm": asdict(spec.slurm) if spec.slurm != Slurm() else None,
    }
    return _without_nothing(table)


def _without_nothing(table: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in table.items():
        kept = _without_nothing(value) if isinstance(value, dict) else value
        if kept is not None and kept != {} and kept != []:
            found[key] = kept
    return found


def _array(spec: JobSpec) -> str | None:
    if spec.array is None:
        return None
    spans: list[list[int]] = []
    for index in spec.array.indices:
        if spans and spans[-1][1] == index - 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    text = ",".join(f"{low}-{high}" if high > low else str(low) for low, high in spans)
    return text if spec.array.throttle is None else f"{text}%{spec.array.throttle}"


def _duration(seconds: float | None) -> str | None:
    return None if seconds is None else format_duration(seconds)


def _moment(at: float | None, after: float | None) -> str | None:
    if at is not None:
        return datetime.fromtimestamp(at, UTC).isoformat()
    return None if after is None else f"+{format_duration(after)}"


def _size(size: int | None) -> str | None:
    return None if size is None else format_size(size)
