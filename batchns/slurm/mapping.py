"""From a job to what sbatch is told: pure, one rule for each field.

Units: memory in MiB and time in minutes, both rounded up (batchns itself ends a job to the second); CPUs rounded up to
whole ones; bandwidth in mbit, rounded up.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from attrs import frozen

from batchns.model.config import Config, Defaults
from batchns.model.job import Condition, Dependency, JobSpec, PreemptMode
from batchns.model.parcel import VERSION, pack
from batchns.model.portable import to_json
from batchns.slurm.facts import Facts

COMMENT = "batchns:"
START = 30.0  # seconds that Slurm's limit is longer than ours, for prolog and sandbox
NICE_PER_POINT = 10
NEUTRAL = 50  # the priority that a job has by default
_MIB = 1 << 20
_MBIT = 1_000_000


@frozen(kw_only=True)
class Target:
    """What a mapping depends on beside the job. `ids`: Slurm's, by the names that dependencies have."""

    config: Config
    facts: Facts
    folder: str  # of submissions and results
    program: tuple[str, ...]  # the command that runs a batch script, without the script
    ids: Mapping[str, str]
    now: float = 0.0  # of the submission
    prepare: Callable[[JobSpec, int], Any] = lambda spec, scratch: None  # the launch plan, as far as it is known here


@frozen(kw_only=True)
class Order:
    """What sbatch is called with, and what it reads."""

    words: tuple[str, ...]
    script: str


def order(spec: JobSpec, target: Target, key: str, index: int, portable: Mapping[str, Any] | None = None) -> Order:
    """`key`, `index`: which job of which submission it is, to find it again. `portable`: the job as JSON, if known."""
    stdout, stderr = (slurm_pattern(path, spec) for path in output_paths(spec))
    words = (
        "sbatch",
        "--parsable",
        f"--job-name={spec.name}",
        f"--comment={COMMENT}{key}:{index}",
        "--chdir=/",
        f"--output={stdout}",
        f"--error={stderr}",
        "--open-mode=append",
        f"--nodes={spec.slurm.nodes}",
        f"--ntasks={spec.slurm.nodes}",
        *(["--ntasks-per-node=1"] if spec.slurm.nodes > 1 else []),
        *_resources(spec, target),
        *_place(spec, target),
        *_times(spec, target.config),
        *_order(spec, target),
    )
    return Order(words=words, script=script(payload(spec, target, key, index, portable), target.program))


# -- the words -----------------------------------------------------------------------------------------------------


def _resources(spec: JobSpec, target: Target) -> list[str]:
    defaults, settings = defaults_of(spec.queue, target.config), target.config.slurm
    memory = spec.resources.memory or defaults.memory
    words = [f"--cpus-per-task={cpus_of(spec, target.config)}"]
    if memory is not None:
        words.append(f"--mem={mebibytes(memory + settings.overhead)}M")
    gres = [f"{settings.gres.get(name, name)}:{count}" for name, count in spec.resources.named.items() if count]
    if (rate := bandwidth(spec)) and settings.bandwidth in target.facts.gres:
        gres.append(f"{settings.bandwidth}:{mbits(rate)}")
    if gres:
        words.append(f"--gres={','.join(gres)}")
    if target.facts.plugin and spec.network.mode.value == "private":
        words.append(f"--batchns-network={spec.network.egress or 0},{spec.network.ingress or 0}")
    return words


def _place(spec: JobSpec, target: Target) -> list[str]:
    words = []
    if partition := partition_of(spec.queue, target):
        words.append(f"--partition={partition}")
    asked = spec.slurm
    for name, value in (
        ("account", account_of(spec, target.config)),
        ("qos", asked.qos),
        ("constraint", asked.constraint),
        ("reservation", asked.reservation),
    ):
        if value:
            words.append(f"--{name}={value}")
    return words


def _times(spec: JobSpec, config: Config) -> list[str]:
    words = []
    if (longest := allocation_seconds(spec, config)) is not None:
        words.append(f"--time={minutes(longest)}")
    if spec.begin is not None:
        words.append(f"--begin={_moment(spec.begin)}")
    elif spec.begin_after is not None:
        words.append(f"--begin=now+{math.ceil(spec.begin_after)}seconds")
    if spec.deadline is not None:
        words.append(f"--deadline={_moment(spec.deadline)}")
    elif spec.deadline_after is not None:
        words.append(f"--deadline=now+{math.ceil(spec.deadline_after)}seconds")
    return words


def _order(spec: JobSpec, target: Target) -> list[str]:
    again = spec.max_retries > 0 or spec.preempt.mode is PreemptMode.REQUEUE
    words = ["--requeue" if again else "--no-requeue"]
    if (nice := (NEUTRAL - spec.priority) * NICE_PER_POINT) != 0:
        words.append(f"--nice={nice}")
    if spec.array is not None:
        words.append(f"--array={indices(spec.array.indices)}" + (f"%{spec.array.throttle}" * bool(spec.array.throttle)))
    if spec.dependency:
        words += [f"--dependency={dependencies(spec.dependency, target.ids)}", "--kill-on-invalid-dep=yes"]
    if spec.hold:
        words.append("--hold")
    return words


def defaults_of(queue: str, config: Config) -> Defaults:
    """Those of the queue where batchns.toml has it; of one that is the cluster's alone the usual ones."""
    return config.defaults_of(queue) if queue in config.queues else config.defaults


def cpus_of(spec: JobSpec, config: Config) -> int:
    """Whole ones: as many as are asked for, or listed, or usual."""
    asked = spec.resources
    return math.ceil(asked.cpus or (len(asked.cpuset) if asked.cpuset else defaults_of(spec.queue, config).cpus))


def account_of(spec: JobSpec, config: Config) -> str:
    """The job's own, else that of batchns.toml; "": the user's default."""
    return spec.slurm.account or config.slurm.account or ""


def partition_of(queue: str, target: Target) -> str:
    """What settings say, else the partition of that name; "" for the cluster's default."""
    named = target.config.slurm.partitions.get(queue)
    if named is not None:
        return named
    return queue if target.facts.partition(queue) else ""


def dependencies(edges: Sequence[Dependency], ids: Mapping[str, str]) -> str:
    """Edges of one condition are written together: "afterok:12:13,singleton"."""
    by_condition: dict[Condition, list[str]] = {}
    for edge in edges:
        by_condition.setdefault(edge.condition, []).extend([ids[edge.name]] if edge.name else [])
    return ",".join(":".join((condition.value, *found)) for condition, found in by_condition.items())


def indices(numbers: Sequence[int]) -> str:
    """Ascending numbers as Slurm writes them: "0-3,8"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def mebibytes(value: int) -> int:
    return -(-value // _MIB)


def minutes(seconds: float) -> int:
    return max(1, math.ceil(seconds / 60))


def mbits(rate: int) -> int:
    return -(-rate // _MBIT)


def bandwidth(spec: JobSpec) -> int:
    """Bits per second that the job takes of its node's link: full duplex counts once."""
    return max(spec.network.egress or 0, spec.network.ingress or 0)


def allocation_seconds(spec: JobSpec, config: Config) -> float | None:
    """How long the allocation lasts at most: all attempts, which are made in one, with their grace and delays."""
    defaults = defaults_of(spec.queue, config)
    limit = spec.time_limit if spec.time_limit is not None else defaults.time_limit
    if limit is None:
        return None
    grace = spec.preempt.grace_time if spec.preempt.grace_time is not None else defaults.grace_time
    delays: float = sum(spec.retry_delay * 2**number for number in range(spec.max_retries))
    return (limit + grace) * (1 + spec.max_retries) + delays + START


def _moment(at: float) -> str:
    return datetime.fromtimestamp(math.ceil(at)).strftime("%Y-%m-%dT%H:%M:%S")


# -- output --------------------------------------------------------------------------------------------------------


def output_paths(spec: JobSpec) -> tuple[str, str]:
    """Where stdout and stderr go, with batchns's patterns."""
    file = spec.source.rpartition(":")[0]
    folder = os.path.dirname(file) if file.startswith("/") else spec.cwd
    plain = folder.replace("%", "%%")
    return spec.stdout or f"{plain}/%x-%j.out", spec.stderr or f"{plain}/%x-%j.err"


def slurm_pattern(path: str, spec: JobSpec) -> str:
    """Slurm's %j is another number for each task; the attempt it does not know."""
    job = "%A_%a" if spec.array else "%j"
    words = {
        "%x": spec.name,
        "%j": job,
        "%A": "%A" if spec.array else "%j",
        "%a": "%a" if spec.array else "",
        "%r": "1",
    }
    return _replaced(path, {**words, "%%": "%%"})


def output_path(path: str, name: str, job_id: str) -> str:
    """The file of one job. `path`: of `output_paths`."""
    array, _, index = job_id.partition("_")
    return _replaced(path, {"%x": name, "%j": job_id, "%A": array, "%a": index, "%r": "1", "%%": "%"})


def _replaced(path: str, words: Mapping[str, str]) -> str:
    found, rest = "", path
    while (at := rest.find("%")) >= 0:
        found += rest[:at] + words.get(rest[at : at + 2], rest[at : at + 2])
        rest = rest[at + 2 :]
    return found + rest


# -- the script ----------------------------------------------------------------------------------------------------


def payload(
    spec: JobSpec, target: Target, key: str, index: int, portable: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the node needs to know."""
    defaults = defaults_of(spec.queue, target.config)
    longest = allocation_seconds(spec, target.config)
    return {
        "version": VERSION,
        "spec": portable or to_json(spec),
        "key": key,
        "index": index,
        "folder": target.folder,
        "grace_time": defaults.grace_time if spec.preempt.grace_time is None else spec.preempt.grace_time,
        "time_limit": defaults.time_limit if spec.time_limit is None else spec.time_limit,
        "allocation": None if longest is None else minutes(longest) * 60,
        "plan": plan_of(spec, target),
        "deadline": spec.deadline if spec.deadline_after is None else target.now + spec.deadline_after,
        "seccomp": dict(target.config.isolation.seccomp),
    }


def plan_of(spec: JobSpec, target: Target) -> Any:
    """The launch plan, as far as it is known here.

    Raises:
        UserError: the job asks for what a user cannot have.
    """
    scratch = spec.resources.scratch
    return target.prepare(spec, defaults_of(spec.queue, target.config).scratch if scratch is None else scratch)


def script(content: Mapping[str, Any], program: Sequence[str]) -> str:
    """A batch script that becomes what runs the job; the lines behind are read from its file, and by no shell."""
    first = f'exec {shlex.join(program)} "$0"'
    return f"#!/bin/sh\n{first}\n{pack(content)}"
