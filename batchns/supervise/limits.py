"""From a job's bounds to the kernel's limits, and back to what is really in force."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from batchns.core.job import Job
from batchns.core.placement import Placement
from batchns.kernel.cgroups.interface import Device, Limits
from batchns.model.job import NetworkMode
from batchns.model.result import LimitReading
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


UNCONNECTED = "an ordinary user has no link to shape: this job has its loopback only"


def network_readings(job: Job, shapers: Mapping[str, int | None], *, connected: bool = True) -> dict[str, LimitReading]:
    """The rates that were asked for, as the kernel holds them. `connected`: there are links to other places at all."""
    if not connected and job.spec.network.mode is NetworkMode.PRIVATE:
        rates = {"egress": job.bounds.egress, "ingress": job.bounds.ingress}
        lost = ["network", *(name for name, rate in rates.items() if rate is not None)]
        return dict.fromkeys(lost, LimitReading(None, "", UNCONNECTED))
    asked = {"egress": job.bounds.egress, "ingress": job.bounds.ingress}
    return {name: _rate(job, shapers.get(name)) for name, rate in asked.items() if rate is not None}


_NOT_READ_BACK = {
    False: "as mounted: the job was over before it could be read back",
    True: "as mounted: only root may look into a job's mounts",
}


def scratch_readings(job: Job, pid: int) -> dict[str, LimitReading]:
    """The size of the job's /tmp, read through its init (`pid`); a job may be over before that.

    Where a bind takes the place of /tmp the file system there is not ours, and may not even answer. Then there is
    something to tell only to a job that had asked for a size.
    """
    if any(bind.target == SCRATCH for bind in job.spec.isolation.binds):
        asked = job.spec.resources.scratch is not None
        return {"scratch": LimitReading(None, "tmpfs", f"a bind takes the place of {SCRATCH}")} if asked else {}
    try:
        found = os.statvfs(f"/proc/{pid}/root{SCRATCH}")
    except (FileNotFoundError, ProcessLookupError, PermissionError) as error:
        why = _NOT_READ_BACK[isinstance(error, PermissionError) and os.geteuid() != 0]
        return {"scratch": LimitReading(job.bounds.scratch, "tmpfs", why)}
    return {"scratch": LimitReading(found.f_blocks * found.f_frsize, "tmpfs")}


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


def missing(unavailable: Iterable[tuple[str, str]]) -> str:
    """Why a strict job is refused: ("memory", "no controller") becomes "strict: memory: no controller"; "" for none."""
    reasons = [f"{limit}: {why}" for limit, why in unavailable]
    return f"strict: {'; '.join(reasons)}" if reasons else ""


def _rate(job: Job, found: int | None) -> LimitReading:
    if found is not None:
        return LimitReading(found, "tbf")
    mode = job.spec.network.mode
    if mode is NetworkMode.PRIVATE:
        return LimitReading(None, "tbf", "the kernel shows no shaper on the job's link")
    return LimitReading(None, "", f'network mode "{mode.value}" has no link to shape')
