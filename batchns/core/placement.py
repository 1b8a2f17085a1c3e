"""Which CPUs a job gets, and whether everything else it needs is free.

1. No resource is ever handed out twice: whole CPUs to one job, shares of a common CPU up to one CPU in sum.
2. Small things are packed and large ones kept together: a share goes to the fullest CPU that has room, whole CPUs
   to as few cores as will do, of the memory node that they fill best, so that what stays free stays useful.
3. Units of a named resource that are told apart are handed out from the lowest number up.
4. Equal input gives equal placement: ties go to the lowest number.
"""

from __future__ import annotations

import sys

from attrs import evolve, frozen

from batchns.core.demand import Demand
from batchns.core.node import NodeCapacity
from batchns.core.reasons import FULL, Shortage

_NOT_THERE = 2 * FULL  # the load of a CPU that the node does not have
_UNCOUNTED = 1 << 62  # bits per second: more than all jobs ask for


@frozen
class Placement:
    """Where a job runs: CPU numbers and the memory nodes that belong to them, both ascending.

    `units`: which ones it has of each named resource whose units are told apart, by name, ascending.
    """

    cpus: tuple[int, ...]
    mems: tuple[int, ...]
    units: tuple[tuple[str, tuple[int, ...]], ...] = ()


class Room:
    """What is free of a node. `copy` it to try something out: decisions never touch the original.

    Jobs may hold what the node does not have, or not any more: then less than nothing is free, until they end.
    """

    __slots__ = (
        "_capacity",
        "_cores",
        "_idle",
        "_load",
        "_single",
        "_slack",
        "_units",
        "egress",
        "ingress",
        "jobs",
        "memory",
        "named",
    )

    def __init__(self, capacity: NodeCapacity) -> None:
        self._capacity = capacity
        self._cores = capacity.by_core()
        cores = [core for node in self._cores.values() for core in node]
        plain = len(self._cores) == 1 and all(len(core) == 1 for core in cores)
        self._single = capacity.cpus if plain else ()  # there is nothing to choose by: the lowest are as good as any
        self._load = dict.fromkeys(capacity.cpus, 0)  # millionths taken, FULL for an exclusive CPU
        self._idle = len(capacity.cpus)
        self._slack = FULL  # the largest free part of any one CPU
        self.memory = capacity.memory
        self.egress = _UNCOUNTED if capacity.egress is None else capacity.egress
        self.ingress = _UNCOUNTED if capacity.ingress is None else capacity.ingress
        self.named = dict(capacity.named)
        self._units = {name: (1 << capacity.named[name]) - 1 for name in capacity.units}  # free ones, a bit each
        self.jobs = sys.maxsize if capacity.jobs is None else capacity.jobs

    def copy(self) -> Room:
        other = Room.__new__(Room)
        other._capacity, other._cores, other._load = self._capacity, self._cores, self._load.copy()
        other._idle, other._slack, other._single = self._idle, self._slack, self._single
        other.memory, other.egress, other.ingress = self.memory, self.egress, self.ingress
        other.named, other.jobs = self.named.copy(), self.jobs
        other._units = self._units.copy()
        return other

    @property
    def exhausted(self) -> bool:
        """No CPU has any part left, or there are as many jobs as may be: nothing at all can be placed."""
        return self._slack == 0 or self.jobs <= 0

    @property
    def idle(self) -> int:
        """How many CPUs nobody uses."""
        return self._idle

    def load(self, cpu: int) -> int:
        """Millionths of `cpu` that are taken."""
        return self._load[cpu]

    def fits(self, demand: Demand) -> bool:
        """Whether `place` would find a place. Cheap: it is asked of every kind of waiting job."""
        return (
            self._fits_cpus(demand)
            and (demand.jobs <= self.jobs or not demand.jobs)
            and (demand.memory <= self.memory or not demand.memory)
            and (demand.egress <= self.egress or not demand.egress)
            and (demand.ingress <= self.ingress or not demand.ingress)
            and all(count <= self.named.get(name, 0) for name, count in demand.named)
        )

    def shortage(self, demand: Demand) -> Shortage | None:
        """The first resource that is lacking, with the numbers; None when `demand` fits."""
        if not self._fits_cpus(demand):
            return self._cpu_shortage(demand)
        capacity = self._capacity
        plain = (
            ("jobs", demand.jobs, self.jobs, capacity.jobs or 0),
            ("memory", demand.memory, self.memory, capacity.memory),
            ("egress", demand.egress, self.egress, capacity.egress or 0),
            ("ingress", demand.ingress, self.ingress, capacity.ingress or 0),
            *((name, count, self.named.get(name, 0), capacity.named.get(name, 0)) for name, count in demand.named),
        )
        return next((Shortage(*entry) for entry in plain if entry[1] > max(entry[2], 0)), None)

    def place(self, demand: Demand) -> Placement | None:
        """A place for `demand`, or None. Nothing is taken yet."""
        if not self.fits(demand):
            return None
        if demand.cpuset:
            cpus = demand.cpuset
        elif demand.whole:
            cpus = self._whole(demand.whole)
        else:
            cpus = (self._common(demand.share),)
        units = tuple((name, self._lowest(name, count)) for name, count in demand.named if name in self._units)
        return Placement(cpus, tuple(sorted({self._capacity.memory_node(cpu) for cpu in cpus})), units)

    def take(self, demand: Demand, placement: Placement) -> None:
        """`placement` is used from now on."""
        self._change(demand, placement, 1)

    def give(self, demand: Demand, placement: Placement) -> None:
        """`placement` is free again."""
        self._change(demand, placement, -1)

    def withhold(self, demand: Demand) -> None:
        """What is free of `demand` is kept for the job that waits for the rest."""
        idle = [cpu for cpu, load in self._load.items() if load == 0]
        wanted = [cpu for cpu in demand.cpuset if cpu in idle] or idle
        self._change(
            evolve(demand, whole=1, share=0, memory=0, egress=0, ingress=0, named=(), jobs=0),
            Placement(tuple(wanted[: demand.whole or 1]), ()),
            1,
        )
        self.memory -= min(self.memory, demand.memory)
        self.egress -= min(self.egress, demand.egress)
        self.ingress -= min(self.ingress, demand.ingress)
        self.jobs -= min(self.jobs, demand.jobs)
        for name, count in demand.named:
            self.named[name] -= min(self.named[name], count)

    def _change(self, demand: Demand, placement: Placement, sign: int) -> None:
        # A share with a cpuset of several CPUs is counted in full on each: it may run on any one of them.
        amount = sign * (FULL if demand.whole else demand.share)
        for cpu in placement.cpus:
            before = self._load.get(cpu)
            if before is None:
                continue  # the node has it no longer
            self._load[cpu] = before + amount
            self._idle += (before + amount == 0) - (before == 0)
        self._slack = FULL if self._idle else FULL - min(self._load.values())
        self.jobs -= sign * demand.jobs
        self.memory -= sign * demand.memory
        self.egress -= sign * demand.egress
        self.ingress -= sign * demand.ingress
        for name, count in demand.named:
            if name in self.named:
                self.named[name] -= sign * count
        if demand.named:  # else the units are not what is given or taken: a frozen job keeps its own
            for name, numbers in placement.units:
                if name in self._units:
                    units = sum(1 << number for number in numbers if number < self._capacity.named[name])
                    self._units[name] = self._units[name] & ~units if sign > 0 else self._units[name] | units

    def _fits_cpus(self, demand: Demand) -> bool:
        if demand.cpuset:
            most = 0 if demand.whole else FULL - demand.share
            return all(self._load.get(cpu, _NOT_THERE) <= most for cpu in demand.cpuset)
        if demand.whole:
            return demand.whole <= self._idle
        return demand.share <= self._slack

    def _cpu_shortage(self, demand: Demand) -> Shortage:
        if demand.cpuset:
            most = 0 if demand.whole else FULL - demand.share
            free = sum(self._load.get(cpu, _NOT_THERE) <= most for cpu in demand.cpuset)
            return Shortage("cpuset", len(demand.cpuset), free, len(demand.cpuset))
        needed, free = (demand.whole * FULL, self._idle * FULL) if demand.whole else (demand.share, self._slack)
        return Shortage("cpus", needed, free, len(self._load) * FULL)

    def _lowest(self, name: str, count: int) -> tuple[int, ...]:
        """The `count` lowest units of `name` that are free."""
        free, found = self._units[name], []
        for _ in range(count):
            lowest = free & -free
            found.append(lowest.bit_length() - 1)
            free ^= lowest
        return tuple(found)

    def _idle_cores(self) -> dict[int, list[tuple[int, list[int]]]]:
        """By memory node that has any: the idle CPUs of each core that has any, and how many threads it has in all."""
        load = self._load
        nodes = {}
        for node, cores in self._cores.items():
            idle = [(len(core), free) for core in cores if (free := [cpu for cpu in core if not load[cpu]])]
            if idle:
                nodes[node] = idle
        return nodes

    def _whole(self, count: int) -> tuple[int, ...]:
        """`count` idle CPUs: of one memory node where there are so many, else of as few memory nodes as will do."""
        if self._single:
            free = [cpu for cpu in self._single if not self._load[cpu]]
            return tuple(free[:count])
        nodes = self._idle_cores()
        idle = {node: sum(len(free) for _, free in cores) for node, cores in nodes.items()}
        choices = []
        for node, cores in nodes.items():
            if idle[node] >= count:
                used = _gather(cores, count)
                choices.append((len(used), idle[node], node, used))
        if choices:
            return tuple(sorted(cpu for core in min(choices)[3] for cpu in core))
        chosen: list[int] = []
        for node in sorted(nodes, key=lambda node: (-idle[node], node)):
            used = _gather(nodes[node], min(count - len(chosen), idle[node]))
            chosen += (cpu for core in used for cpu in core)
            if len(chosen) == count:
                break
        return tuple(sorted(chosen))

    def _common(self, share: int) -> int:
        """The fullest CPU with room for `share`; an idle one last, and of those first one whose core is in use anyway.

        Then of the memory node with the fewest idle CPUs.
        """
        shared = [(-load, cpu) for cpu, load in self._load.items() if 0 < load <= FULL - share]
        if shared:
            return min(shared)[1]
        choices = []
        for cores in self._idle_cores().values():
            idle = sum(len(free) for _, free in cores)
            choices += [(len(free) == threads, idle, free[0]) for threads, free in cores]
        return min(choices)[2]


def _gather(cores: list[tuple[int, list[int]]], count: int) -> list[list[int]]:
    """`count` CPUs of `cores` (threads in all, idle ones), which have so many: whole cores first, the largest ones.

    What is less than a core goes where it fills best, so that it breaks no core that another job could have whole.
    """
    used: list[list[int]] = []
    rest = []
    for threads, free in sorted(cores, key=_larger_first):
        if threads == len(free) <= count:
            used.append(free)
            count -= threads
        else:
            rest.append(free)
    while count:
        enough = [(len(free), free) for free in rest if len(free) >= count]
        best = min(enough)[1] if enough else max(rest, key=len)
        rest.remove(best)
        used.append(best[:count])
        count -= len(used[-1])
    return used


def _larger_first(core: tuple[int, list[int]]) -> tuple[int, int]:
    threads, free = core
    return -threads, free[0]
