"""Which limits are in force for a job on a node of a cluster, read from the kernel; and what the job has used."""

from __future__ import annotations

import os
import resource
from typing import Any

from batchns.supervise.batch.place import RATES, Way
from batchns.supervise.batch.wanted import Wanted

_UNLIMITED = 1 << 60
_TOP = "/sys/fs/cgroup"
_MEMORY = {
    "memory": ("memory.limit_in_bytes", "memory.max_usage_in_bytes"),
    "": ("memory.max", "memory.peak"),
}
_NOT_HERE = {
    "cpu_shares": "Slurm gives CPUs no weights",
    "blkio_weight": "Slurm gives block I/O no weights",
    "pids": "Slurm bounds no number of processes",
    "cpuset": "Slurm chooses the CPUs",
}


def limits(spec: Wanted, found: Way, number: str) -> dict[str, dict[str, Any]]:
    """Each as of `model.result.LimitReading`. `number`: Slurm's of the job."""
    asked = spec.resources
    readings: dict[str, dict[str, Any]] = {name: {"why": why} for name, why in found.lacks.items()}
    readings |= {name: {"why": why} for name, why in _NOT_HERE.items() if asked.get(name) is not None}
    memory, source = memory_limit()
    if memory is not None:
        readings["memory"] = {"value": memory, "source": source}
    elif asked.get("memory") is not None:
        readings["memory"] = {"why": "no cgroup of Slurm's bounds it on this node"}
    allowed, all_cpus = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    if allowed < all_cpus:
        readings["cpus"] = {"value": allowed, "source": "cpuset, of Slurm"}
    elif asked.get("cpus") is not None and asked["cpus"] < all_cpus:
        readings["cpus"] = {"why": "nothing keeps the job on its own CPUs on this node"}
    return readings | (_rates(spec, number) if found.prepared else {})


def _rates(spec: Wanted, number: str) -> dict[str, dict[str, Any]]:
    """What the prolog has put on the link, as it wrote it down where only root can."""
    held = dict(line.split("=", 1) for line in _read(f"{RATES}/{number}").splitlines() if "=" in line)
    found: dict[str, dict[str, Any]] = {}
    for name in spec.rates:
        rate = held.get(name, "0")
        known = int(rate) if rate.isdigit() else 0
        found[name] = {"value": known, "source": "tbf"} if known else {"why": "the prolog has set no rate"}
    return found


def memory_limit() -> tuple[int | None, str]:
    """The tightest of this process's own cgroups, and which file says so."""
    least, source = _UNLIMITED, ""
    for folder, (limit, _) in _own_folders():
        while len(folder) > len(_TOP):
            text = _read(f"{folder}/{limit}").strip()
            if text.isdigit() and int(text) < least:
                least, source = int(text), limit
            folder = os.path.dirname(folder)
    return (None, "") if least == _UNLIMITED else (least, source)


def usage() -> dict[str, Any]:
    """CPU seconds of all that has ended below this process; the memory's peak where a cgroup of the job counts it."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    found: dict[str, Any] = {"cpu_seconds": spent.ru_utime + spent.ru_stime}
    for folder, (_, peak) in _own_folders():
        text = _read(f"{folder}/{peak}").strip() if "/job_" in folder else ""
        if text.isdigit():
            found["memory_peak_bytes"] = int(text)
    return found


def oom_kills() -> int:
    """How many processes the kernel has killed for the job's memory."""
    for folder, _ in _own_folders():
        if "/job_" not in folder:
            continue
        for name in ("memory.oom_control", "memory.events"):
            words = dict(line.split() for line in _read(f"{folder}/{name}").splitlines())
            if "oom_kill" in words:
                return int(words["oom_kill"])
    return 0


def _own_folders() -> list[tuple[str, tuple[str, str]]]:
    """The folders of this process's cgroups that count memory: cgroups(7)."""
    found = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller, names in _MEMORY.items():
            if controller in controllers.split(","):
                found.append((f"{_TOP}/{controller}".rstrip("/") + path.rstrip("/"), names))
    return found


def _read(path: str) -> str:
    try:
        with open(path) as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""
