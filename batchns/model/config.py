"""What batchns.toml says of the node: every setting with the default that works on a laptop.

Frozen classes, no I/O. Sizes are bytes, rates bits per second, durations seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from attrs import evolve, field, fields, frozen

from batchns.model.job import Notice, PreemptMode
from batchns.model.reach import Jobs, Range, Target


@frozen(kw_only=True)
class Units:
    """A named resource whose units can be told apart: each is one or more device nodes, known by their paths.

    `common`: nodes that every job with at least one unit gets. `env`: a variable that lists the units of the job.
    """

    devices: tuple[tuple[str, ...], ...]
    common: tuple[str, ...] = ()
    env: str | None = None


@frozen(kw_only=True)
class Node:
    """What there is to hand out. None: what the machine has (for rates: not counted)."""

    cpus: tuple[int, ...] | None = None  # CPU numbers that jobs may use
    memory: int | None = None
    egress: int | None = None
    ingress: int | None = None
    pids: int | None = None  # processes and threads of all jobs together; None: what leaves room for the machine's own
    scratch_folder: str | None = None  # root's, on a disk; None: scratch is in memory only
    scratch_capacity: int | None = None  # bytes of it for all jobs; None: what is free there, less a tenth
    resources: Mapping[str, int | Units] = field(factory=dict)  # named ones: how many there are, or their device nodes
    strict: bool = False  # refuse a job when one of its limits cannot be enforced here

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each named resource."""
        named = self.resources.items()
        return {name: len(found.devices) if isinstance(found, Units) else found for name, found in named}

    @property
    def units(self) -> dict[str, Units]:
        """The named resources that have device nodes."""
        return {name: found for name, found in self.resources.items() if isinstance(found, Units)}


@frozen(kw_only=True)
class Defaults:
    """What a job gets that does not ask. `memory` None: the node's memory per CPU, times the job's CPUs."""

    cpus: float = 1.0
    memory: int | None = None
    pids: int = 4096
    scratch: int = 1 << 30
    time_limit: float | None = None
    grace_time: float = 10.0  # between SIGTERM and SIGKILL


@frozen(kw_only=True)
class Bound:
    """The most of each that something may have; None: no bound. `jobs`: at a time, in any active state."""

    jobs: int | None = None
    cpus: float | None = None
    memory: int | None = None
    egress: int | None = None
    ingress: int | None = None
    time_limit: float | None = None  # of one job, as the two below are
    pids: int | None = None
    scratch: int | None = None


class Backfill(Enum):
    """Whether a job may start before one that goes first but has to wait, and which of several does."""

    OFF = "off"  # strictly in order
    SUBMITTED = "submitted"  # in order, whoever delays no reservation
    SHORTEST = "shortest"  # the shortest first, whoever delays no reservation


class Order(Enum):
    """What decides between jobs of the same queue and job priority, after fair share."""

    SUBMITTED = "submitted"
    SHORTEST = "shortest"  # what is soonest over, with aging


class Preemption(Enum):
    """Who may take a running job's place."""

    OFF = "off"
    QUEUES = "queues"  # jobs of queues that say so (`Queue.preempts`)
    SHORTER = "shorter"  # besides: a job of the same queue that is sooner over, where order is `shortest`


@frozen(kw_only=True)
class ScheduleSettings:
    """How the queue is worked through. `docs/scheduling.md` says what each does to whom."""

    order: Order = Order.SUBMITTED
    aging: float = 0.01  # order = shortest: how much waiting shortens a job's rank; 0: not at all
    backfill: Backfill = Backfill.SUBMITTED
    reservations: int | None = 1  # for the first so many waiting jobs; None: for all of them
    preempt: Preemption = Preemption.QUEUES
    assume: float = 86400.0  # expected seconds of a job without time limit and history
    learn: bool = True  # expectations also from what the user's earlier jobs took
    max_frozen: float = 172800.0  # seconds one job may be frozen for others, in all; more than `assume`
    max_freezes: int = 20  # how often one job may be frozen for other jobs
    min_run: float = 0.0  # seconds a job runs before it may be preempted
    frozen_memory: int | None = None  # bytes that frozen jobs may hold together; None: half of the node's
    time_slice: float | None = None  # seconds after which a job gives way to a waiting equal; None: never


@frozen(kw_only=True)
class FairShare:
    """Who has used less goes first, among jobs of the same queue and job priority."""

    enabled: bool = True
    half_life: float = 604800.0  # seconds in which past use counts half
    shares: Mapping[str, float] = field(factory=dict)  # by user name; 1 for those that are not in it


@frozen(kw_only=True)
class Neighbour:
    """When jobs of queues with `yields` are frozen for what is not batchns's. CPUs' shares of the node, 0 to 1."""

    freeze_above: float = 0.5  # what others use of the node's CPUs
    thaw_below: float = 0.25
    seconds: float = 10.0  # for so long without interruption


@frozen(kw_only=True)
class Queue:
    """`users`, `groups`: who may use it; both empty: everyone. `preempts`: queues whose jobs give way to its own."""

    priority: int = 50  # 0 to 100; a job of a larger one always goes first
    max_priority: int = 100  # of a job in it
    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    preempts: tuple[str, ...] = ()
    preempt_mode: PreemptMode = PreemptMode.SUSPEND  # what happens to its own jobs, where they do not say
    min_run: float | None = None  # None: as in [schedule]
    max_frozen: float | None = None  # None: as in [schedule]
    yields: bool = False  # its jobs are frozen while the machine is busy with what is not batchns's
    defaults: Mapping[str, Any] = field(factory=dict)  # fields of `Defaults` that differ in this queue
    notify: Mapping[str, Any] = field(factory=dict)  # fields of `NotifySettings` that differ in this queue
    per_job: Bound = field(factory=Bound)
    per_user: Bound = field(factory=Bound)
    total: Bound = field(factory=Bound)

    def most(self, key: str) -> float | None:
        """The most of `key`, a field of `Bound`, that one job can have: beyond it, it would wait for ever."""
        return self._most.get(key)

    @cached_property
    def _most(self) -> dict[str, float]:
        """By key, where there is a bound."""
        found: dict[str, float] = {}
        for bound in (self.per_job, self.per_user, self.total):
            for attribute in fields(Bound):
                value = getattr(bound, attribute.name)
                if value is not None:
                    found[attribute.name] = min(value, found.get(attribute.name, value))
        return found


@frozen(kw_only=True)
class NetworkSettings:
    pool: str = "10.213.0.0/16"  # one address per running job
    pool6: str = "fd62:6e73:d5::/64"  # the same for IPv6, where the host has it; "": no IPv6
    nat: bool = True  # jobs reach the outside through the host's address
    mtu: int = 1500
    outside: tuple[Range, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))  # what every job reaches there
    allow: tuple[Target, ...] = (Jobs(),)  # what a job may ask for beside that
    dns: tuple[str, ...] = ()  # name servers of jobs; (): the host's
    host: bool = False  # jobs may share the host's network


@frozen(kw_only=True)
class IsolationSettings:
    """`id_start` and `id_ranges`: ranges of 65536 user ids each, one per running job.

    `subid_owner`: whose subordinate ids are used instead. `seccomp`: profiles that jobs may name, by name their paths.
    """

    id_start: int = 1_000_000_000
    id_ranges: int = 4096
    subid_owner: str | None = None
    seccomp: Mapping[str, str] = field(factory=dict)
    images: tuple[str, ...] = ()  # folders whose squashfs images users may have as a root
    landlock: bool = True  # where the kernel has it
    apparmor: str | None = None  # the profile of jobs that name none; None: they are under batchns's own
    apparmor_allow: tuple[str, ...] = ()  # profiles that jobs may name besides
    selinux_label: str | None = None  # the same for SELinux
    selinux_allow: tuple[str, ...] = ()

    @property
    def apparmor_names(self) -> tuple[str, ...]:
        """Profiles that a job may name."""
        return _and(self.apparmor, self.apparmor_allow)

    @property
    def selinux_names(self) -> tuple[str, ...]:
        """Labels that a job may name."""
        return _and(self.selinux_label, self.selinux_allow)


def _and(first: str | None, rest: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(rest if first is None else (first, *rest)))


@frozen(kw_only=True)
class CgroupSettings:
    """`parent` None: below batchns's own cgroup where that is possible, else below the root."""

    parent: str | None = None


@frozen(kw_only=True)
class Paths:
    state: str = "/var/lib/batchns"
    run: str = "/run/batchns"


class See(Enum):
    """Whose jobs a user sees in lists."""

    OWN = "own"
    ALL = "all"


@frozen(kw_only=True)
class Admins:
    """Who may do with everybody's jobs what only their owners may, and drain the node. Root always may."""

    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@frozen(kw_only=True)
class Tls:
    """Where the daemon listens beside its socket. Only clients with a certificate that `ca` signed are listened to."""

    listen: tuple[str, int]  # host, port
    certificate: str
    key: str
    ca: str
    users: Mapping[str, str] = field(factory=dict)  # by the name in a certificate; those not in it: the name itself


@frozen(kw_only=True)
class DaemonSettings:
    """How the daemon can be reached, and who may do what. `socket` None: see `Config.socket`."""

    socket: str | None = None
    admins: Admins = field(factory=Admins)
    see: See = See.OWN
    tls: Tls | None = None
    connections: int = 100  # of one user at a time


@frozen(kw_only=True)
class HistorySettings:
    keep: float = 7776000.0  # seconds that jobs which are over are known for


@frozen(kw_only=True)
class OutputSettings:
    """Files that jobs' output goes to. `max_size`: bytes on disk of one file; None: no bound."""

    max_size: int | None = 1 << 30
    mode: int = 0o600  # of a file that is made


@frozen(kw_only=True)
class NotifySettings:
    """A command that is run, as a job's owner, when something has become of the job. `command` (): none is."""

    command: tuple[str, ...] = ()
    on: tuple[Notice, ...] = (Notice.ENDED,)
    time_limit: float = 30.0


class Engine(Enum):
    """Where jobs go."""

    LOCAL = "local"  # this machine's daemon
    SLURM = "slurm"  # a cluster


@frozen(kw_only=True)
class SlurmSettings:
    """How jobs go to a Slurm cluster. `program` None: the Python that submits. `folder`: ~ is the user's home."""

    partitions: Mapping[str, str] = field(factory=dict)  # by queue
    gres: Mapping[str, str] = field(factory=lambda: {"gpus": "gpu"})  # by named resource
    bandwidth: str = "bw"  # the gres of bandwidth, in mbit
    account: str | None = None
    folder: str = "~/.local/state/batchns/slurm"
    program: str | None = None
    overhead: int = 64 << 20  # bytes beside a job's own


@frozen(kw_only=True)
class EngineSettings:
    """Where jobs go that do not say."""

    default: Engine = Engine.LOCAL


@frozen(kw_only=True)
class MetricsSettings:
    """What Prometheus is told, and where. `listen`: (address, port); None: at the daemon's socket only.

    `max_jobs`: how many jobs have series of their own; `linger`: seconds for which a job that is over keeps them.
    """

    listen: tuple[str, int] | None = None
    max_jobs: int = 1000
    linger: float = 60.0
    names: bool = True


@frozen(kw_only=True)
class Config:
    node: Node = field(factory=Node)
    defaults: Defaults = field(factory=Defaults)
    queues: Mapping[str, Queue] = field(factory=lambda: {"normal": Queue()})
    schedule: ScheduleSettings = field(factory=ScheduleSettings)
    fair_share: FairShare = field(factory=FairShare)
    neighbour: Neighbour = field(factory=Neighbour)
    network: NetworkSettings = field(factory=NetworkSettings)
    isolation: IsolationSettings = field(factory=IsolationSettings)
    cgroup: CgroupSettings = field(factory=CgroupSettings)
    paths: Paths = field(factory=Paths)
    daemon: DaemonSettings = field(factory=DaemonSettings)
    history: HistorySettings = field(factory=HistorySettings)
    output: OutputSettings = field(factory=OutputSettings)
    notify: NotifySettings = field(factory=NotifySettings)
    metrics: MetricsSettings = field(factory=MetricsSettings)
    engine: EngineSettings = field(factory=EngineSettings)
    slurm: SlurmSettings = field(factory=SlurmSettings)

    @property
    def socket(self) -> str:
        """The path of the daemon's socket."""
        return self.daemon.socket or f"{self.paths.run.rstrip('/')}/batchns.sock"

    def notify_of(self, queue: str) -> NotifySettings:
        """What is run for jobs of `queue`: what the queue says, else [notify]."""
        return evolve(self.notify, **self.queues[queue].notify)

    def defaults_of(self, queue: str) -> Defaults:
        """What a job of `queue` gets that does not ask: the queue's own, else [defaults], never more than it may have.

        `memory` None means what it means in `Defaults`; that it is not more either is then for the caller to heed.
        """
        known = self.queues[queue]
        defaults = evolve(self.defaults, **known.defaults) if known.defaults else self.defaults
        cpus, memory, longest = (known.most(key) for key in ("cpus", "memory", "time_limit"))
        if cpus is not None and defaults.cpus > cpus:
            defaults = evolve(defaults, cpus=float(int(cpus)) if cpus >= 1 else cpus)
        if memory is not None and defaults.memory is not None:
            defaults = evolve(defaults, memory=int(min(memory, defaults.memory)))
        if longest is not None:
            defaults = evolve(defaults, time_limit=min(longest, defaults.time_limit or longest))
        for key in ("pids", "scratch"):
            if (most := known.most(key)) is not None:
                defaults = evolve(defaults, **{key: int(min(most, getattr(defaults, key)))})
        return defaults
