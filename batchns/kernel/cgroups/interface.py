"""What every cgroup driver offers, whatever the hierarchy version.

1. Limits are rendered to (file, value) pairs by a pure method before anything is written.
2. The result is read back from the kernel: a limit is what the file says, not what was asked.
3. Waiting is bounded: a freeze that the kernel does not confirm is rolled back.

The types that travel to the launcher are named tuples: it imports no attrs, not even through the result's types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from batchns.kernel.cgroups.sample import Sample, Texts
    from batchns.model.result import LimitReading, Usage


class Device(NamedTuple):
    """One device, or all of a major number, as device rules name it. `kind`: "c" or "b", as in ls -l."""

    kind: str
    major: int
    minor: int | None = None  # None: every one


class Limits(NamedTuple):
    """What to enforce; None: nothing asked. Bytes, CPU lists ("0-3,8"), kernel weights."""

    cpu_shares: int | None = None  # 2 to 262144
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    memory: int | None = None
    blkio_weight: int | None = None  # 10 to 1000
    pids: int | None = None
    devices: tuple[Device, ...] | None = None  # that may be read and written, and no other; none may be made


class Write(NamedTuple):
    """One value for one file. `limit` is the field of `Limits` it stems from ("" for plumbing)."""

    path: str
    value: str
    limit: str = ""
    required: bool = True  # a failure stops the launch; else it is said in the result


class DevicePlan(NamedTuple):
    """The device rules of one job, for v1 as values for files, for v2 as a program. `directory`: "" for no rules.

    Apart from the other values: they come into force when the sandbox is built, which needs devices of its own.
    """

    directory: str = ""
    writes: tuple[Write, ...] = ()  # v1
    program: str = ""  # v2: instructions, in hexadecimal digits


class CgroupPlan(NamedTuple):
    """All that the launcher needs to make, join, read and remove one job's cgroups. Absolute paths."""

    directories: tuple[str, ...] = ()  # to make, in this order; removed in reverse
    writes: tuple[Write, ...] = ()
    joins: tuple[str, ...] = ()  # files into which the child writes "0"
    into: str = ""  # v2 directory for CLONE_INTO_CGROUP ("" for none)
    unavailable: tuple[tuple[str, str], ...] = ()  # (limit, why) known before writing
    final_reads: tuple[str, ...] = ()  # usage files, read once more before removal
    devices: DevicePlan = DevicePlan()


class Squeezed(NamedTuple):
    """What became of `Driver.squeeze`."""

    holds: int | None  # bytes that the job may hold from now on: its limit. None: nothing was changed
    why: str = ""  # not, where it was not


class Driver(Protocol):
    """One job's cgroups are known by `name`: a plain file name, unique on the machine."""

    mode: str  # "v1", "v2" or "hybrid"

    def prepare(self) -> None:
        """Make the common parents and delegate controllers. Once, before the first plan.

        Raises:
            HostError: the hierarchy cannot be used, with what to do about it.
        """

    def bound(self, pids: int) -> None:
        """After `prepare`: processes and threads of all jobs together. Without effect where there is no controller."""

    def release(self) -> None:
        """Remove the common parents where nobody uses them any more."""

    def plan(self, name: str, limits: Limits) -> CgroupPlan:
        """Pure: directories, writes and joins for one job."""

    def readings(self, limits: Limits, plan: CgroupPlan, values: Mapping[str, str | int]) -> dict[str, LimitReading]:
        """Pure: what is in force, from what `actions.apply` read back ({path: text, or errno where it failed}).

        One entry for each limit that was asked for.
        """

    def usage(self, texts: Mapping[str, str]) -> Usage:
        """Pure: parse the texts of a plan's `final_reads` ({path: text}; a missing path: the host has no such file)."""

    def read_usage(self, name: str) -> Usage:
        """Usage of a live job.

        Raises:
            FileNotFoundError: there is no such job.
        """

    def sample_files(self, name: str) -> tuple[str, ...]:
        """Pure: what to read of a live job, for `sample`."""

    def sample(self, paths: Sequence[str], texts: Texts) -> Sample:
        """Pure: what the job uses now, of the texts of `paths` (None: no such file)."""

    def pids(self, name: str) -> list[int]:
        """Every process in the job's cgroups (empty when there is none)."""

    def freeze(self, name: str, timeout: float) -> bool:
        """Freeze; True once the kernel confirms. Within `timeout` seconds, else thawed again and False. Blocks."""

    def thaw(self, name: str, timeout: float) -> bool:
        """Thaw; True once the kernel confirms within `timeout` seconds. Blocks."""

    def kill(self, name: str, timeout: float) -> bool:
        """SIGKILL everything inside, frozen or not; True once it is empty within `timeout` seconds. Blocks."""

    def set_cpus(self, name: str, cpus: str, mems: str) -> LimitReading:
        """Let a live job, frozen or not, run on these CPUs and memory nodes ("0-3,8") only. Blocks.

        Frozen processes are there when they are thawed. Pages follow to other nodes, on v1 and v2, for which the
        kernel takes its time. Returns cpuset.cpus as read back; its value is None, with why, where the job has no
        cpuset: on v1 it gets one only if it was launched with one.

        Raises:
            OSError: the kernel refused: file and value, and all is as it was.
            FileNotFoundError: there is no such job.
        """

    def squeeze(self, name: str, timeout: float) -> Squeezed:
        """Take from a frozen job what memory the kernel can reclaim, and bound it to the rest. Blocks for `timeout` s.

        Page cache goes; anonymous memory stays, unswapped, and so do files in the job's tmpfs. Nothing is killed. The
        limit is then the usage and a small margin: what lies between that and the job's own limit is free for others.
        One step may outlast `timeout`, where dirty pages go to a slow disk. Nobody may thaw the job meanwhile, nor
        before `unsqueeze`.

        Raises:
            OSError: FileNotFoundError where there is no such job, else the file and the value.
        """

    def unsqueeze(self, name: str, memory: int | None) -> None:
        """Give a job its limit back (bytes; None: none), before it is thawed. May be called again, or in vain.

        Raises:
            OSError: FileNotFoundError where there is no such job, else the file and the value.
        """

    def jobs_cpu_seconds(self) -> float | None:
        """CPU time of all jobs below the common parent, of any run, those that ended included; None: not known."""

    def remove(self, name: str) -> None:
        """Remove the job's (empty) cgroups; what is not there is no error.

        Raises:
            OSError: EBUSY when a process is still inside.
        """

    def names(self) -> list[str]:
        """The jobs that have cgroups here, of any run: what a sweep looks at."""
