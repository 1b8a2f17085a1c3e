"""What a node has to hand out, as numbers that were read elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen


@frozen(kw_only=True)
class NodeCapacity:
    """`memory` in bytes, rates in bits per second; a rate of None is not counted (jobs may still be limited).

    `mems` gives the memory node of each CPU of `cpus`; a CPU that is not in it belongs to memory node 0. `cores` gives
    the core, by any number: CPUs of one core are hardware threads of it. A CPU that is not in it is a core of its own.
    """

    cpus: tuple[int, ...]  # CPU numbers, ascending, at least one
    memory: int
    mems: Mapping[int, int] = field(factory=dict)
    cores: Mapping[int, int] = field(factory=dict)
    egress: int | None = None
    ingress: int | None = None
    named: Mapping[str, int] = field(factory=dict)
    units: frozenset[str] = frozenset()  # those of `named` whose units are told apart, from 0
    confines: frozenset[str] | None = None  # see `kernel.lsm.running`; None: not known
    jobs: int | None = None  # at a time, as many as there are addresses and id ranges; None: not counted

    def memory_node(self, cpu: int) -> int:
        return self.mems.get(cpu, 0)

    def by_core(self) -> dict[int, tuple[tuple[int, ...], ...]]:
        """The CPUs of each core that jobs may use, by memory node; all in the order of the lowest CPU."""
        nodes: dict[int, dict[tuple[int, int], list[int]]] = {}
        for cpu in sorted(self.cpus):
            core = (0, self.cores[cpu]) if cpu in self.cores else (1, cpu)
            nodes.setdefault(self.memory_node(cpu), {}).setdefault(core, []).append(cpu)
        return {node: tuple(map(tuple, cores.values())) for node, cores in nodes.items()}
