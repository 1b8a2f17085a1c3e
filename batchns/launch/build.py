"""From a decision to a launch plan: the pure function between policy and launcher.

The plan's mounts read as the sandbox's checklist: devices, memory file systems, process and system information, what is
hidden of it; then what is the job's own, and last what it may reach of the host.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping

from attrs import field, frozen

from batchns.errors import UserError
from batchns.kernel.cgroups.interface import CgroupPlan, Device
from batchns.kernel.network.types import NetworkPlan
from batchns.launch.ids import identify, identity_of
from batchns.launch.plan import Base, Command, Mount, Plan, Rootfs, Version
from batchns.launch.sandbox import SCRIPT
from batchns.model.job import Bind, Identity, JobSpec
from batchns.model.submitter import ROOT, Submitter

_TERMINALS = 64  # pseudo terminals of a job: the machine has 3072 for all of them (kernel.pty.max, kernel.pty.reserve)
_OOM_SCORE_ADJ = 500  # a job goes before the machine's own services; init stays at 0
# The same whoever started batchns. A core of at most one byte is none, and, other than 0, none for a program that
# core_pattern names either, which the kernel would start as root and outside of the job: fs/coredump.c.
_RLIMITS = (
    (resource.RLIMIT_CORE, 1, 1),
    (resource.RLIMIT_MEMLOCK, 8 << 20, 8 << 20),
    (resource.RLIMIT_NOFILE, 1024, 524288),
    (resource.RLIMIT_MSGQUEUE, 819200, 819200),
    (resource.RLIMIT_NICE, 0, 0),
    (resource.RLIMIT_RTPRIO, 0, 0),
)

READ_ONLY = tuple(f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger"))
MASKED = (
    *(
        f"/proc/{name}"
        for name in (
            *("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list"),
            *("timer_stats", "kallsyms", "slabinfo", "vmallocinfo", "iomem"),
        )
    ),
    *("/sys/firmware", "/sys/devices/virtual/powercap", "/sys/kernel/debug", "/sys/kernel/tracing"),
)
MQUEUE = "/proc/sys/fs/mqueue"
SCRATCH = ("/tmp", "/var/tmp")
WRITABLE = (*SCRATCH, "/run", "/dev", "/proc")  # of every sandbox
MAY_MASK = (*READ_ONLY, *MASKED, MQUEUE)  # what `host_paths` is asked about

# A job may not put a bind where it would uncover or replace what the sandbox itself provides.
_RESERVED = ("/", "/proc", "/sys", "/dev", "/run")


@frozen(kw_only=True)
class Slot:
    """What one running job has of the node for itself alone, by number: an id range and an address."""

    number: int
    id_start: int  # first of 65536 host ids
    address: str  # dotted quad ("" where the pool is not used)


@frozen(kw_only=True)
class Attempt:
    """One attempt of one job, decided and placed.

    `name` is unique on the machine (at most 11 letters, digits, dashes): every kernel object's name derives from it.
    `variables` are batchns's own environment variables (BATCHNS_JOB_ID and the like).
    """

    name: str
    job_id: str
    spec: JobSpec
    submitter: Submitter = ROOT
    slot: Slot
    cgroup: CgroupPlan
    network: NetworkPlan
    record: str  # path of the exit record
    scratch: int  # bytes
    usual_scratch: int  # bytes: what the prepared sandboxes have
    disk: str = ""  # path of the file that has its scratch
    seccomp: str = ""  # path of the compiled filter
    ahead: str = ""  # the attempt to prepare a sandbox for, once this one runs
    root: bool = True  # batchns has root's rights
    landlock: bool = True  # where the kernel has it
    confined: tuple[tuple[str, str], ...] = ()  # see `Command`
    images: tuple[str, ...] = ()  # folders whose images users may have as a root
    image: Version | None = None  # of its rootfs, whose digest was checked
    variables: Mapping[str, str] = field(factory=dict)
    nodes: tuple[tuple[str, Device], ...] = ()  # device nodes of its own, by their paths below /dev
    covers: tuple[tuple[str, str], ...] = ()  # (file of the root, file of the host that takes its place)


def host_paths() -> frozenset[str]:
    """Which of the paths that a plan may mask exist on this host (the one look outside that `build` needs)."""
    return frozenset(path for path in MAY_MASK if os.path.exists(path))


def base(host_paths: frozenset[str], scratch: int, *, root: bool = True, own_network: bool = True) -> Base:
    """What the sandboxes of this host have in common. Pure.

    `host_paths`: which of `MAY_MASK` exist. `scratch`: the usual size of /tmp in bytes; a job may have another.
    `root`: batchns has root's rights; else the device nodes are the host's. `own_network`: see `Base`.
    """
    return Base(
        (
            Mount("dev", "/dev", "" if root else "/dev", options=("mode=755", "size=64k")),
            Mount("devpts", "/dev/pts", options=("mode=620", "ptmxmode=666", f"max={_TERMINALS}")),
            Mount("tmpfs", "/dev/shm", options=("mode=1777",)),
            *((Mount("mqueue", "/dev/mqueue"),) if MQUEUE in host_paths else ()),
            *(Mount("tmpfs", path, options=("mode=1777", f"size={scratch}")) for path in SCRATCH),
            Mount("tmpfs", "/run", options=("mode=1777", "size=16m")),
            Mount("proc", "/proc"),
            Mount("sysfs", "/sys", options=("ro",)),
            *(Mount("readonly", path) for path in READ_ONLY if path in host_paths),
            *(Mount("mask", path) for path in MASKED if path in host_paths),
        ),
        own_network=own_network,
    )


def build(attempt: Attempt, *, host_paths: frozenset[str]) -> Plan:
    """The plan for `attempt`. `host_paths`: which of `MAY_MASK` exist on this host. Pure.

    Raises:
        UserError: the job asks for something that this version does not do, by name.
    """
    spec = attempt.spec
    rootfs = spec.isolation.rootfs
    alone = attempt.network.mode != "host"
    common = base(host_paths, attempt.usual_scratch, root=attempt.root, own_network=alone)
    identified = identify(attempt.submitter, spec.isolation.identity, attempt.slot.id_start, root=attempt.root)
    return Plan(
        attempt=attempt.name,
        ahead=attempt.ahead,
        hostname=_hostname(spec.name),
        base=common if rootfs is None else Base(host_root=False, own_network=alone),
        cgroup=attempt.cgroup,
        network=attempt.network,
        rootfs=None if rootfs is None else _rootfs(attempt, rootfs),
        mounts=(*(common.mounts if rootfs else ()), *_mounts(attempt, shifted=bool(identified.shift.uids))),
        ids=identified.ids,
        shift=identified.shift,
        credentials=identified.credentials,
        command=_command(attempt),
        seccomp=attempt.seccomp,
        record=attempt.record,
        writable=_writable(attempt) if attempt.landlock else (),
    )


def _writable(attempt: Attempt) -> tuple[str, ...]:
    """Beneath these paths of the sandbox the job may write; () where it may everywhere."""
    if attempt.spec.isolation.overlay:
        return ()
    return (*WRITABLE, *(bind.target for bind in _binds(attempt.spec) if not bind.read_only))


def _rootfs(attempt: Attempt, rootfs: str) -> Rootfs:
    version = () if attempt.image is None else tuple(attempt.image)
    return Rootfs(rootfs, attempt.spec.isolation.overlay or 0, _may_be_image(attempt, rootfs), version)


def _may_be_image(attempt: Attempt, rootfs: str) -> bool:
    return attempt.submitter.is_root or not attempt.root or any(_inside(rootfs, folder) for folder in attempt.images)


def _mounts(attempt: Attempt, *, shifted: bool) -> tuple[Mount, ...]:
    """What is this job's own: the size of its memory file systems, and what it reaches of the host."""
    other_size = attempt.scratch != attempt.usual_scratch and not attempt.disk
    return (
        *((Mount("nodes", "/dev", options=tuple(map(_node, attempt.nodes))),) if attempt.nodes else ()),
        *(Mount("resize", path, options=(f"size={attempt.scratch}",)) for path in SCRATCH if other_size),
        *((Mount("disk", SCRATCH[0], attempt.disk, SCRATCH),) if attempt.disk else ()),
        *(Mount("cover", target, source) for target, source in attempt.covers),
        *(_bind(bind, shifted=shifted) for bind in _binds(attempt.spec)),
    )


def _node(node: tuple[str, Device]) -> str:
    path, device = node
    return f"{path.removeprefix('/dev/')} {device.kind} {device.major} {device.minor}"


def _binds(spec: JobSpec) -> tuple[Bind, ...]:
    """The working folder first, unless a bind of the job's own provides it or it is part of the read-only root.

    Sorted by target, so that a bind below another one is not covered by it.
    """
    binds = list(spec.isolation.binds)
    provided = any(_inside(spec.cwd, bind.target) for bind in binds)
    if not provided and not any(_inside(spec.cwd, path) for path in _RESERVED[1:]) and spec.cwd != "/":
        binds.append(Bind(spec.cwd, spec.cwd))
    for bind in binds:
        if bind.target in _RESERVED:
            raise UserError(f"job {spec.name}: nothing can be bound to {bind.target}", "choose another target")
    return tuple(sorted(binds, key=lambda bind: bind.target.count("/")))


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _bind(bind: Bind, *, shifted: bool) -> Mount:
    options = (*(("idmap",) if shifted else ()), *(("ro",) if bind.read_only else ()))
    return Mount("bind", bind.target, bind.source, options)


def _command(attempt: Attempt) -> Command:
    spec = attempt.spec
    argv = spec.command or (SCRIPT,)
    if spec.script is not None and not spec.script.startswith("#!"):
        argv = ("/bin/sh", SCRIPT)
    return Command(
        argv=argv,
        env=tuple(sorted(_environment(attempt).items())),
        cwd=spec.cwd,
        script=spec.script or "",
        rlimits=_RLIMITS,
        oom_score_adj=_OOM_SCORE_ADJ,
        confined=attempt.confined,
    )


def _environment(attempt: Attempt) -> dict[str, str]:
    """Built afresh: nothing of the caller's environment is in it."""
    user = attempt.submitter
    itself = identity_of(user, attempt.spec.isolation.identity) is Identity.SELF
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "SHELL": user.shell if itself else "/bin/sh",
        "USER": user.name if itself else "root",
        "LOGNAME": user.name if itself else "root",
        "LANG": "C.UTF-8",
        "PWD": attempt.spec.cwd,
        **attempt.variables,
        **attempt.spec.env,
    }


def _hostname(name: str) -> str:
    """A host name of the job's name: letters, digits and dashes (hostname(7)), at most 63."""
    text = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
    return text.strip("-")[:63] or "job"
