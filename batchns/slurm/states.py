"""Slurm's words for states and reasons, and what they are here. Pure."""

from __future__ import annotations

from collections.abc import Mapping

LOST = "LOST"
FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", LOST})
_SAME = ("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", *sorted(FINAL - {LOST}))
_STATES: Mapping[str, str] = {
    **{name: name for name in _SAME},
    "CONFIGURING": "STARTING",
    "REQUEUED": "PENDING",
    "REQUEUE_HOLD": "PENDING",
    "REQUEUE_FED": "PENDING",
    "SIGNALING": "RUNNING",
    "RESIZING": "RUNNING",
    "STAGE_OUT": "COMPLETING",
    "STOPPED": "SUSPENDED",
    "BOOT_FAIL": "NODE_FAIL",
    "DEADLINE": "TIMEOUT",
    "REVOKED": "CANCELLED",
    "SPECIAL_EXIT": "FAILED",
}
_REASONS: Mapping[str, str] = {
    "None": "",
    "Priority": "waits for jobs that go first",
    "Resources": "waits for room on the cluster",
    "Dependency": "waits for other jobs",
    "DependencyNeverSatisfied": "waits for what will never be: what it depends on has ended otherwise",
    "BeginTime": "waits for its begin",
    "JobHeldUser": "waits: it is held",
    "JobHeldAdmin": "waits: an administrator holds it",
    "JobArrayTaskLimit": "waits for its array: as many tasks run as may at a time",
    "ReqNodeNotAvail": "waits for nodes that are down or reserved",
    "Licenses": "waits for a licence",
    "PartitionDown": "waits: its partition is down",
    "PartitionInactive": "waits: its partition starts no jobs",
    "PartitionNodeLimit": "waits: it asks for more nodes than its partition allows",
    "PartitionTimeLimit": "waits: its time limit is more than its partition allows",
    "NodeDown": "waits: a node that it needs is down",
    "Reservation": "waits for its reservation",
    "NonZeroExitCode": "",
    "JobLaunchFailure": "its node could not start it",
    "TimeLimit": "time limit reached",
    "OutOfMemory": "memory limit reached",
    "RaisedSignal": "ended by a signal",
}
_BEGINNINGS = (
    ("QOS", "waits for a limit of its quality of service"),
    ("Assoc", "waits for a limit of its account"),
    ("MaxCpuPerAccount", "waits for a limit of its account"),
)


def state_of(word: str) -> str:
    """Of squeue's %T, or sacct's "CANCELLED by 1000"."""
    name = word.split(" ")[0].rstrip("+")
    return _STATES.get(name, name)


def reason_of(word: str) -> str:
    """Of squeue's %r, as a sentence; "" where there is none."""
    known = _REASONS.get(word)
    if known is not None:
        return known
    for beginning, text in _BEGINNINGS:
        if word.startswith(beginning):
            return f"{text} ({word})"
    return f"Slurm says {word}"


def settled(slurms: str, nodes: str | None) -> str:
    """The state of a job that is over, of what Slurm and the node say of it.

    | Slurm     | node                 | state |
    |---|---|---|
    | COMPLETED | any                  | COMPLETED |
    | FAILED    | over, not COMPLETED  | the node's: it knows a time limit, or memory, from an exit code |
    | any other | any                  | Slurm's |
    """
    if slurms == "FAILED" and nodes in FINAL and nodes != "COMPLETED":
        return str(nodes)
    return slurms
