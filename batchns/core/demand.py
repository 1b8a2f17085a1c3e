"""What a job takes from the node, and the bounds it runs within: its file plus the node's defaults.

1. Every default that depends on the node is filled in here, once, before anything is queued.
2. What can never fit is refused here, with the numbers, so that no queue ever holds a job that cannot start.
"""

from __future__ import annotations

from functools import lru_cache

from attrs import evolve, frozen

from batchns.core.node import NodeCapacity
from batchns.core.reasons import FULL, SCRATCH, Shortage
from batchns.errors import UserError
from batchns.model.config import Config, Queue
from batchns.model.job import Isolation, JobSpec, Resources, ScratchOn
from batchns.units import format_duration, quote

APPARMOR, SELINUX = "AppArmor", "SELinux"  # as `kernel.lsm` has them
PAGE = 4096  # memory limits are whole pages: what is counted is then what the kernel holds


@frozen(kw_only=True, cache_hash=True)
class Demand:
    """What is counted against the node. Jobs of equal demands are alike to placement.

    `whole` exclusive CPUs, or (where it is 0) `share` millionths of a common one; with `cpuset` on these CPUs and no
    others. Bytes, bits per second.
    """

    whole: int = 0
    share: int = 0
    cpuset: tuple[int, ...] = ()
    memory: int = 0
    egress: int = 0
    ingress: int = 0
    named: tuple[tuple[str, int], ...] = ()
    jobs: int = 1  # places for running jobs; 0 for one that has its place already

    def to_thaw(self, memory: int = 0) -> Demand:
        """What a frozen job needs to go on: what it lent, and the `memory` that it gave back."""
        return _to_thaw(self, memory)

    def with_memory(self, memory: int) -> Demand:
        return evolve(self, memory=memory)

    def kept(self, memory: int) -> Demand:
        """What it keeps while it is frozen: `memory`, named resources, its place."""
        return _kept(self, memory)

    @property
    def cpus(self) -> float:
        """CPUs as a user writes them: 2.0, 0.5."""
        return float(self.whole or self.share / FULL)


@lru_cache(maxsize=4096)  # few kinds of demands, asked for again and again
def _to_thaw(demand: Demand, memory: int) -> Demand:
    return evolve(demand, memory=memory, named=(), jobs=0)


@lru_cache(maxsize=4096)
def _kept(demand: Demand, memory: int) -> Demand:
    return evolve(demand, whole=0, share=0, cpuset=(), egress=0, ingress=0, memory=memory)


@frozen(kw_only=True)
class Bounds:
    """What the job is held to beyond its demand. Bytes, seconds, kernel weights."""

    cpu_shares: int
    memory: int
    pids: int
    scratch: int
    blkio_weight: int | None
    egress: int | None
    ingress: int | None
    time_limit: float | None
    grace_time: float
    strict: bool


def resolve(spec: JobSpec, capacity: NodeCapacity, config: Config) -> tuple[Demand, Bounds]:
    """`spec` with every default filled in. Whether it fits an empty node is for `Room.shortage` to say.

    Raises:
        UserError: the job contradicts itself or names what this node does not have.
    """
    if spec.queue not in config.queues:
        raise UserError(f"queue = {spec.queue!r}: no such queue", f"queues here: {', '.join(sorted(config.queues))}")
    queue = config.queues[spec.queue]
    asked, defaults = spec.resources, config.defaults_of(spec.queue)
    whole, share = _cpus(asked, defaults.cpus)
    _check_cpuset(asked, whole, capacity)
    _check_named(asked, capacity)
    _check_confines(spec.isolation, capacity)
    _check_scratch(asked, capacity)
    cpus = whole or share / FULL
    memory = asked.memory or defaults.memory
    if memory is None:
        most = queue.most("memory")
        memory = int(capacity.memory * cpus / len(capacity.cpus))
        memory = memory if most is None else min(memory, int(most))
    memory = max(PAGE, memory - memory % PAGE)
    scratch = asked.scratch if asked.scratch is not None else defaults.scratch
    counts = ((name, count) for name, count in asked.named.items() if count)
    grace = spec.preempt.grace_time
    demand = Demand(
        whole=whole,
        share=share,
        cpuset=asked.cpuset or (),
        memory=memory,
        egress=(spec.network.egress or 0) if capacity.egress is not None else 0,
        ingress=(spec.network.ingress or 0) if capacity.ingress is not None else 0,
        named=tuple(sorted((*counts, *(((SCRATCH, scratch),) if asked.scratch_on is ScratchOn.DISK else ())))),
    )
    bounds = Bounds(
        cpu_shares=asked.cpu_shares or max(2, round(1024 * cpus)),
        memory=memory,
        pids=asked.pids or defaults.pids,
        scratch=scratch,
        blkio_weight=asked.blkio_weight,
        egress=spec.network.egress,
        ingress=spec.network.ingress,
        time_limit=spec.time_limit if spec.time_limit is not None else defaults.time_limit,
        grace_time=defaults.grace_time if grace is None else grace,
        strict=config.node.strict if asked.strict is None else asked.strict,
    )
    _check_bounds(queue, demand, bounds)
    return demand, bounds


def refusal(lack: Shortage) -> UserError:
    """What to tell the user of a job that does not even fit an empty node."""
    needed, total = lack.amount(lack.needed), lack.amount(lack.total)
    return UserError(f"{lack.resource} = {needed}: this node has {total}", f"ask for at most {total}")


def _cpus(asked: Resources, default: float) -> tuple[int, int]:
    """(exclusive CPUs, share of a common one): one of the two is zero."""
    cpus = asked.cpus
    if cpus is None:
        cpus = float(len(asked.cpuset)) if asked.cpuset else default
    if 0 < cpus < 1:
        return 0, max(1, round(cpus * FULL))
    if cpus < 1 or cpus != int(cpus):
        raise UserError(f"cpus = {cpus:g}: neither whole nor below one", "write for example 2 or 0.5")
    return int(cpus), 0


def _check_cpuset(asked: Resources, whole: int, capacity: NodeCapacity) -> None:
    if not asked.cpuset:
        return
    known = set(capacity.cpus)
    if missing := [cpu for cpu in asked.cpuset if cpu not in known]:
        have = ", ".join(map(str, capacity.cpus))
        raise UserError(f"cpuset: CPU {missing[0]} is not handed out on this node", f"choose from {have}")
    if whole and whole != len(asked.cpuset):
        raise UserError(
            f"cpus = {whole} and a cpuset of {len(asked.cpuset)} contradict each other",
            f"leave cpus away (it is then {len(asked.cpuset)}), or write cpus below one to share these CPUs",
        )


def _check_bounds(queue: Queue, demand: Demand, bounds: Bounds) -> None:
    """A job that alone breaks a bound of its queue would wait for ever."""
    time_limit = queue.per_job.time_limit
    if time_limit is not None and (bounds.time_limit is None or bounds.time_limit > time_limit):
        asked = "none" if bounds.time_limit is None else format_duration(bounds.time_limit)
        most = format_duration(time_limit)
        raise UserError(f"time_limit = {asked}: this queue allows {most}", f'write time_limit = "{most}" or less')
    rates = {"egress": bounds.egress or 0, "ingress": bounds.ingress or 0}
    for whose, bound in (("job", queue.per_job), ("user", queue.per_user), ("queue", queue.total)):
        rows = (
            ("cpus", demand.whole * FULL or demand.share, None if bound.cpus is None else round(bound.cpus * FULL)),
            ("memory", demand.memory, bound.memory),
            ("egress", rates["egress"], bound.egress),
            ("ingress", rates["ingress"], bound.ingress),
            ("pids", bounds.pids, bound.pids),
            ("scratch", bounds.scratch, bound.scratch),
        )
        for name, needed, most_of in rows:
            if most_of is not None and needed > most_of:
                lack = Shortage(name, needed, most_of, most_of)
                allowed = lack.amount(most_of)
                raise UserError(
                    f"{name} = {lack.amount(needed)}: this queue allows a {whose} {allowed}"
                    if whose != "queue"
                    else f"{name} = {lack.amount(needed)}: this queue allows all its jobs together {allowed}",
                    f"ask for at most {allowed}, or choose another queue",
                )


def _check_confines(asked: Isolation, capacity: NodeCapacity) -> None:
    if capacity.confines is None:
        return
    for key, name, module in (("apparmor", asked.apparmor, APPARMOR), ("selinux_label", asked.selinux_label, SELINUX)):
        if name is not None and module not in capacity.confines:
            raise UserError(
                f"isolation.{key} = {quote(name)}: this machine's kernel does not run {module}",
                f"remove it, or have the machine booted with {module.lower()} among those of lsm= (batchns doctor)",
            )


def _check_scratch(asked: Resources, capacity: NodeCapacity) -> None:
    if asked.scratch_on is ScratchOn.DISK and SCRATCH not in capacity.named:
        raise UserError(
            'scratch_on = "disk": there is no folder for that here',
            "remove it, or have scratch_folder written under [node] in batchns.toml; runs without root have none",
        )


def _check_named(asked: Resources, capacity: NodeCapacity) -> None:
    for name in asked.named:
        if name not in capacity.named:
            have = ", ".join(sorted(capacity.named)) or "none"
            raise UserError(
                f"{name}: this node has no such resource",
                f"batchns.toml names: {have}; an administrator adds {name} under [node.resources]",
            )
