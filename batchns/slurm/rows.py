"""From what Slurm, a submission's record and the node say of a job to the row and the details that are shown. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchns.slurm.mapping import output_path
from batchns.slurm.polled import Entry
from batchns.slurm.states import FINAL, LOST, reason_of, settled
from batchns.wire import types as wire

Table = Mapping[str, Any]


def row(entry: Entry, record: Table | None, result: Table | None, now: float) -> wire.JobRow:
    """`record`: of the submission; `result`: what the node has written; None where there is none."""
    asked, told = record or {}, result or {}
    over = entry.state in FINAL
    state = settled(entry.state, told.get("state")) if over else _state(entry, told)
    waits = state == "PENDING"
    started = None if waits else told.get("started") or (None if _never_ran(entry) else entry.started)
    ended = (entry.ended or told.get("ended") or entry.submitted) if over else None
    ran, stood, since = _seconds(entry, state, told, now)
    queued = max(0.0, (started or ended or entry.submitted) - entry.submitted)
    return wire.JobRow(
        id=entry.id,
        array_id=entry.array_id,
        index=entry.index,
        name=entry.name,
        user=entry.user,
        queue=asked.get("queue", entry.partition),
        state=state,
        reason=_reason(entry, state, told, over=over),
        priority=asked.get("priority", 50),
        attempt=max(1, told.get("attempts", 1)),
        cpus=asked.get("cpus", entry.cpus),
        memory=asked.get("memory", entry.memory),
        time_limit=asked.get("time_limit", entry.time_limit),
        submitted=entry.submitted,
        started=started,
        ended=ended,
        since=entry.submitted if waits else ended or since,
        queued_seconds=0.0 if waits else queued,
        running_seconds=ran,
        frozen_seconds=stood,
        cpu_list=entry.nodes,
        exit_code=told.get("exit_code", entry.exit_code) if over else None,
        signal=told.get("signal") if over else None,
    )


YOUNG = 60.0  # seconds after a submission in which Slurm may not show a job yet


def gone(record: Table, job_id: str, result: Table | None, now: float) -> wire.JobRow:
    """Of a job that Slurm does not show: what its node has written, or LOST, for nobody knows."""
    told = result or {}
    known = told.get("state") in FINAL
    submitted = record["submitted"]
    if not known and now - submitted < YOUNG:
        why = "it has just been submitted, and Slurm does not show it yet"
        return _of_record(record, job_id, state="PENDING", reason=why, since=submitted, queued_seconds=now - submitted)
    ended = told.get("ended") or submitted
    return _of_record(
        record,
        job_id,
        state=told["state"] if known else LOST,
        reason=told.get("reason", "") if known else "Slurm has forgotten it, and its node has left no result",
        attempt=max(1, told.get("attempts", 1)),
        started=told.get("started"),
        ended=ended,
        since=ended,
        queued_seconds=(told.get("started") or ended) - submitted,
        running_seconds=told.get("running_seconds") or 0.0,
        frozen_seconds=told.get("frozen_seconds", 0.0),
        exit_code=told.get("exit_code") if known else None,
        signal=told.get("signal") if known else None,
    )


def _of_record(record: Table, job_id: str, *, queued_seconds: float, **more: Any) -> wire.JobRow:
    """What was written down at the submission, and `more`."""
    array, _, index = job_id.partition("_")
    values: Table = {"attempt": 1, "running_seconds": 0.0, "frozen_seconds": 0.0, **more}
    return wire.JobRow(
        id=job_id,
        array_id=array,
        index=int(index) if index else None,
        **{name: record[name] for name in ("name", "user", "queue", "priority", "cpus", "memory", "time_limit")},
        submitted=record["submitted"],
        queued_seconds=max(0.0, queued_seconds),
        **values,
    )


def speaks(entry: Entry, told: Table) -> bool:
    """Does what the node has written tell of this run of the job, and of one that listens to signals?"""
    here = told.get("host") == entry.nodes and told.get("state") in ("RUNNING", "SUSPENDED")
    return here and told.get("since", 0.0) >= (entry.started or 0.0)


def _never_ran(entry: Entry) -> bool:
    return not entry.nodes and entry.ran == 0 and entry.state == "CANCELLED"


def _state(entry: Entry, told: Table) -> str:
    """Of one that is not over: Slurm knows nothing of our freezer."""
    frozen = entry.state == "RUNNING" and told.get("state") == "SUSPENDED" and speaks(entry, told)
    return "SUSPENDED" if frozen else entry.state


def _reason(entry: Entry, state: str, told: Table, *, over: bool) -> str:
    if state == "SUSPENDED":
        return "frozen by its user" if entry.state == "RUNNING" else "Slurm has suspended it"
    if over and state == told.get("state") and state != "CANCELLED" and told.get("reason"):
        return str(told["reason"])
    if entry.state == "RUNNING" or state == "COMPLETED":
        return ""
    if state == "CANCELLED" and entry.reason == "None":
        return "cancelled"
    return reason_of(entry.reason or "None")


def _seconds(entry: Entry, state: str, told: Table, now: float) -> tuple[float, float, float]:
    """Running and frozen up to a moment, and that moment."""
    if told.get("started") and "running_seconds" in told:
        return told["running_seconds"], told.get("frozen_seconds", 0.0), told["since"]
    if state == "RUNNING" and told.get("started"):
        return 0.0, 0.0, told["started"]
    return entry.ran, 0.0, now


def detail(made: wire.JobRow, record: Table | None, result: Table | None) -> wire.JobDetail:
    asked, told = record or {}, result or {}
    paths = [output_path(asked[name], made.name, made.id) if name in asked else None for name in ("stdout", "stderr")]
    happened = [wire.Happened(at=made.submitted, event="submitted", detail=f"to Slurm, as {made.array_id}")]
    happened += [
        wire.Happened(at=one["at"], event=one["event"], detail=one["detail"]) for one in told.get("happened", ())
    ]
    if made.ended is not None and told.get("state") not in FINAL:
        happened.append(wire.Happened(at=made.ended, event=made.state.lower(), detail=made.reason))
    return wire.JobDetail(
        row=made,
        spec=job_table(asked.get("spec", {})),
        source=asked.get("spec", {}).get("source", ""),
        limits={
            name: wire.Limit(value=one.get("value"), source=one.get("source", ""), why=one.get("why", ""))
            for name, one in told.get("limits", {}).items()
        },
        usage=told.get("usage", {}),
        stdout=paths[0],
        stderr=paths[1],
        pid=told.get("init") if made.ended is None else None,
        happened=tuple(happened),
    )


def job_table(spec: Table) -> dict[str, Any]:
    """A job of `model.portable` as a job file has it."""
    table = {name: value for name, value in spec.items() if name != "source"}
    if edges := table.get("dependency"):
        table["dependency"] = [word if not name else f"{word}:{name}" for word, name in edges]
    if resources := table.get("resources"):
        table["resources"] = {**resources, **resources.get("named", {})}
        table["resources"].pop("named", None)
    if binds := table.get("isolation", {}).get("binds"):
        shown = [f"{source}:{target}" + ":ro" * bool(only) for source, target, only in binds]
        table["isolation"] = {**table["isolation"], "binds": shown}
    table["network"] = {"mode": "private", **table.get("network", {})}
    return table
