"""The launch plan: one job's sandbox as data, in the order in which it is built.

1. A plan says everything and decides nothing: the launcher and init only perform it.
2. `build` is pure: the same attempt on the same node gives the same plan.
3. A plan travels as JSON in one message, so it is made of named tuples, strings and numbers.
"""

from __future__ import annotations

import json
import marshal
import os
from typing import Any, NamedTuple

from batchns.kernel.cgroups.interface import CgroupPlan, DevicePlan, Write
from batchns.kernel.network.types import NetworkPlan


class Mount(NamedTuple):
    """One operation on the new root. `kind` names the operation in `sandbox.OPERATIONS`.

    `source` and `target` are absolute; `target` is inside the new root. `options` are the operation's own.
    """

    kind: str
    target: str = ""
    source: str = ""
    options: tuple[str, ...] = ()


class Base(NamedTuple):
    """The part of a sandbox that is the same for many jobs, so that it can be built before anybody asks for it.

    `host_root`: the root is the host's; else it is the job's own, and made when the job is known. `own_network`: a
    network namespace of its own; else it stays in the host's.
    """

    mounts: tuple[Mount, ...] = ()
    host_root: bool = True
    own_network: bool = True


class Version(NamedTuple):
    """Which file it is, and as it was when. `changed`: ns since the epoch, of the inode's last change."""

    device: int
    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, found: os.stat_result) -> Version:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns)


class Rootfs(NamedTuple):
    """A root of the job's own: a folder or an image, and the bytes that may be written on top of it (0: none).

    `image`: it may be one, which the kernel then reads; of anybody but root only one that nobody but root can change.
    `version`: it has to be this one; empty: whatever there is.
    """

    source: str
    overlay: int = 0
    image: bool = False
    version: tuple[int, ...] = ()


class IdMap(NamedTuple):
    """`length` ids from `inside` in the job are those from `outside` on the host."""

    inside: int
    outside: int
    length: int


class Ids(NamedTuple):
    """The two maps of a user namespace; empty ones mean that there is none."""

    uids: tuple[IdMap, ...] = ()
    gids: tuple[IdMap, ...] = ()


class Owner(NamedTuple):
    """A user of the host by number."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


class Credentials(NamedTuple):
    """Who runs the command: `uid` and `gid` are ids inside the job's user namespace, `groups` ids of the host.

    `init` is another id than the command's, so that it cannot be touched; without root there is but one. `groups`:
    None for those of batchns itself, which nobody but root can change. What a path of the job's names is looked up as
    `submitter`. `owner`: the host's number of whom the user namespace belongs to; -1: to batchns itself.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] | None = ()
    init: int = 65533
    submitter: Owner = Owner()
    owner: int = -1


class Command(NamedTuple):
    """What is executed. `argv[0]` is searched in env's PATH inside the sandbox unless it holds a slash."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    script: str = ""  # text of a script, put into the sandbox as argv[0]
    rlimits: tuple[tuple[int, int, int], ...] = ()  # (resource, soft, hard): hard ones are only ever lowered
    oom_score_adj: int = 0
    confined: tuple[tuple[str, str], ...] = ()  # (of `kernel.lsm`, profile or label) that it is executed under


class Plan(NamedTuple):
    attempt: str  # the name of every kernel object of this attempt
    ahead: str  # the attempt to prepare a sandbox for once this one runs ("": none)
    hostname: str
    base: Base
    cgroup: CgroupPlan
    network: NetworkPlan
    rootfs: Rootfs | None
    mounts: tuple[Mount, ...]
    ids: Ids  # of the user namespace
    shift: Ids  # of id-mapped folders
    credentials: Credentials
    command: Command
    seccomp: str  # path of the compiled filter, on the host ("": none)
    record: str  # path of the file that init writes the exit record to
    writable: tuple[str, ...] = ()  # the only paths beneath which it may write, whatever its mounts say; (): no rule


def to_wire(plan: Plan) -> bytes:
    """The plan as one JSON message (named tuples become lists)."""
    return json.dumps(plan, separators=(",", ":")).encode()


def from_wire(message: bytes) -> Plan:
    """The inverse of `to_wire`."""
    raw: list[Any] = json.loads(message)
    (
        attempt,
        ahead,
        hostname,
        base,
        cgroup,
        network,
        rootfs,
        mounts,
        ids,
        shift,
        credentials,
        command,
        seccomp,
        record,
        writable,
    ) = raw
    directories, writes, joins, into, unavailable, final_reads, devices = cgroup
    argv, env, cwd, script, rlimits, oom_score_adj, confined = command
    uid, gid, groups, init, submitter, owner = credentials
    return Plan(
        attempt,
        ahead,
        hostname,
        base_from(base),
        CgroupPlan(
            tuple(directories),
            tuple(Write(*write) for write in writes),
            tuple(joins),
            into,
            tuple((limit, why) for limit, why in unavailable),
            tuple(final_reads),
            DevicePlan(devices[0], tuple(Write(*write) for write in devices[1]), devices[2]),
        ),
        NetworkPlan(*network),
        rootfs and Rootfs(rootfs[0], rootfs[1], rootfs[2], tuple(rootfs[3])),
        _mounts(mounts),
        _ids(ids),
        _ids(shift),
        Credentials(
            uid,
            gid,
            None if groups is None else tuple(groups),
            init,
            Owner(submitter[0], submitter[1], tuple(submitter[2])),
            owner,
        ),
        Command(
            tuple(argv),
            tuple((name, value) for name, value in env),
            cwd,
            script,
            tuple((resource, soft, hard) for resource, soft, hard in rlimits),
            oom_score_adj,
            tuple((module, name) for module, name in confined),
        ),
        seccomp,
        record,
        tuple(writable),
    )


def to_init(plan: Plan) -> bytes:
    """What of the plan init needs, for `of_launcher`: packed by marshal, since launcher and init are one program."""
    return marshal.dumps(
        (
            plan.hostname,
            plan.cgroup.joins,
            tuple(plan.network),
            plan.rootfs and tuple(plan.rootfs),
            tuple(map(tuple, plan.mounts)),
            (*plan.credentials[:4], tuple(plan.credentials.submitter), plan.credentials.owner),
            tuple(plan.command),
            plan.seccomp,
            plan.writable,
        )
    )


def of_launcher(message: bytes) -> Plan:
    """The inverse of `to_init`, empty where init needs nothing. In few steps: every page that it touches is init's."""
    hostname, joins, network, rootfs, mounts, credentials, command, seccomp, writable = marshal.loads(message)
    new = tuple.__new__
    return new(
        Plan,
        (
            "",
            "",
            hostname,
            (),
            new(CgroupPlan, ((), (), joins, "", (), (), ())),
            new(NetworkPlan, network),
            rootfs and new(Rootfs, rootfs),
            tuple([new(Mount, mount) for mount in mounts]),
            (),
            (),
            new(Credentials, (*credentials[:4], new(Owner, credentials[4]), credentials[5])),
            new(Command, command),
            seccomp,
            "",
            writable,
        ),
    )


def base_from(raw: list[Any]) -> Base:
    """The base that JSON has made lists of."""
    mounts, host_root, own_network = raw
    return Base(_mounts(mounts), host_root, own_network)


def _ids(raw: list[Any]) -> Ids:
    uids, gids = raw
    return Ids(tuple(IdMap(*entry) for entry in uids), tuple(IdMap(*entry) for entry in gids))


def _mounts(raw: list[Any]) -> tuple[Mount, ...]:
    return tuple(Mount(kind, target, source, tuple(options)) for kind, target, source, options in raw)
