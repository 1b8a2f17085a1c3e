"""What a cluster cannot do for a job, field by field, before anything is submitted. Pure.

A lack that is `fatal` keeps the job from running at all; every other one takes something from it, and the user has to
agree to that (`--allow-degraded`), unless the job is strict.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from batchns.model.job import Identity, JobSpec, NetworkMode, ScratchOn
from batchns.model.problems import Problem, did_you_mean
from batchns.model.reach import HostPorts, Jobs
from batchns.slurm.facts import Partition
from batchns.slurm.mapping import (
    NEUTRAL,
    Target,
    account_of,
    allocation_seconds,
    bandwidth,
    cpus_of,
    defaults_of,
    mbits,
    mebibytes,
    minutes,
    partition_of,
)
from batchns.units import format_duration, format_rate, format_size, quote

LIMITS = ("cpus", "cpuset", "cpu_shares", "memory", "blkio_weight", "pids", "egress", "ingress")
MOST_RATE = 10**12  # bits per second, of the prolog and the plug-in
_ASK_FOR_ONE = "ask the cluster's administrator for one"
_ADMIN = "the cluster's administrator can set that up: docs/cluster.md"


@frozen(kw_only=True)
class Lack:
    """`path`: the field, as job files have it."""

    path: str
    what: str
    hint: str = ""
    fatal: bool = False

    def problem(self, spec: JobSpec) -> Problem:
        file, _, line = spec.source.rpartition(":")
        return Problem(file, int(line) if line.isdigit() else 0, self.path, self.what, self.hint)


def lacks(spec: JobSpec, target: Target, user: str) -> list[Lack]:
    """`user`: who submits it."""
    found = [
        *_resources(spec, target),
        *_network(spec, target),
        *_isolation(spec, user),
        *_scheduling(spec, target, user),
        *_account(spec, target, user),
        *_partition(spec, target),
    ]
    if spec.resources.strict or (spec.resources.strict is None and target.config.node.strict):
        found = [
            Lack(path=one.path, what=f"strict: {one.what}", hint=one.hint, fatal=True)
            if one.path.rpartition(".")[2] in LIMITS
            else one
            for one in found
        ]
    return found


def _resources(spec: JobSpec, target: Target) -> Iterator[Lack]:
    asked, facts = spec.resources, target.facts
    for name, why in (
        ("blkio_weight", "Slurm gives block I/O no weights"),
        ("cpu_shares", "Slurm gives CPUs no weights"),
        ("pids", "Slurm bounds no number of processes"),
        ("cpuset", "Slurm chooses the CPUs; as many as are listed are asked for"),
    ):
        if getattr(asked, name) is not None:
            yield Lack(path=f"resources.{name}", what=why, hint="leave it away")
    if asked.cpus is not None and "cpus" not in facts.confines:
        what = "CPUs are counted, and nothing keeps a job on its own"
        yield Lack(path="resources.cpus", what=what, hint=f"TaskPlugin=task/cgroup, ConstrainCores=yes: {_ADMIN}")
    elif asked.cpus is not None and asked.cpus < 1:
        yield Lack(path="resources.cpus", what=f"a whole CPU is asked for instead of {asked.cpus:g}", hint="write 1")
    if asked.memory is not None and "memory" not in facts.confines:
        what = "memory is counted, and nothing holds a job to it"
        hint = f"TaskPlugin=task/cgroup, ConstrainRAMSpace=yes: {_ADMIN}"
        yield Lack(path="resources.memory", what=what, hint=hint)
    for name, count in asked.named.items():
        gres = target.config.slurm.gres.get(name, name)
        if count and gres not in facts.gres:
            known = ", ".join(facts.gres) or "none"
            what = f"the cluster has no gres {quote(gres)}"
            yield Lack(path=f"resources.{name}", what=what, hint=f"there is {known}", fatal=True)
        elif count and gres == "gpu":
            what = "they are counted, and their device nodes are not in the job's /dev"
            yield Lack(path=f"resources.{name}", what=what, hint="use sbatch for jobs that open them")
    if asked.scratch_on is ScratchOn.DISK:
        what = "scratch is in memory on a cluster, and counts as the job's"
        yield Lack(
            path="resources.scratch_on", what=what, hint="remove it, and have more memory or a folder", fatal=True
        )
    if spec.retry_memory != 1:
        what = "every attempt has the memory of the first"
        yield Lack(path="retry_memory", what=what, hint="leave it away, and ask for more memory")


def _network(spec: JobSpec, target: Target) -> Iterator[Lack]:
    facts, gres = target.facts, target.config.slurm.bandwidth
    if spec.slurm.nodes > 1 and spec.network.mode is NetworkMode.PRIVATE:
        what = "with a network of its own on each node, the nodes of a job do not reach each other"
        yield Lack(path="network.mode", what=what, hint='write mode = "host", or "none"', fatal=True)
    for name in ("egress", "ingress"):
        if getattr(spec.network, name) is None:
            continue
        if not facts.plugin:
            yield Lack(path=f"network.{name}", what="no rate is held: batchns's plug-in is not there", hint=_ADMIN)
        elif spec.network.mode is NetworkMode.HOST:
            yield Lack(path=f"network.{name}", what="no rate is held in the node's network", hint='mode = "private"')
        elif spec.network.mode is NetworkMode.PRIVATE and getattr(spec.network, name) > MOST_RATE:
            what = f"the cluster's plug-in holds no rate above {format_rate(MOST_RATE)}"
            yield Lack(path=f"network.{name}", what=what, hint=f'write at most "{format_rate(MOST_RATE)}"', fatal=True)
        if gres not in facts.gres:
            what = f"no node says how much it has: there is no gres {quote(gres)}"
            yield Lack(path=f"network.{name}", what=what, hint=_ADMIN)
    if any(isinstance(entry, Jobs | HostPorts) for entry in spec.network.allow):
        what = "jobs on a cluster reach neither each other nor ports of their node"
        yield Lack(path="network.allow", what=what, hint="leave it away")


def _isolation(spec: JobSpec, user: str) -> Iterator[Lack]:
    if user == "root":
        yield Lack(path="user", what="jobs of root do not run on a cluster", hint="submit as a user", fatal=True)
    if spec.isolation.identity is Identity.PRIVATE:
        what = "an id range of its own is root's to give"
        yield Lack(path="isolation.identity", what=what, hint='write identity = "self" or "root"', fatal=True)
    for name, kind in (("apparmor", "AppArmor profile"), ("selinux_label", "SELinux label")):
        if getattr(spec.isolation, name) is not None:
            what = f"no {kind} is set on a cluster's nodes"
            yield Lack(path=f"isolation.{name}", what=what, hint="remove it", fatal=True)
    if spec.notify:
        yield Lack(path="notify", what="a cluster runs no command for what becomes of a job", hint="leave it away")
    if any("%r" in (path or "").replace("%%", "") for path in (spec.stdout, spec.stderr)):
        what = "all attempts append to one file, whose %r is 1"
        yield Lack(path="stdout", what=what, hint="leave %r away")


def _scheduling(spec: JobSpec, target: Target, user: str) -> Iterator[Lack]:
    facts = target.facts
    if spec.priority > NEUTRAL and user not in facts.operators:
        what = f"only the cluster's operators raise a priority above {NEUTRAL}"
        yield Lack(path="priority", what=what, hint=f"write at most {NEUTRAL}, or choose another queue")
    wanted = spec.preempt.mode
    if wanted is not None and wanted.value.upper() != facts.preempt:
        what = f"the cluster preempts by {facts.preempt}, whatever a job says"
        yield Lack(path="preempt.mode", what=what, hint="leave it away")
    if spec.preempt.grace_time is not None and spec.preempt.grace_time > facts.kill_wait:
        what = f"cancelled, it is killed after {format_duration(facts.kill_wait)} (KillWait)"
        yield Lack(path="preempt.grace_time", what=what, hint=f'write at most "{format_duration(facts.kill_wait)}"')
    if spec.array is not None and max(spec.array.indices) >= facts.max_array:
        hint = f"write indices below {facts.max_array} (MaxArraySize)"
        yield Lack(path="array", what="the cluster takes no such large index", hint=hint, fatal=True)


def _account(spec: JobSpec, target: Target, user: str) -> Iterator[Lack]:
    known, account = target.facts.accounts, account_of(spec, target.config)
    # Slurm's own are lower case: sacctmgr makes them so.
    if known is None or not account or account.lower() in known:
        return
    near = did_you_mean(account, known)
    hint = f"did you mean {near}?" if near else f"there is {', '.join(known)}" if known else _ASK_FOR_ONE
    what = f"{quote(user)} has no account {quote(account)} on this cluster"
    yield Lack(path="slurm.account", what=what, hint=hint, fatal=target.facts.enforced)


def _partition(spec: JobSpec, target: Target) -> Iterator[Lack]:
    facts = target.facts
    name = partition_of(spec.queue, target)
    partition = facts.partition(name)
    named = name or spec.queue != "normal"
    if partition is None or (not name and spec.queue != "normal"):
        known = [one.name for one in facts.partitions]
        near = did_you_mean(spec.queue, known)
        hint = f"did you mean {near}?" if near else f"there is {', '.join(known)}"
        what = f"there is no partition {quote(name or spec.queue)}" if named else "the cluster has no default partition"
        yield Lack(path="queue", what=what, hint=hint, fatal=True)
        return
    yield from _counted(spec, target, partition)
    cpus = cpus_of(spec, target.config)
    if partition.cpus and cpus > partition.cpus:
        what = f"no node of {partition.name} has more than {partition.cpus} CPUs"
        yield Lack(path="resources.cpus", what=what, hint=f"write at most {partition.cpus}", fatal=True)
    asked = spec.resources.memory or defaults_of(spec.queue, target.config).memory or 0
    memory = mebibytes(asked + target.config.slurm.overhead)
    if partition.memory and memory > partition.memory:
        most = format_size(max(0, (partition.memory << 20) - target.config.slurm.overhead))
        what = f"no node of {partition.name} has more than {most} for a job"
        yield Lack(path="resources.memory", what=what, hint=f"write at most {most}", fatal=True)
    longest = allocation_seconds(spec, target.config)
    if longest is not None and partition.max_time is not None and minutes(longest) * 60 > partition.max_time:
        what = f"with its grace time and retries it takes {format_duration(minutes(longest) * 60)}"
        hint = f"{partition.name} allows {format_duration(partition.max_time)}"
        yield Lack(path="time_limit", what=what, hint=hint, fatal=True)


def _counted(spec: JobSpec, target: Target, partition: Partition) -> Iterator[Lack]:
    """More of a gres than any node has."""
    settings = target.config.slurm
    asked = [
        (f"resources.{name}", settings.gres.get(name, name), count) for name, count in spec.resources.named.items()
    ]
    if rate := bandwidth(spec):
        larger = max(("egress", "ingress"), key=lambda name: getattr(spec.network, name) or 0)
        asked.append((f"network.{larger}", settings.bandwidth, mbits(rate)))
    for path, gres, count in asked:
        if partition.gres is None or gres not in target.facts.gres:
            continue
        most = partition.gres.get(gres, 0)
        if count > most:
            what = f"no node of {partition.name} has more than {most} of the gres {quote(gres)}"
            yield Lack(path=path, what=what, hint=f"at most {most} can be asked for", fatal=True)
