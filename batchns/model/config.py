"""What batchns.toml says of the node: every setting with the default that works on a laptop.

Frozen classes, no I/O. Sizes are bytes, rates bits per second, durations seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network

from attrs import field, frozen

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
class Queue:
    priority: int = 50  # 0 to 100; a job of a larger one always goes first


@frozen(kw_only=True)
class NetworkSettings:
    pool: str = "10.213.0.0/16"  # one address per running job
    pool6: str = "fd62:6e73:d5::/64"  # the same for IPv6, where the host has it; "": no IPv6
    nat: bool = True  # jobs reach the outside through the host's address
    mtu: int = 1500
    outside: tuple[Range, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))  # what every job reaches there
    allow: tuple[Target, ...] = (Jobs(),)  # what a job may ask for beside that
    dns: tuple[str, ...] = ()  # name servers of jobs; (): the host's


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


@frozen(kw_only=True)
class CgroupSettings:
    """`parent` None: below batchns's own cgroup where that is possible, else below the root."""

    parent: str | None = None


@frozen(kw_only=True)
class Paths:
    state: str = "/var/lib/batchns"
    run: str = "/run/batchns"


@frozen(kw_only=True)
class Config:
    node: Node = field(factory=Node)
    defaults: Defaults = field(factory=Defaults)
    queues: Mapping[str, Queue] = field(factory=lambda: {"normal": Queue()})
    network: NetworkSettings = field(factory=NetworkSettings)
    isolation: IsolationSettings = field(factory=IsolationSettings)
    cgroup: CgroupSettings = field(factory=CgroupSettings)
    paths: Paths = field(factory=Paths)
