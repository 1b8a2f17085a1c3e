"""Limits as (file, value) pairs for v1 and for v2, and back again into what is in force. Pure.

1. What the host cannot enforce is named with its reason, never dropped and never written in vain.
2. Ratios between jobs survive the translation: a weight maps proportionally, on every version.
3. A reading is what the kernel's file says, in that file's unit, under that file's name.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from attrs import Factory, define, field, frozen

from batchns.kernel.cgroups import devices, parse
from batchns.kernel.cgroups.blockio import NO_BFQ
from batchns.kernel.cgroups.interface import CgroupPlan, DevicePlan, Limits, Write
from batchns.model.result import LimitReading

CONTROLLER = {  # of each limit, by its name on v2 (v1 says blkio for io)
    "cpu_shares": "cpu",
    "cpuset_cpus": "cpuset",
    "cpuset_mems": "cpuset",
    "memory": "memory",
    "blkio_weight": "io",
    "pids": "pids",
    "devices": "devices",
}
NOT_FROZEN = "only a frozen job can be bounded to what it holds"
_NO_TCP_LIMIT = "what TCP sockets hold is not counted in it: this kernel has no memory.kmem.tcp.limit_in_bytes"
_NO_SWAP_LIMIT = "swap is not counted in it - boot with swapaccount=1 to have that"


@frozen(kw_only=True)
class Host:
    """What rendering must know of the host, gathered beforehand."""

    cpus: str = ""  # that the jobs' common parent may use ("": not known)
    mems: str = ""
    bfq: bool = False  # some disk uses the bfq scheduler
    iocost: bool = False  # v2 only: io.cost.qos is enabled for some disk
    missing: Mapping[str, str] = field(factory=dict)  # controller: why it cannot be used


def weight_of_shares(shares: int) -> int:
    """cpu.shares (2 to 262144, default 1024) as cpu.weight (1 to 10000, default 100), proportionally.

    The kernel itself turns a weight into shares by weight * 1024 / 100, so this keeps both the default and every
    ratio. The linear and the log-quadratic maps of OCI runtimes fill the whole range instead: the linear one makes
    39 of 1024, the quadratic one makes 2.4:1 of 3:1. What falls outside is clamped (below 10, above 102400 shares).
    """
    return min(max((shares * 100 + 512) // 1024, 1), 10_000)


@define
class _Sheet:
    """Collects the writes for one job, and the limits that have no place to be written to."""

    directories: Mapping[str, str]  # controller: the job's directory
    host: Host
    writes: list[Write] = Factory(list)
    unavailable: list[tuple[str, str]] = Factory(list)

    def put(self, limit: str, file: str, value: object, *, required: bool = True) -> None:
        """Write `value` for `limit` into `file` of its controller, or note why that cannot be."""
        if value is None:
            return
        controller = CONTROLLER[limit]
        directory = self.directories.get(controller)
        if directory is None:
            why = self.host.missing.get(controller, f"this host has no {controller} cgroup controller")
            self.refuse(limit, why)
        else:
            self.writes.append(Write(f"{directory}/{file}", str(value), limit, required))

    def refuse(self, limit: str, why: str) -> None:
        if limit not in dict(self.unavailable):
            self.unavailable.append((limit, why))

    def plumb(self, controller: str, file: str, value: str) -> None:
        self.writes.append(Write(f"{self.directories[controller]}/{file}", value))

    def cpuset(self, limit: str, file: str, asked: str | None, offered: str) -> bool:
        """Put a CPU or node list that lies within `offered`; whether it was put.

        v2 would accept CPUs that are not there and ignore the list, v1 would fail without saying why.
        """
        if asked is None:
            return False
        if offered and not parse.cpu_list(asked) <= parse.cpu_list(offered):
            self.refuse(limit, f"{asked} was asked for, but only {offered} is available to {file} here")
            return False
        self.put(limit, file, asked)
        return "cpuset" in self.directories


def v1(directories: Mapping[str, str], limits: Limits, host: Host) -> tuple[list[Write], list[tuple[str, str]]]:
    """The writes of `limits` for cgroup v1, and what is unavailable. `directories`: controller to the job's own."""
    sheet = _Sheet(directories, host)
    sheet.put("cpu_shares", "cpu.shares", limits.cpu_shares)
    _v1_cpuset(sheet, limits)
    sheet.put("memory", "memory.limit_in_bytes", limits.memory)  # first: memsw must never be the smaller one
    sheet.put("memory", "memory.memsw.limit_in_bytes", limits.memory, required=False)
    sheet.put("memory", "memory.kmem.tcp.limit_in_bytes", limits.memory, required=False)  # v1 counts it apart
    sheet.put("pids", "pids.max", limits.pids)
    if limits.blkio_weight is not None and "io" in directories and not host.bfq:
        sheet.refuse("blkio_weight", NO_BFQ)
    else:
        sheet.put("blkio_weight", "blkio.bfq.weight", limits.blkio_weight, required=False)
    return sheet.writes, sheet.unavailable


def _v1_cpuset(sheet: _Sheet, limits: Limits) -> None:
    """A v1 cpuset takes no process before it has both CPUs and nodes, so what was not asked for is copied down.

    That also holds for a cpuset that is mounted together with a controller which every job needs.
    """
    cpus = sheet.cpuset("cpuset_cpus", "cpuset.cpus", limits.cpuset_cpus, sheet.host.cpus)
    mems = sheet.cpuset("cpuset_mems", "cpuset.mems", limits.cpuset_mems, sheet.host.mems)
    own = sheet.directories.get("cpuset")
    shared = own is not None and list(sheet.directories.values()).count(own) > 1
    if not (cpus or mems or shared):
        return
    if not cpus:
        sheet.plumb("cpuset", "cpuset.cpus", sheet.host.cpus)
    if not mems:
        sheet.plumb("cpuset", "cpuset.mems", sheet.host.mems)


def v2(
    directory: str, controllers: Collection[str], limits: Limits, host: Host
) -> tuple[list[Write], list[tuple[str, str]]]:
    """The writes of `limits` for cgroup v2 below the job's `directory`, and what is unavailable."""
    sheet = _Sheet(dict.fromkeys(controllers, directory), host)
    shares = limits.cpu_shares
    sheet.put("cpu_shares", "cpu.weight", None if shares is None else weight_of_shares(shares))
    sheet.cpuset("cpuset_cpus", "cpuset.cpus", limits.cpuset_cpus, host.cpus)
    sheet.cpuset("cpuset_mems", "cpuset.mems", limits.cpuset_mems, host.mems)
    sheet.put("memory", "memory.max", limits.memory)
    if limits.memory is not None:
        sheet.put("memory", "memory.swap.max", 0, required=False)
    sheet.put("pids", "pids.max", limits.pids)
    if limits.blkio_weight is not None and "io" in controllers and not (host.bfq or host.iocost):
        sheet.refuse("blkio_weight", f"{NO_BFQ} (or enable iocost in io.cost.qos)")
        return sheet.writes, sheet.unavailable
    # All three files have 100 as their default and compare by ratio, so one number serves every disk.
    if host.bfq or "io" not in controllers:
        sheet.put("blkio_weight", "io.bfq.weight", limits.blkio_weight, required=False)
    if host.iocost and "io" in controllers:
        sheet.put("blkio_weight", "io.weight", limits.blkio_weight, required=False)
    return sheet.writes, sheet.unavailable


def readings(limits: Limits, plan: CgroupPlan, values: Mapping[str, str | int]) -> dict[str, LimitReading]:
    """What is in force, one entry for each limit asked for; see `Driver.readings`."""
    unavailable = dict(plan.unavailable)
    found = {}
    for limit, asked in limits._asdict().items():
        if asked is None:
            continue
        if limit == "devices" and plan.devices.directory:
            found[limit] = _device_reading(limits, plan.devices, values)
            continue
        writes = [write for write in plan.writes if write.limit == limit]
        if writes:
            found[limit] = _reading(limit, writes, values)
        else:
            found[limit] = LimitReading(None, why=unavailable.get(limit, "it is not in the launch plan"))
    return found


def _reading(limit: str, writes: list[Write], values: Mapping[str, str | int]) -> LimitReading:
    first, *others = writes
    source = first.path.rpartition("/")[2]
    text = values.get(first.path)
    if text is None or isinstance(text, int):
        why = "it was not written" if text is None else f"the kernel refused {first.value}: {os.strerror(text)}"
        return LimitReading(None, source, why)
    value = text.strip() if CONTROLLER[limit] == "cpuset" else parse.number(text)
    if value is None or value == "":
        return LimitReading(None, source, f"the kernel says {text.strip()!r}")
    failed = [write.path for write in others if limit == "memory" and not isinstance(values.get(write.path), str)]
    tcp = [path for path in failed if ".tcp." in path]
    return LimitReading(value, source, _NO_SWAP_LIMIT if failed != tcp else _NO_TCP_LIMIT if tcp else "")


def device_rules(
    directory: str | None, limits: Limits, host: Host, *, program: bool
) -> tuple[DevicePlan, list[tuple[str, str]]]:
    """A job's device rules in its `directory`, and why there are none. `program`: v2 has no files for them."""
    if limits.devices is None:
        return DevicePlan(), []
    if directory is None or (program and "devices" in host.missing):
        why = host.missing.get("devices", "this host has no devices cgroup controller")
        return DevicePlan(), [("devices", why)]
    return (devices.v2 if program else devices.v1)(directory, limits.devices), []


def _device_reading(limits: Limits, plan: DevicePlan, values: Mapping[str, str | int]) -> LimitReading:
    path = devices.source(plan)
    name, said = path.rpartition("/")[2], values.get(path)
    if not isinstance(said, str):
        return LimitReading(None, name, "it was not written")
    rules = said.split("\n")
    if not plan.program and rules[0].startswith("a"):
        return LimitReading(None, name, f"the kernel says {rules[0]!r}")
    if not plan.program:
        return LimitReading(", ".join(filter(None, rules)), name)
    if said == "0":
        return LimitReading(None, name, "the kernel shows no program in the job's cgroup")
    return LimitReading(devices.text(limits.devices or ()), name)


def within(limits: Limits, controllers: Collection[str]) -> tuple[Limits, Limits]:
    """`limits` divided in two: those that `controllers` enforce, and the rest."""
    mine = {limit: value for limit, value in limits._asdict().items() if CONTROLLER[limit] in controllers}
    return Limits(**mine), limits._replace(**dict.fromkeys(mine))
