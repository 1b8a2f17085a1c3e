"""batchns.toml's keys, each with its check, its sentence of documentation and its default; and its parser.

1. As strict as the job file, with the same errors: an administrator's typing mistake must not become a default.
2. No I/O: the caller has read the file (`batchns.cli.load.find_config`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from batchns.errors import UserError
from batchns.model.config import (
    CgroupSettings,
    Config,
    IsolationSettings,
    NetworkSettings,
    Node,
    Paths,
    Queue,
    Units,
)
from batchns.model.daemon_table import DAEMON, HISTORY, METRICS, OUTPUT
from batchns.model.document import parse_document
from batchns.model.engine_table import ENGINE, SLURM
from batchns.model.job_parts import CPUSET_PATTERN, MAX_PIDS, resources_table
from batchns.model.job_table import NAME_KIND
from batchns.model.kinds import (
    Field,
    Kind,
    Table,
    boolean,
    either,
    integer,
    list_of,
    mapping_of,
    matching,
    rate,
    size,
    text,
)
from batchns.model.notify_table import NOTIFY
from batchns.model.problems import Finding
from batchns.model.queue_table import DEFAULTS, QUEUE, preempts_known_queues
from batchns.model.reach import EXAMPLE as REACH_EXAMPLE
from batchns.model.reach import PATTERN as REACH_PATTERN
from batchns.model.reach import RANGE_PATTERN, Range, format_target, is_special, parse_range, parse_target
from batchns.model.schedule_table import FAIR_SHARE, NEIGHBOUR, SCHEDULE
from batchns.model.values import check_path, parse_cpuset
from batchns.units import quote

LAST_ID = (1 << 32) - 2  # the largest uid; the next is the kernel's "no uid"
IDS_PER_JOB = 1 << 16


def parse_config(data: bytes, file: str) -> Config:
    """What batchns.toml says; settings that it leaves away have their defaults.

    Raises:
        JobFileErrors: all that is wrong with it, each with its line.
    """
    return parse_document(data, file).read(config_table().read)


def config_table() -> Table[Config]:
    queues = mapping_of(QUEUE, NAME_KIND, where="queues.NAME")
    return Table(
        make=_config,
        fields={
            "node": Field(NODE, "What there is to hand out."),
            "defaults": Field(DEFAULTS, "What a job gets that does not ask."),
            "queues": Field(
                queues, "Queues by name, each its own table: [queues.urgent]. There is always a normal one."
            ),
            "schedule": Field(SCHEDULE, "How the queue is worked through."),
            "fair_share": Field(FAIR_SHARE, "Who has used less goes first."),
            "neighbour": Field(NEIGHBOUR, "When jobs make room for what is not batchns's."),
            "network": Field(NETWORK, "Addresses of jobs, and their way out."),
            "isolation": Field(ISOLATION, "Ids of jobs, and what they may name."),
            "cgroup": Field(CGROUP, "Where cgroups are made."),
            "paths": Field(PATHS, "Folders of batchns itself."),
            "daemon": Field(DAEMON, "How the daemon can be reached, and who may do what."),
            "history": Field(HISTORY, "What is kept of jobs that are over."),
            "output": Field(OUTPUT, "Files that jobs' output goes to."),
            "metrics": Field(METRICS, "What Prometheus is told."),
            "notify": Field(NOTIFY, "A command that is run when something has become of a job."),
            "engine": Field(ENGINE, "Where jobs go: to this machine's daemon, or to a Slurm cluster."),
            "slurm": Field(SLURM, "How jobs go to a Slurm cluster."),
        },
        where="node",
        rules=(preempts_known_queues,),
    )


def _config(**values: Any) -> Config:
    if "queues" in values:
        values["queues"] = {"normal": Queue(), **values["queues"]}
    return Config(**values)


def _no_built_in(name: str) -> str:
    known = resources_table(Config()).fields
    if not re.fullmatch("[a-z][a-z0-9_]{0,31}", name):
        raise UserError(f"{quote(name)} is not a resource's name", "write lower-case letters, digits and _, as in gpus")
    if name in known or name == "devices":
        raise UserError(f"{name} is a resource that every job file has", "choose another name")
    return name


def _pool(value: str) -> str:
    """An IPv4 network of at least two addresses that can be on a private link."""
    hint = 'write for example "10.213.0.0/16"'
    try:
        network = IPv4Network(value, strict=False)
    except ValueError:
        raise UserError(f"{quote(value)} is not an IPv4 network", hint) from None
    if "/" not in value or not 8 <= network.prefixlen <= 30:
        raise UserError(f"{quote(value)} is not a network of 4 to 16777216 addresses", hint)
    if str(network) != value:
        raise UserError(f"{quote(value)} has bits set beyond the prefix", f'write "{network}"')
    if network.is_loopback or network.is_multicast or network.is_link_local or network.is_unspecified:
        raise UserError(f"{quote(value)} is reserved", hint)
    return value


def _pool6(value: str) -> str:
    """An IPv6 network with an address for every job, or ""."""
    hint = 'write for example "fd62:6e73:d5::/64", or "" for no IPv6'
    if not value:
        return value
    try:
        network = IPv6Network(value, strict=False)
    except ValueError:
        raise UserError(f"{quote(value)} is not an IPv6 network", hint) from None
    if not 32 <= network.prefixlen <= 96:
        raise UserError(f"{quote(value)} is not a network with a prefix of 32 to 96 bits", hint)
    if str(network) != value:
        raise UserError(f"{quote(value)} is not written as a network", f'write "{network}"')
    if network.is_multicast or network.is_link_local or network.is_reserved:
        raise UserError(f"{quote(value)} is reserved", hint)
    return value


def _outside(value: str) -> Range:
    network = parse_range(value)
    if is_special(network):
        raise UserError(
            f"{quote(value)} is not for every job: services there trust whoever asks",
            "write it under allow, for the jobs that ask for it",
        )
    return network


def _name_server(value: str) -> str:
    hint = 'write the address of a name server that is not on this machine\'s loopback, such as "192.0.2.53"'
    try:
        address = ip_address(value)
    except ValueError:
        raise UserError(f"{quote(value)} is not an address", hint) from None
    if address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local:
        raise UserError(f"{quote(value)} cannot be reached by jobs", hint)
    return str(address)


def _ids_fit(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    defaults = IsolationSettings()
    start = values.get("id_start", defaults.id_start)
    ranges = values.get("id_ranges", defaults.id_ranges)
    if start + ranges * IDS_PER_JOB - 1 > LAST_ID:
        fits = (LAST_ID + 1 - start) // IDS_PER_JOB
        what = f"{ranges} ranges of {IDS_PER_JOB} ids from {start} go beyond the last id, {LAST_ID}"
        yield (("id_ranges" if "id_ranges" in raw else "id_start"),), UserError(what, f"write id_ranges = {fits}")


def _list(words: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


def _units(count: int = 0, **values: Any) -> Units:
    return Units(**values)


def _device(value: str) -> str:
    """The path of a device node, to appear under the same name in jobs."""
    path = check_path(value)
    inside = path.split("/")[2:]
    if not path.startswith("/dev/") or not inside[0] or inside[0] in SANDBOX_DEV:
        hint = 'write the node\'s path below /dev, for example "/dev/nvidia0"'
        raise UserError(f"{quote(value)} is no device node of the machine's own", hint)
    return path


def _one_unit(value: Any) -> tuple[str, ...]:
    return (_DEVICE.read(value),) if isinstance(value, str) else _DEVICES.read(value)


def _variable(value: str) -> str:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", value) or value.startswith("BATCHNS_"):
        hint = "write letters, digits and _; the names that begin with BATCHNS_ are taken"
        raise UserError(f"{quote(value)} is not a variable's name", hint)
    return value


def _count_matches(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    devices = values.get("devices")
    if devices is not None and values.get("count", len(devices)) != len(devices):
        what = f"{values['count']}, but devices lists {len(devices)} units"
        yield ("count",), UserError(what, "leave count away: devices says how many there are")


def _nodes_of_one_unit(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    seen: set[str] = set(values.get("common", ()))
    for index, unit in enumerate(values.get("devices", ())):
        for path in dict.fromkeys(unit):
            if path in seen:
                hint = "each node belongs to one unit, or to common"
                yield ("devices", index), UserError(f"{quote(path)} is there twice", hint)
            seen.add(path)


_BUILT_IN = Config()
# What is made by the sandbox itself: see launch.sandbox.
SANDBOX_DEV = frozenset(
    (
        *("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue"),
        *("fd", "stdin", "stdout", "stderr"),
    )
)
_DEVICE = text(_device, example='"/dev/nvidia0"', pattern="^/dev/.")
_DEVICES = list_of(_DEVICE, example='["/dev/nvidia0"]', least=1)

UNITS: Table[Units] = Table(
    make=_units,
    fields={
        "devices": Field(
            list_of(
                Kind(_one_unit, {"anyOf": [_DEVICE.schema, _DEVICES.schema]}),
                example='["/dev/nvidia0", "/dev/nvidia1"]',
                least=1,
            ),
            "The device nodes of each unit, a path or a list of paths. A job gets those of its own units only.",
            required='write devices = ["/dev/nvidia0", "/dev/nvidia1"]',
        ),
        "count": Field(integer(0, 1 << 31, example="2"), "How many units there are.", "as many as devices lists"),
        "common": Field(
            list_of(_DEVICE, example='["/dev/nvidiactl"]'), "Nodes for every job that has at least one unit.", "none"
        ),
        "env": Field(
            text(_variable, example='"GPU_UNITS"', pattern="^[A-Za-z_][A-Za-z0-9_]*$"),
            "A variable that lists the job's units by number, from 0: 0,2.",
            "none",
        ),
    },
    where="node.resources.NAME",
    rules=(_count_matches, _nodes_of_one_unit),
)
_CPUSET = text(parse_cpuset, example='"0-3,8"', pattern=CPUSET_PATTERN)
_FOLDER = text(check_path, example='"/var/lib/batchns"', pattern="^/")

NODE: Table[Node] = Table(
    make=Node,
    fields={
        "cpus": Field(_CPUSET, "CPU numbers that jobs may use.", "all that batchns itself may use"),
        "memory": Field(size(1 << 20, example='"64GiB"'), "Memory for all jobs together.", "the machine's"),
        "egress": Field(rate(8000, example='"1gbit"'), "What all jobs together may send.", "not counted"),
        "ingress": Field(rate(8000, example='"1gbit"'), "What all jobs together may receive.", "not counted"),
        "pids": Field(
            integer(16, MAX_PIDS, example="20000"),
            "Processes and threads of all jobs together.",
            "three quarters of what the kernel allows",
        ),
        "scratch_folder": Field(
            text(check_path, example='"/srv/scratch"', pattern="^/"),
            'A folder of root\'s, on a disk, for jobs with scratch_on = "disk".',
            "none: in memory only",
        ),
        "scratch_capacity": Field(
            size(1 << 20, example='"2TiB"'),
            "Scratch on disk for all jobs together.",
            "what is free there, less a tenth",
        ),
        "resources": Field(
            mapping_of(
                either(integer(0, 1 << 31, example="4"), UNITS),
                text(_no_built_in, example="gpus", pattern="^[a-z][a-z0-9_]{0,31}$"),
                where="node.resources",
            ),
            "Named resources, and how many there are: gpus = 4; or a table with their device nodes.",
            "none",
        ),
        "strict": Field(
            boolean(),
            "Refuse a job when one of its limits cannot be enforced on this machine.",
            str(_BUILT_IN.node.strict).lower(),
        ),
    },
    where="node",
)

NETWORK: Table[NetworkSettings] = Table(
    make=NetworkSettings,
    fields={
        "pool": Field(
            text(_pool, example='"10.213.0.0/16"', pattern="^[0-9.]+/[0-9]+$"),
            "IPv4 network that jobs' addresses are taken from, one per running job.",
            f'"{_BUILT_IN.network.pool}"',
        ),
        "pool6": Field(
            text(_pool6, example='"fd62:6e73:d5::/64"', pattern="^([0-9a-f:]+/[0-9]+)?$"),
            "IPv6 network of the same use, where the host has a default route for IPv6. Empty: no IPv6 in jobs.",
            f'"{_BUILT_IN.network.pool6}"',
        ),
        "nat": Field(boolean(), "Jobs reach the outside, with the host's address.", str(_BUILT_IN.network.nat).lower()),
        "mtu": Field(integer(576, 65535, example="1500"), "Largest packet in bytes.", str(_BUILT_IN.network.mtu)),
        "outside": Field(
            list_of(text(_outside, example='"0.0.0.0/0"', pattern=RANGE_PATTERN), example='["10.0.0.0/8"]'),
            "Address ranges that every job reaches.",
            _list(map(str, _BUILT_IN.network.outside)),
        ),
        "allow": Field(
            list_of(text(parse_target, example=REACH_EXAMPLE, pattern=REACH_PATTERN), example='["jobs"]'),
            "What a job may ask for besides: jobs, host:PORT, host:PORT-PORT/udp, address ranges.",
            _list(map(format_target, _BUILT_IN.network.allow)),
        ),
        "dns": Field(
            list_of(text(_name_server, example='"192.0.2.53"'), example='["192.0.2.53"]'),
            "Addresses of name servers that jobs ask.",
            "those of the host",
        ),
        "host": Field(
            boolean(),
            "Jobs may share the host's network: they reach its services then and, before Linux 6.12, abstract sockets.",
            str(_BUILT_IN.network.host).lower(),
        ),
    },
    where="network",
)

_APPARMOR = matching(
    "[A-Za-z0-9_/][A-Za-z0-9_./+:@-]{0,254}",
    what="an AppArmor profile's name",
    hint='write one that aa-status lists, for example "batchns-job"',
    example='"batchns-job"',
)
_SELINUX = matching(
    "[A-Za-z0-9_.-]+:[A-Za-z0-9_.-]+:[A-Za-z0-9_.-]+(:[A-Za-z0-9_.:,-]+)?",
    what="an SELinux label",
    hint='write user:role:type or user:role:type:level, for example "system_u:system_r:container_t:s0"',
    example='"system_u:system_r:container_t:s0"',
)

ISOLATION: Table[IsolationSettings] = Table(
    make=IsolationSettings,
    fields={
        "id_start": Field(
            integer(IDS_PER_JOB, LAST_ID, example="1000000000"),
            "First host user and group id of jobs' own ranges; nothing else may use the ids from here on.",
            str(_BUILT_IN.isolation.id_start),
        ),
        "id_ranges": Field(
            integer(1, LAST_ID // IDS_PER_JOB, example="4096"),
            "How many ranges of 65536 ids there are, one per running job.",
            str(_BUILT_IN.isolation.id_ranges),
        ),
        "subid_owner": Field(
            NAME_KIND,
            "Take the ranges from this owner's lines in /etc/subuid and /etc/subgid instead.",
            "none",
        ),
        "images": Field(
            list_of(text(check_path, example='"/srv/images"', pattern="^/"), example='["/srv/images"]'),
            "Folders whose squashfs images users may have as a root; only root may write to the images.",
            "none: root's jobs only",
        ),
        "landlock": Field(
            boolean(),
            "Whether jobs are kept from writing elsewhere by Landlock, too, where the kernel has it; "
            "from Linux 7.1 on also from unix sockets of the machine that are beneath neither its folder nor a bind.",
            "true",
        ),
        "seccomp": Field(
            mapping_of(
                text(check_path, example='"/etc/batchns/seccomp/ptrace.json"', pattern="^/"),
                NAME_KIND,
                where="isolation.seccomp",
            ),
            "Seccomp profiles that jobs may name, each with its file; default replaces the built-in one.",
            "none",
        ),
        "apparmor": Field(
            _APPARMOR, "The AppArmor profile of jobs that name none; it has to be loaded.", "batchns's own"
        ),
        "apparmor_allow": Field(
            list_of(_APPARMOR, example='["batchns-tight"]'), "AppArmor profiles that jobs may name besides.", "none"
        ),
        "selinux_label": Field(_SELINUX, "The SELinux label of jobs that name none.", "as the policy has it"),
        "selinux_allow": Field(
            list_of(_SELINUX, example='["system_u:system_r:container_t:s0"]'),
            "SELinux labels that jobs may name besides.",
            "none",
        ),
    },
    where="isolation",
    rules=(_ids_fit,),
)

CGROUP: Table[CgroupSettings] = Table(
    make=CgroupSettings,
    fields={
        "parent": Field(
            matching(
                "/?[A-Za-z0-9_@:-][A-Za-z0-9._@:-]*(/[A-Za-z0-9_@:-][A-Za-z0-9._@:-]*)*",
                what="a cgroup's path",
                hint='write a path below the cgroup root, for example "batch.slice"',
                example='"batch.slice"',
            ),
            "Parent of all jobs' cgroups, a path below the cgroup root.",
            "below batchns's own where that is possible, else the root",
        ),
    },
    where="cgroup",
)

PATHS: Table[Paths] = Table(
    make=Paths,
    fields={
        "state": Field(_FOLDER, "What outlives a restart.", f'"{_BUILT_IN.paths.state}"'),
        "run": Field(_FOLDER, "What does not outlive a reboot: sockets, exit records.", f'"{_BUILT_IN.paths.run}"'),
    },
    where="paths",
)
