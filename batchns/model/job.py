"""What a user asks for: one job of a job file, checked and complete.

Frozen classes, no I/O. Sizes are bytes, rates bits per second, durations seconds. `None` means "not asked for";
defaults that depend on the node are filled in by `batchns.core`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from attrs import field, frozen

from batchns.model.reach import Target


class NetworkMode(Enum):
    """`private`: own namespace, veth and NAT; `none`: loopback only; `host`: the host's namespace."""

    PRIVATE = "private"
    NONE = "none"
    HOST = "host"


class PreemptMode(Enum):
    """What may be done to a job that something more urgent needs the place of."""

    SUSPEND = "suspend"
    REQUEUE = "requeue"
    CANCEL = "cancel"
    OFF = "off"


class Identity(Enum):
    """`self`: the submitter's uid; `root`: uid 0 inside; `private`: an id range of the job's own."""

    SELF = "self"
    ROOT = "root"
    PRIVATE = "private"


class Notice(Enum):
    """What may become of a job that is worth telling. A job that failed has ended, too."""

    STARTED = "started"
    FROZEN = "frozen"
    REQUEUED = "requeued"
    ENDED = "ended"  # over for good, as whatever
    FAILED = "failed"  # over for good, and neither COMPLETED nor cancelled

    def among(self, wanted: tuple[Notice, ...]) -> bool:
        """Whether somebody who wants to be told of these is told of this one."""
        return self in wanted or (self is Notice.FAILED and Notice.ENDED in wanted)


class Condition(Enum):
    """When a dependency is satisfied (Slurm's names and meanings)."""

    AFTER = "after"  # the other job has started
    AFTEROK = "afterok"  # it ended as COMPLETED
    AFTERNOTOK = "afternotok"  # it ended otherwise
    AFTERANY = "afterany"  # it ended
    AFTERCORR = "aftercorr"  # array to array: the task with the same index ended as COMPLETED
    SINGLETON = "singleton"  # no other job of this name and user is active; names nobody


@frozen
class Dependency:
    """One edge: this job waits for job `name` (all its array tasks) to meet `condition`."""

    condition: Condition
    name: str


@frozen
class Array:
    """Array tasks: `indices` in ascending order, at most `throttle` of them at a time (None: no bound)."""

    indices: tuple[int, ...]
    throttle: int | None = None


@frozen
class Bind:
    """A host folder or file seen inside the job. Both paths absolute and normalised."""

    source: str
    target: str
    read_only: bool = False


class ScratchOn(Enum):
    """Where the private /tmp is."""

    MEMORY = "memory"  # it counts as the job's
    DISK = "disk"  # counted by the node


@frozen(kw_only=True)
class Resources:
    """`cpus` is a whole number (exclusive CPUs) or a fraction below one (a share of a common CPU)."""

    cpus: float | None = None
    cpuset: tuple[int, ...] | None = None  # CPU numbers, ascending
    cpu_shares: int | None = None  # 2 to 262144, cpu.shares' scale
    memory: int | None = None
    blkio_weight: int | None = None  # 10 to 1000
    pids: int | None = None
    scratch: int | None = None  # size of the private /tmp
    scratch_on: ScratchOn = ScratchOn.MEMORY
    named: Mapping[str, int] = field(factory=dict)  # resources that batchns.toml names
    strict: bool | None = None  # refuse the job when a limit cannot be enforced here


@frozen(kw_only=True)
class Network:
    """`egress` and `ingress` in bits per second, seen from the job; None: no limit. `allow`: reached besides."""

    mode: NetworkMode = NetworkMode.PRIVATE
    egress: int | None = None
    ingress: int | None = None
    allow: tuple[Target, ...] = ()


@frozen(kw_only=True)
class Isolation:
    rootfs: str | None = None  # a folder or a squashfs image; None: the host's root, read-only
    rootfs_digest: str | None = None  # of the image: "sha256:" and 64 hexadecimal digits
    overlay: int | None = None  # bytes that may be written on top of rootfs; None: it is read-only
    binds: tuple[Bind, ...] = ()
    identity: Identity | None = None  # None: self for a user, private for root
    seccomp: str = "default"  # the built-in profile, or one that batchns.toml names
    apparmor: str | None = None  # a profile that batchns.toml allows; None: its own for all jobs, if it has one
    selinux_label: str | None = None  # the same


@frozen(kw_only=True)
class Preempt:
    mode: PreemptMode | None = None  # None: that of the queue
    grace_time: float | None = None  # between the asking signal and SIGKILL; None: the node's default


@frozen(kw_only=True)
class Slurm:
    """What a Slurm cluster alone heeds; each None: as the cluster or batchns.toml says."""

    account: str | None = None  # that the job is charged to
    qos: str | None = None
    constraint: str | None = None  # features of nodes: "intel&ssd"
    reservation: str | None = None
    nodes: int = 1  # each with all that [resources] asks for


@frozen
class WarnSignal:
    """A signal to the command some time before its time limit. `signal`: a number."""

    signal: int
    before: float


@frozen(kw_only=True)
class JobSpec:
    """One job as its file describes it.

    Exactly one of `command` and `script` is set. `cwd`, `stdout` and `stderr` are absolute; the last two may hold
    the patterns %x (name), %j (job id), %A (array's job id), %a (array index), %r (attempt), %% (a percent sign).
    """

    name: str
    command: tuple[str, ...] | None = None
    script: str | None = None
    cwd: str
    env: Mapping[str, str] = field(factory=dict)
    queue: str = "normal"
    priority: int = 50  # 0 to 100, larger first
    time_limit: float | None = None
    array: Array | None = None
    dependency: tuple[Dependency, ...] = ()
    max_retries: int = 0
    retry_delay: float = 0.0  # seconds before the first retry; twice as long before each further one
    retry_memory: float = 1.0  # factor for the memory of the attempt after one that ended as OUT_OF_MEMORY
    begin: float | None = None  # not before this moment, seconds since the epoch
    begin_after: float | None = None  # not before so many seconds after it was submitted
    deadline: float | None = None  # to be over by this moment, seconds since the epoch; cancelled when it cannot be
    deadline_after: float | None = None  # to be over by so many seconds after it was submitted
    hold: bool = False  # waits until it is released
    warn: WarnSignal | None = None
    stdout: str | None = None  # None: "%x-%j.out" beside the job file
    stderr: str | None = None  # None: "%x-%j.err" beside the job file
    notify: tuple[Notice, ...] | None = None  # of what batchns.toml says, only these; None: all of it
    resources: Resources = field(factory=Resources)
    network: Network = field(factory=Network)
    isolation: Isolation = field(factory=Isolation)
    preempt: Preempt = field(factory=Preempt)
    slurm: Slurm = field(factory=Slurm)
    source: str = ""  # "FILE:LINE" of the job, for messages
