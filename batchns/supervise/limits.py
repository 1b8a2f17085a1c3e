"""From a job's bounds to the kernel's limits, and back to what is really in force."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from batchns.core.job import Job
from batchns.core.placement import Placement
from batchns.kernel.cgroups.interface import Device, Limits
from batchns.model.job import NetworkMode, ScratchOn
from batchns.model.reach import HostPorts, Jobs
from batchns.model.result import LimitReading
from batchns.supervise.networks import NO_LINK, Networks
from batchns.supervise.node import format_cpu_list

SCRATCH = "/tmp"


def limits_of(job: Job, placement: Placement, devices: tuple[Device, ...]) -> Limits:
    """What the cgroups are to enforce. `devices`: those that the job may open."""
    bounds = job.bounds
    return Limits(
        cpu_shares=bounds.cpu_shares,
        cpuset_cpus=format_cpu_list(placement.cpus),
        cpuset_mems=format_cpu_list(placement.mems),
        memory=bounds.memory,
        blkio_weight=bounds.blkio_weight,
        pids=bounds.pids,
        devices=devices,
    )


def on_cpus(limits: Limits, placement: Placement) -> Limits:
    """The same limits on other CPUs."""
    return limits._replace(cpuset_cpus=format_cpu_list(placement.cpus), cpuset_mems=format_cpu_list(placement.mems))


def network_readings(
    job: Job, shapers: Mapping[str, int | None], networks: Networks, *, unshaped: str = ""
) -> dict[str, LimitReading]:
    """The rates that were asked for, as the kernel holds them, and what of the network is missing.

    `unshaped`: why there are none in the host's network.
    """
    rates = {"egress": job.bounds.egress, "ingress": job.bounds.ingress}
    asked = [name for name, rate in rates.items() if rate is not None]
    if networks.connected or job.spec.network.mode is not NetworkMode.PRIVATE:
        return {name: _rate(job, shapers.get(name), unshaped) for name in asked}
    if not networks.pasta:
        why = f"{NO_LINK}: this job has its loopback only ({networks.unconnected})"
        return dict.fromkeys(("network", *asked), LimitReading(None, "", why))
    lost = dict.fromkeys(asked, LimitReading(None, "", f"{NO_LINK}: pasta holds no rate"))
    if any(isinstance(entry, Jobs | HostPorts) for entry in job.spec.network.allow):
        lost["allow"] = LimitReading(None, "", "through pasta a job reaches neither other jobs nor the host's ports")
    return lost


_NOT_READ_BACK = {
    False: "as mounted: the job was over before it could be read back",
    True: "as mounted: only root may look into a job's mounts",
}


def scratch_readings(job: Job, pid: int) -> dict[str, LimitReading]:
    """The size of the job's /tmp, read through its init (`pid`); a job may be over before that.

    Where a bind takes the place of /tmp the file system there is not ours, and may not even answer. Then there is
    something to tell only to a job that had asked for a size.
    """
    source = "ext4" if job.spec.resources.scratch_on is ScratchOn.DISK else "tmpfs"
    if any(bind.target == SCRATCH for bind in job.spec.isolation.binds):
        asked = job.spec.resources.scratch is not None
        return {"scratch": LimitReading(None, source, f"a bind takes the place of {SCRATCH}")} if asked else {}
    try:
        found = os.statvfs(f"/proc/{pid}/root{SCRATCH}")
    except (FileNotFoundError, ProcessLookupError, PermissionError) as error:
        why = _NOT_READ_BACK[isinstance(error, PermissionError) and os.geteuid() != 0]
        return {"scratch": LimitReading(job.bounds.scratch, source, why)}
    return {"scratch": LimitReading(found.f_blocks * found.f_frsize, source)}


def overlay_readings(job: Job, pid: int) -> dict[str, LimitReading]:
    """The size of the layer on top of the job's own root, where it asked for one. As `scratch_readings`."""
    asked = job.spec.isolation.overlay
    if asked is None:
        return {}
    try:
        found = os.statvfs(f"/proc/{pid}/root/")
    except (FileNotFoundError, ProcessLookupError, PermissionError) as error:
        why = _NOT_READ_BACK[isinstance(error, PermissionError) and os.geteuid() != 0]
        return {"overlay": LimitReading(asked, "overlay", why)}
    return {"overlay": LimitReading(found.f_blocks * found.f_frsize, "overlay")}


def missing(unavailable: Iterable[tuple[str, str]], *, root: bool = True) -> str:
    """Why a strict job is refused: ("memory", "no controller") becomes "strict: memory: no controller"; "" for none.

    `root` False: device rules, which no job asks for and no user can have, are named in the result and refuse nothing.
    """
    reasons = [f"{limit}: {why}" for limit, why in unavailable if root or limit != "devices"]
    return f"strict: {'; '.join(reasons)}" if reasons else ""


def _rate(job: Job, found: int | None, unshaped: str) -> LimitReading:
    mode = job.spec.network.mode
    if mode is NetworkMode.HOST:
        why = "" if found is not None else unshaped or "the kernel shows no rate for the job's cgroup"
        return LimitReading(found, "bpf", why)
    if found is not None:
        return LimitReading(found, "tbf")
    if mode is NetworkMode.PRIVATE:
        return LimitReading(None, "tbf", "the kernel shows no shaper on the job's link")
    return LimitReading(None, "", f'network mode "{mode.value}" has no link to shape')
