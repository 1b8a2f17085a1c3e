"""What is known of a job when it is over: the record that `--json` prints, one object per job."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from batchns.model.lifecycle import State


@frozen
class LimitReading:
    """One limit as the kernel holds it.

    `value` is in the limit's base unit (bytes, bits per second, a weight, a CPU list), read back from the kernel;
    None where there is no such limit in force, and `why` says why. `source` is the kernel's name for it.
    """

    value: int | str | None
    source: str = ""
    why: str = ""


@frozen(kw_only=True)
class Usage:
    """What a job used. None where the host cannot tell; never a zero that looks like a reading."""

    cpu_seconds: float | None = None
    memory_peak_bytes: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    net_sent_bytes: int | None = None
    net_received_bytes: int | None = None
    oom_kills: int | None = None


@frozen(kw_only=True)
class JobResult:
    job_id: str
    name: str
    state: State
    exit_code: int | None = None
    signal: str | None = None  # "SIGKILL"
    reason: str = ""
    attempts: int = 1
    queued_seconds: float = 0.0
    running_seconds: float = 0.0
    frozen_seconds: float = 0.0
    usage: Usage = field(factory=Usage)
    stdout: str | None = None
    stderr: str | None = None
    limits: Mapping[str, LimitReading] = field(factory=dict)
