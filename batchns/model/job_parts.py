"""The tables below a job: resources, network, isolation, preempt; each key with its check, sentence and default.

What depends on the node (named resources, how much there is, what may be reached) comes in as `Config`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import evolve

from batchns.errors import UserError
from batchns.model.config import Config, NetworkSettings
from batchns.model.job import (
    Identity,
    Isolation,
    Network,
    NetworkMode,
    Preempt,
    PreemptMode,
    Resources,
    ScratchOn,
    Slurm,
)
from batchns.model.job_rules import (
    cpus_match_cpuset,
    digest_of_a_rootfs,
    no_rate_without_network,
    nothing_to_allow,
    overlay_on_a_rootfs,
)
from batchns.model.kinds import (
    Field,
    Kind,
    Schema,
    Table,
    boolean,
    choice,
    duration,
    integer,
    list_of,
    number,
    rate,
    size,
    text,
)
from batchns.model.problems import did_you_mean
from batchns.model.reach import EXAMPLE as REACH_EXAMPLE
from batchns.model.reach import PATTERN as REACH_PATTERN
from batchns.model.reach import HostPorts, Jobs, Target, format_target, parse_target, permitted
from batchns.model.values import (
    CONSTRAINT,
    DIGEST,
    EXAMPLE_DIGEST,
    SLURM_WORD,
    check_constraint,
    check_cpus,
    check_digest,
    check_path,
    check_slurm_word,
    parse_bind,
    parse_cpuset,
)
from batchns.units import format_rate, format_size, quote

MAX_PIDS = 1 << 22  # the kernel's PID_MAX_LIMIT
CPUS_SCHEMA: Schema = {"anyOf": [{"minimum": 1, "multipleOf": 1}, {"exclusiveMinimum": 0, "exclusiveMaximum": 1}]}
CPUSET_PATTERN = "^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$"


def resources_table(config: Config) -> Table[Resources]:
    node = config.node
    fields = {
        "cpus": Field(
            number(lambda value: _cpus(config, value), example="2", **CPUS_SCHEMA),
            "Whole CPUs for this job alone, or a fraction below 1 of a shared one.",
            "that of [defaults] in batchns.toml",
        ),
        "cpuset": Field(
            text(lambda value: _cpuset(config, value), example='"0-3,8"', pattern=CPUSET_PATTERN),
            "These very CPUs.",
            "chosen at start",
        ),
        "cpu_shares": Field(
            integer(2, 262144, example="1024"),
            "Relative weight where a CPU is contended (cpu.shares; cpu.weight on cgroup v2).",
            "1024 per CPU",
        ),
        "memory": Field(
            _at_most(size(1 << 20, example='"4GiB"'), node.memory, format_size, "memory"),
            "Hard limit, swap included; a job that needs more ends as OUT_OF_MEMORY.",
            "that of [defaults] in batchns.toml",
        ),
        "blkio_weight": Field(
            integer(10, 1000, example="500"), "Relative weight of block I/O, 10 to 1000.", "the kernel's"
        ),
        "pids": Field(
            integer(1, MAX_PIDS, example="512"), "Processes and threads.", "that of [defaults] in batchns.toml"
        ),
        "scratch": Field(
            size(4096, example='"10GiB"'), "Size of the job's private /tmp.", "that of [defaults] in batchns.toml"
        ),
        "scratch_on": Field(
            choice(ScratchOn),
            "Where that is: memory, which counts as the job's; disk, where the machine has a folder for it.",
            '"memory"',
        ),
        "strict": Field(
            boolean(), "Refuse the job where one of its limits cannot be enforced.", "that of [node] in batchns.toml"
        ),
    }
    named = {
        name: Field(_at_most(integer(0, 1 << 31, example="1"), have, str, name), f"How many of the node's {name}.", "0")
        for name, have in node.counts.items()
    }

    def make(**values: Any) -> Resources:
        own = {name: values.pop(name) for name in named if name in values}
        return Resources(**values, named=own)

    return Table(
        make=make,
        fields={**fields, **named},
        where="resources",
        rules=(cpus_match_cpuset,),
        more="other resources are named in batchns.toml, below [node.resources]",
        extra={"type": "integer", "minimum": 0, "description": "A resource that batchns.toml names, such as gpus."},
    )


def network_table(config: Config) -> Table[Network]:
    node = config.node
    least = 8000  # tbf lets less than one full packet a second and a half through below this
    return Table(
        make=Network,
        fields={
            "mode": Field(
                _network_mode(config.network),
                "private: an address of its own, the outside through NAT; none: loopback; host: the host's network, "
                "where batchns.toml allows it.",
                '"private"',
            ),
            "egress": Field(
                _at_most(rate(least, example='"50mbit"'), node.egress, format_rate, "egress"),
                "What the job may send, in bits per second.",
                "no limit",
            ),
            "ingress": Field(
                _at_most(rate(least, example='"100mbit"'), node.ingress, format_rate, "ingress"),
                "What the job may receive, in bits per second.",
                "no limit",
            ),
            "allow": Field(
                list_of(
                    text(_allowed_by(config.network), example=REACH_EXAMPLE, pattern=REACH_PATTERN),
                    example='["jobs"]',
                ),
                "What it reaches besides: jobs (of the same user, that ask for it too), host:PORT, address ranges.",
                "none",
            ),
        },
        where="network",
        rules=(no_rate_without_network, nothing_to_allow),
        rules_schema={
            "allOf": [
                {
                    "if": {"properties": {"mode": {"const": "none"}}, "required": ["mode"]},
                    "then": {"properties": {"egress": False, "ingress": False, "allow": False}},
                },
                {
                    "if": {"properties": {"mode": {"const": "host"}}, "required": ["mode"]},
                    "then": {"properties": {"allow": False}},
                },
            ]
        },
    )


def _network_mode(settings: NetworkSettings) -> Kind[NetworkMode]:
    """The modes that this node allows."""
    kind = choice(NetworkMode)

    def read(value: Any) -> NetworkMode:
        mode = kind.read(value)
        if mode is NetworkMode.HOST and not settings.host:
            raise UserError(
                "the host's network is not allowed on this machine",
                'write mode = "private", or have host = true written under [network] in batchns.toml',
            )
        return mode

    return evolve(kind, read=read)


def _allowed_by(settings: NetworkSettings) -> Callable[[str], Target]:
    """What a job may ask for on this node."""

    def check(value: str) -> Target:
        target = parse_target(value)
        if not permitted(target, settings.allow, settings.outside):
            raise UserError(
                f"{quote(value)} is not allowed on this machine",
                f'remove it, or have "{format_target(target)}" added to allow under [network] in batchns.toml',
            )
        if not settings.nat and not isinstance(target, Jobs | HostPorts):
            raise UserError(f"{quote(value)} cannot be reached: jobs reach nothing outside (nat = false)", "remove it")
        return target

    return check


def isolation_table(config: Config) -> Table[Isolation]:
    return Table(
        make=Isolation,
        fields={
            "rootfs": Field(
                text(check_path, example='"/srv/images/ml"', pattern="^/"),
                "Another root file system: a folder, or a squashfs image.",
                "the host's root, read-only",
            ),
            "rootfs_digest": Field(
                text(check_digest, example=f'"{EXAMPLE_DIGEST}"', pattern=f"^{DIGEST.pattern}$"),
                "What the image must be: its SHA-256 digest, checked before it is used.",
                "whatever the file holds",
            ),
            "overlay": Field(
                size(1 << 20, example='"2GiB"'),
                "How much may be written on top of `rootfs`; it is gone with the job.",
                "nothing: it is read-only",
            ),
            "binds": Field(
                list_of(
                    text(parse_bind, example='"/data:/data:ro"', pattern="^/[^:]*:/[^:]*(:r[ow])?$"),
                    example='["/data:/data"]',
                ),
                'Host folders or files inside the job, each "SRC:DST" or "SRC:DST:ro".',
                "none",
            ),
            "identity": Field(
                choice(Identity),
                "self: the submitter's uid; root: uid 0 inside, the submitter outside; private: ids of its own.",
                '"self"; "private" for jobs of root',
            ),
            "seccomp": Field(
                text(lambda value: _profile(config, value), example='"default"'),
                "A seccomp profile that batchns.toml names.",
                '"default"',
            ),
            "apparmor": Field(
                text(_listed("AppArmor profile", config.isolation.apparmor_names), example='"batchns-tight"'),
                "The AppArmor profile that it is executed under, one that batchns.toml allows.",
                "that of batchns.toml",
            ),
            "selinux_label": Field(
                text(
                    _listed("SELinux label", config.isolation.selinux_names),
                    example='"system_u:system_r:container_t:s0"',
                ),
                "The SELinux label that it is executed with, one that batchns.toml allows.",
                "that of batchns.toml",
            ),
        },
        where="isolation",
        rules=(overlay_on_a_rootfs, digest_of_a_rootfs),
        rules_schema={"dependentRequired": {"overlay": ["rootfs"], "rootfs_digest": ["rootfs"]}},
    )


PREEMPT: Table[Preempt] = Table(
    make=Preempt,
    fields={
        "mode": Field(
            choice(PreemptMode),
            "suspend: it is frozen and goes on later; requeue: it starts again from the beginning; "
            "cancel: it is ended; off: it runs to its end.",
            "preempt_mode of its queue",
        ),
        "grace_time": Field(
            duration(example='"10s"', zero=True),
            "Between SIGTERM and SIGKILL, at the time limit too and when it is cancelled.",
            "that of [defaults] in batchns.toml",
        ),
    },
    where="preempt",
)


def _slurm_word(what: str, example: str) -> Kind[str]:
    return text(lambda value: check_slurm_word(value, what), example=example, pattern=f"^{SLURM_WORD}$")


SLURM: Table[Slurm] = Table(
    make=Slurm,
    fields={
        "account": Field(
            _slurm_word("an account's name", '"physics"'),
            "The account that the job is charged to.",
            "that of batchns.toml, else the user's default",
        ),
        "qos": Field(_slurm_word("a quality of service", '"long"'), "Its quality of service.", "the account's"),
        "constraint": Field(
            text(check_constraint, example='"intel&ssd"', pattern=f"^{CONSTRAINT}$"),
            "Features that its node has to have, as --constraint of sbatch has them.",
            "none",
        ),
        "nodes": Field(
            integer(1, 10_000, example="4"),
            "On how many nodes the command runs, once on each; each has all that [resources] asks for.",
            "1",
        ),
        "reservation": Field(
            _slurm_word("a reservation's name", '"course"'), "The reservation whose nodes it runs on.", "none"
        ),
    },
    where="slurm",
)


def _profile(config: Config, value: str) -> str:
    known = sorted({"default", *config.isolation.seccomp})
    if value not in known:
        near = did_you_mean(value, known)
        raise UserError(
            f"there is no profile {quote(value)} in batchns.toml",
            f'did you mean "{near}"?' if near else f"there is {', '.join(known)}",
        )
    return value


def _listed(what: str, known: tuple[str, ...]) -> Callable[[str], str]:
    """One of those that the administrator lists: any other might be weaker than what jobs are under now."""

    def check(value: str) -> str:
        if value in known:
            return value
        near = did_you_mean(value, known)
        hint = f"there is {', '.join(known)}" if known else "remove it, or ask the administrator for it"
        raise UserError(
            f"the {what} {quote(value)} is not allowed by batchns.toml", f'did you mean "{near}"?' if near else hint
        )

    return check


def _cpus(config: Config, value: float) -> float:
    have = config.node.cpus
    if check_cpus(value) > len(have or ()) and have is not None:
        raise UserError(f"{value:g} CPUs are more than the node has", f"write at most {len(have)}")
    return value


def _cpuset(config: Config, value: str) -> tuple[int, ...]:
    cpus = parse_cpuset(value)
    have = config.node.cpus
    if have is not None and (missing := sorted(set(cpus) - set(have))):
        raise UserError(f"CPU {missing[0]} is not one that jobs may use", f"choose among {cpu_list(have)}")
    return cpus


def _at_most(kind: Kind[int], have: int | None, show: Any, what: str) -> Kind[int]:
    """`kind`, but not more than the node has; None: known only when the machine is looked at."""
    if have is None:
        return kind

    def read(value: Any) -> int:
        wanted = kind.read(value)
        if wanted > have:
            raise UserError(f"more {what} than the node has, {show(have)}", f"write at most {show(have)}")
        return wanted

    return evolve(kind, read=read)


def cpu_list(cpus: tuple[int, ...]) -> str:
    """Ascending CPU numbers as the kernel writes them: "0-3,8"."""
    runs: list[list[int]] = []
    for cpu in cpus:
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], cpu]
        else:
            runs.append([cpu])
    return ",".join("-".join(map(str, run)) for run in runs)
