"""The job file's keys, each with its check, its sentence of documentation and its default.

1. One table per TOML table, one line per key; the codec, the JSON Schema and the option errors all read these.
2. What depends on the node (queues, named resources, how much there is) comes in as `Config`.
3. Rules between keys stand below the tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import evolve

from batchns.errors import UserError
from batchns.model.config import Config, NetworkSettings
from batchns.model.job import (
    Identity,
    Isolation,
    JobSpec,
    Network,
    NetworkMode,
    Preempt,
    PreemptMode,
    Resources,
)
from batchns.model.kinds import (
    Field,
    Kind,
    Schema,
    Table,
    boolean,
    choice,
    clean,
    duration,
    exactly_one,
    integer,
    list_of,
    mapping_of,
    number,
    rate,
    size,
    text,
)
from batchns.model.problems import Finding, did_you_mean
from batchns.model.reach import EXAMPLE as REACH_EXAMPLE
from batchns.model.reach import PATTERN as REACH_PATTERN
from batchns.model.reach import HostPorts, Jobs, Target, format_target, parse_target, permitted
from batchns.model.supported import offered
from batchns.model.values import (
    NAME,
    RESERVED_PREFIX,
    VARIABLE,
    check_cpus,
    check_name,
    check_path,
    check_variable,
    output_in,
    parse_array,
    parse_bind,
    parse_cpuset,
    parse_dependency,
    path_in,
)
from batchns.units import format_rate, format_size, quote

MAX_PIDS = 1 << 22  # the kernel's PID_MAX_LIMIT
CPUS_SCHEMA: Schema = {"anyOf": [{"minimum": 1, "multipleOf": 1}, {"exclusiveMinimum": 0, "exclusiveMaximum": 1}]}
CPUSET_PATTERN = "^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$"
NAME_KIND: Kind[str] = text(check_name, example='"train-7"', pattern=f"^{NAME}$")
COMMAND_MISSING = "write command = [\"PROGRAM\", \"ARGUMENT\"] or script = '''...'''"


def job_table(config: Config, folder: str) -> Table[JobSpec]:
    """One job's table. `folder`: absolute; what relative paths are relative to, and the default `cwd`."""
    tables = {
        "resources": Field(resources_table(config), "What the job gets of the machine, and not more."),
        "network": Field(network_table(config), "The job's network."),
        "isolation": Field(isolation_table(config), "What the job sees of the host."),
        "preempt": Field(PREEMPT, "What may be done to the job when something more urgent needs its place."),
    }
    return Table(
        make=lambda **values: JobSpec(**{"cwd": folder, **values}),
        fields={**_job_fields(config, folder), **tables},
        where="[job]",
        rules=(exactly_one("command", "script", missing=COMMAND_MISSING), _no_shell_line),
        rules_schema={"oneOf": [{"required": ["command"]}, {"required": ["script"]}]},
    )


def _job_fields(config: Config, folder: str) -> dict[str, Field]:
    output: Schema = {"minLength": 1, "not": {"pattern": "(^|/)\\.\\.(/|$)"}}
    env_name = text(check_variable, example="NAME", pattern=f"^{VARIABLE}$")
    env_name.schema["not"] = {"pattern": f"^{RESERVED_PREFIX}"}
    return {
        "name": Field(
            NAME_KIND,
            "The job's name: letters, digits, dots, dashes, underscores; unique among the files of one run.",
            required='write name = "train"',
        ),
        "command": Field(
            list_of(text(clean, example='"ARGUMENT"'), example='["PROGRAM", "ARGUMENT"]', least=1),
            "The program and its arguments, run without a shell.",
        ),
        "script": Field(
            text(_script, example="'''...'''", minLength=1),
            "The text of a script, run by /bin/sh or by its #! line; instead of `command`.",
        ),
        "cwd": Field(
            text(lambda value: path_in(folder, value), example='"/data/run7"', **output),
            "The working folder.",
            "the job file's folder",
        ),
        "env": Field(
            mapping_of(text(clean, example='"value"'), env_name, where="env"),
            "Environment variables. Nothing else of the submitter's environment reaches the job.",
        ),
        "queue": Field(
            text(lambda value: _queue(config, value), example='"normal"'), "A queue of batchns.toml.", '"normal"'
        ),
        "priority": Field(integer(0, 100, example="50"), "Larger starts first within the queue.", "50"),
        "time_limit": Field(
            duration(example='"2h30m"'),
            "How long the job may run; SIGTERM, then SIGKILL. Frozen time does not count.",
            "that of [defaults] in batchns.toml",
        ),
        "array": Field(
            text(parse_array, example='"0-99%10"', pattern="^[0-9,:-]+(%[0-9]+)?$"),
            "One task per index; %N lets at most N run at a time.",
        ),
        "dependency": Field(
            dependency_list(),
            "What the job waits for: after (started), afterok, afternotok, afterany (ended).",
        ),
        "max_retries": Field(integer(0, 100, example="2"), "How often it is started again after it failed.", "0"),
        "stdout": Field(
            text(lambda value: output_in(folder, value), example='"%x-%j.out"', **output),
            "File for standard output: %x name, %j job id, %A array's job id, %a array index, %r attempt, %% percent.",
            '"%x-%j.out" beside the job file',
        ),
        "stderr": Field(
            text(lambda value: output_in(folder, value), example='"%x-%j.err"', **output),
            "File for standard error, with the same patterns.",
            '"%x-%j.err" beside the job file',
        ),
    }


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
        rules=(_cpus_match_cpuset,),
        more="other resources are named in batchns.toml, below [node.resources]",
        extra={"type": "integer", "minimum": 0, "description": "A resource that batchns.toml names, such as gpus."},
    )


def network_table(config: Config) -> Table[Network]:
    node = config.node
    mode = offered("network.mode", NetworkMode)
    least = 8000  # tbf lets less than one full packet a second and a half through below this
    return Table(
        make=Network,
        fields={
            "mode": Field(
                mode, "private: an address of its own, the outside through NAT; none: loopback.", '"private"'
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
        rules=(_no_rate_without_network, _nothing_to_allow),
        rules_schema={
            "if": {"properties": {"mode": {"const": "none"}}, "required": ["mode"]},
            "then": {"properties": {"egress": False, "ingress": False, "allow": False}},
        },
    )


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
        },
        where="isolation",
        rules=(_overlay_on_a_rootfs,),
        rules_schema={"dependentRequired": {"overlay": ["rootfs"]}},
    )


PREEMPT: Table[Preempt] = Table(
    make=Preempt,
    fields={
        "mode": Field(offered("preempt.mode", PreemptMode), "off: the job runs to its end.", '"off"'),
        "grace_time": Field(
            duration(example='"10s"', zero=True),
            "Between SIGTERM and SIGKILL, at the time limit too and when it is cancelled.",
            "that of [defaults] in batchns.toml",
        ),
    },
    where="preempt",
)


def dependency_list() -> Kind[tuple[Any, ...]]:
    """A list of "afterok:a:b", flattened into single edges, none twice."""
    pattern = f"^(after|afterok|afternotok|afterany)(:{NAME})+$"
    groups = list_of(text(parse_dependency, example='"afterok:prep"', pattern=pattern), example='["afterok:prep"]')

    def read(value: Any) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(edge for group in groups.read(value) for edge in group))

    return evolve(groups, read=read)


def _script(value: str) -> str:
    if not value.strip():
        raise UserError("the script is empty", "write its commands between ''' and '''")
    return value


def _profile(config: Config, value: str) -> str:
    known = sorted({"default", *config.isolation.seccomp})
    if value not in known:
        near = did_you_mean(value, known)
        raise UserError(
            f"there is no profile {quote(value)} in batchns.toml",
            f'did you mean "{near}"?' if near else f"there is {', '.join(known)}",
        )
    return value


def _queue(config: Config, value: str) -> str:
    if value not in config.queues:
        near = did_you_mean(value, config.queues)
        known = ", ".join(sorted(config.queues))
        raise UserError(f"there is no queue {quote(value)}", f'did you mean "{near}"?' if near else f"there is {known}")
    return value


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


def _no_shell_line(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    """A command of one string with blanks in it is a shell line; a path may hold blanks."""
    command = values.get("command")
    if command and (not command[0] or (len(command) == 1 and re.match("[^/ ]+ ", command[0]))):
        hint = "write one string per argument: [\"echo\", \"hello\"], or use script = '''...'''"
        yield ("command", 0), UserError(f"{quote(command[0])} is no program's name", hint)


def _cpus_match_cpuset(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    """A fraction beside a cpuset shares those CPUs; a whole number has to be theirs."""
    cpus, cpuset = values.get("cpus"), values.get("cpuset")
    if cpus is not None and cpuset is not None and cpus >= 1 and cpus != len(cpuset):
        what = f"cpus = {cpus:g}, but cpuset names {len(cpuset)}"
        yield ("cpus",), UserError(what, f"write cpus = {len(cpuset)}, or a fraction below 1 to share them")


def _no_rate_without_network(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    if values.get("mode") is NetworkMode.NONE:
        for key in ("egress", "ingress"):
            if key in values:
                yield (
                    (key,),
                    UserError('there is no rate to limit with mode = "none"', 'remove it, or write mode = "private"'),
                )


def _overlay_on_a_rootfs(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    if "overlay" in values and "rootfs" not in values:
        what = "the host's own root is always read-only"
        yield ("overlay",), UserError(what, 'write rootfs = "/srv/images/ml" besides, or remove it')


def _nothing_to_allow(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    """Loopback only has no way to anything, the host's own network has every way already."""
    mode = values.get("mode", NetworkMode.PRIVATE)
    if mode is not NetworkMode.PRIVATE and "allow" in values:
        what = f'there is nothing to allow with mode = "{mode.value}"'
        yield ("allow",), UserError(what, 'remove it, or write mode = "private"')
