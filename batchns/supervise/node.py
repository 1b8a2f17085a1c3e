"""What this node has to hand out: batchns.toml where it says, the machine where it does not.

What the kernel lets this very process use is the bound: a CPU or memory node outside its own cpuset cannot be given on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from batchns.core.node import NodeCapacity
from batchns.core.reasons import SCRATCH
from batchns.errors import HostError
from batchns.kernel import lsm
from batchns.kernel.network import addresses
from batchns.model.config import Config
from batchns.supervise.confinement import check_default
from batchns.supervise.idranges import id_starts
from batchns.supervise.scratch import room
from batchns.units import format_size


def read_node(config: Config, *, proc: str = "/proc", sys: str = "/sys") -> NodeCapacity:
    """The node's capacity. `proc` and `sys`: where these file systems are mounted.

    Sources: proc_pid_status(5) Cpus_allowed_list, proc_meminfo(5) MemTotal, sysfs devices/system/node and
    devices/system/cpu (Documentation/admin-guide/cputopology.rst).

    Raises:
        HostError: batchns.toml hands out CPUs or memory that this process does not have, or names for all jobs a
            profile or label of what this kernel does not run.
    """
    status = Path(proc, "self/status").read_text()
    allowed = cpu_list(_field(status, "Cpus_allowed_list"))
    cpus = config.node.cpus or allowed
    if missing := [cpu for cpu in cpus if cpu not in allowed]:
        raise HostError(
            f"node.cpus: CPU {missing[0]} is not available to batchns",
            f"choose from {_field(status, 'Cpus_allowed_list')}, or leave cpus away in batchns.toml",
        )
    total = int(_field(Path(proc, "meminfo").read_text(), "MemTotal").removesuffix("kB")) * 1024
    memory = config.node.memory or total
    if memory > total:
        raise HostError(
            f"node.memory: {format_size(memory)} is more than this machine has",
            f"write at most {format_size(total)}, or leave memory away in batchns.toml",
        )
    confines = lsm.running(proc=proc, sys=sys)
    check_default(config, confines)
    scratch = room(config, sys=sys)
    of_cpu = memory_nodes(Path(sys))
    return NodeCapacity(
        cpus=tuple(sorted(cpus)),
        memory=memory,
        mems={cpu: of_cpu.get(cpu, 0) for cpu in cpus},
        cores=cores(Path(sys), cpus),
        egress=config.node.egress,
        ingress=config.node.ingress,
        named=config.node.counts if scratch is None else {**config.node.counts, SCRATCH: scratch},
        units=frozenset(config.node.units),
        confines=confines,
        jobs=min(len(id_starts(config.isolation)), addresses.capacity(config.network.pool)),
    )


def pids_of_jobs(config: Config, *, proc: str = "/proc") -> int:
    """Processes and threads of all jobs together: by default the machine's own services keep a quarter.

    Sources: proc_sys_kernel(5) pid_max, threads-max. Tasks of all PID namespaces count against both.
    """
    most = min(int(Path(proc, "sys/kernel", name).read_text()) for name in ("pid_max", "threads-max"))
    return config.node.pids or most * 3 // 4


def memory_nodes(sys: Path) -> dict[int, int]:
    """The memory node of each CPU; empty where the kernel knows no memory nodes."""
    return {
        cpu: int(folder.name.removeprefix("node"))
        for folder in sorted((sys / "devices/system/node").glob("node[0-9]*"))
        for cpu in cpu_list((folder / "cpulist").read_text())
    }


def cores(sys: Path, cpus: Iterable[int]) -> dict[int, int]:
    """The core of each of `cpus`, as the lowest CPU of it; one whose threads the kernel does not tell is left out.

    `core_cpus_list` has been the name since Linux 5.3, `thread_siblings_list` before.
    """
    found = {}
    for cpu in cpus:
        topology = sys / f"devices/system/cpu/cpu{cpu}/topology"
        for name in ("core_cpus_list", "thread_siblings_list"):
            try:
                siblings = cpu_list((topology / name).read_text())
            except FileNotFoundError:
                continue
            if siblings:
                found[cpu] = siblings[0]
                break
    return found


def cpu_list(text: str) -> tuple[int, ...]:
    """The numbers in the kernel's list format, "0-3,8". cpuset(7), "List format"."""
    numbers: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(numbers))


def format_cpu_list(numbers: tuple[int, ...]) -> str:
    """The inverse of `cpu_list`, for ascending numbers."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


def _field(text: str, name: str) -> str:
    match = re.search(rf"^{name}:\s*(.*)$", text, re.MULTILINE)
    if match is None:
        raise HostError(f"/proc has no {name}", "batchns needs Linux with /proc mounted")
    return match[1].strip()
