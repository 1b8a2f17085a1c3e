"""What the cgroups of this machine offer: the hierarchies, their controllers, weights for disks, swap accounting.

1. A controller is usable when a cgroup can be made in it: one is made, and removed.
2. Nothing is enabled, mounted or delegated here: the machine is described as it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from batchns.kernel.cgroups.devices import ROOTS, why_no_program
from batchns.kernel.facts import Fact, Place, Status


@frozen
class Hierarchy:
    """One mounted cgroup hierarchy: 1 or 2, where, the controllers it holds, and where this process is in it."""

    version: int
    path: Path
    controllers: frozenset[str]
    own: Path


_V1_CONTROLLERS = frozenset({"cpu", "cpuset", "cpuacct", "memory", "blkio", "pids", "freezer", "devices"})


def hierarchies(place: Place) -> list[Hierarchy]:
    """Read from mountinfo and cgroup of proc(5). Of several mounts of one hierarchy, the first counts."""
    own: dict[str, str] = {}
    for line in (place.proc / "self/cgroup").read_text().splitlines():
        _, names, inside = line.split(":", 2)
        own.update(dict.fromkeys(names.split(","), inside))
    found: dict[frozenset[str], Hierarchy] = {}
    for line in (place.proc / "self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        path = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4]))
        if kind == "cgroup2":
            controllers = frozenset((path / "cgroup.controllers").read_text().split())
            key, home = frozenset({""}), own.get("", "/")
        else:
            controllers = key = frozenset(options.split(",")) & _V1_CONTROLLERS
            home = next((own[name] for name in controllers if name in own), "/")
        here = path / home.lstrip("/")
        if key:
            version = 2 if kind == "cgroup2" else 1
            found.setdefault(key, Hierarchy(version, path, controllers, here if here.is_dir() else path))
    return list(found.values())


def mode(found: Sequence[Hierarchy]) -> str:
    """`v2`, `v1`, `hybrid` (v1 controllers beside a v2 tree), or "" where no controller is mounted."""
    old = any(h.version == 1 and h.controllers for h in found)
    new = [h for h in found if h.version == 2]
    if old:
        return "hybrid" if new else "v1"
    return "v2" if any(h.controllers for h in new) else ""


_DELEGATE = "run as root, or have a cgroup delegated (systemd: Delegate=yes)"


@frozen
class _Controller:
    """One thing that cgroups do for jobs: its names in both versions, and what is lost without it."""

    name: str
    v2: str  # "" where version 2 has it without a controller
    meaning: str
    needed: bool = False


_CONTROLLERS = (
    _Controller("cpu", "cpu", "cpu_shares have no effect"),
    _Controller("cpuset", "cpuset", "jobs cannot be held to their CPUs"),
    _Controller("memory", "memory", "memory limits have no effect", needed=True),
    _Controller("pids", "pids", "a fork bomb in a job is not stopped", needed=True),
    _Controller("blkio", "io", "block I/O is neither weighted nor counted"),
    _Controller("cpuacct", "", "the CPU time of jobs is not counted"),
    _Controller("freezer", "", "jobs cannot be frozen, nor killed as a whole", needed=True),
)


def cgroups(place: Place) -> Iterator[Fact]:
    """The mode, then each controller: where it is, and whether a cgroup can be made there."""
    found = hierarchies(place)
    style = mode(found)
    if not style:
        yield Fact(
            name="cgroups",
            status=Status.MISSING,
            found="no controller is mounted",
            meaning="jobs cannot be limited, counted or killed as a whole",
            hint="mount -t cgroup2 none /sys/fs/cgroup",
            needed=True,
        )
        return
    where = ", ".join(sorted({str(h.path.parent if h.version == 1 else h.path) for h in found}))
    refusals = {h.path: _refusal(h.own) for h in found}
    if all(refusals.values()):
        yield Fact(
            name="cgroups",
            status=Status.MISSING,
            found=f"{style} at {where}: {next(iter(refusals.values()))}",
            meaning="jobs cannot be limited, counted or killed as a whole",
            hint=_DELEGATE,
            needed=True,
        )
        return
    yield Fact(name="cgroups", status=Status.OK, found=f"{style} at {where}", needed=True)
    for controller in _CONTROLLERS:
        yield _controller(controller, style, found, refusals)


def _controller(controller: _Controller, style: str, found: Sequence[Hierarchy], refusals: Mapping[Path, str]) -> Fact:
    name = (controller.v2 or controller.name) if style == "v2" else controller.name
    core = style == "v2" and not controller.v2
    home = next((h for h in found if (h.version == 2 if core else name in h.controllers)), None)
    if home is None:
        hint = (
            f"boot with cgroup_enable={name}, or use a kernel that has it"
            if style == "v2"
            else f"mkdir /sys/fs/cgroup/{name} && mount -t cgroup -o {name} none /sys/fs/cgroup/{name}"
        )
        missing = "not offered" if style == "v2" else "not mounted"
        return Fact(
            name=name,
            status=Status.MISSING,
            found=missing,
            meaning=controller.meaning,
            hint=hint,
            needed=controller.needed,
        )
    refusal = refusals[home.path]
    if not refusal:
        return Fact(name=name, status=Status.OK, found=str(home.own), needed=controller.needed)
    return Fact(
        name=name,
        status=Status.MISSING,
        found=f"{home.own}: {refusal}",
        meaning=controller.meaning,
        hint=_DELEGATE,
        needed=controller.needed,
    )


def _refusal(own: Path) -> str:
    """Make one and remove it: "" when that works, else why not."""
    folder = own / f"batchns-probe-{os.getpid()}"
    try:
        folder.mkdir()
        folder.rmdir()
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""


def device_rules(place: Place) -> Fact:
    """By the v1 controller where it is mounted, else by a program in the v2 tree: one is loaded, and let go."""
    found = hierarchies(place)
    old = next((home for home in found if "devices" in home.controllers), None)
    hint = "mkdir /sys/fs/cgroup/devices && mount -t cgroup -o devices none /sys/fs/cgroup/devices"
    if not place.root:
        why, where, hint = ROOTS, "", ""
    elif old is not None:
        why, where, hint = _refusal(old.own), str(old.own), _DELEGATE
    elif any(home.version == 2 for home in found):
        why, where = why_no_program(), "programs in the v2 tree"
    else:
        why, where = "the devices controller is not mounted", ""
    if not why:
        return Fact(name="device rules", status=Status.OK, found=where)
    return Fact(
        name="device rules",
        status=Status.LIMITED,
        found=why,
        meaning="jobs are kept from devices by their own /dev, nodev mounts and a missing capability alone",
        hint=hint,
    )


def block_weights(place: Place) -> Fact:
    """A blkio_weight takes effect where a disk uses the bfq scheduler, or (v2) has iocost enabled."""
    chosen = {
        path.parts[-3]: path.read_text().split() for path in sorted((place.sys / "block").glob("*/queue/scheduler"))
    }
    with_bfq = [disk for disk, names in chosen.items() if "[bfq]" in names]
    with_cost = _iocost(place)
    if with_bfq or with_cost:
        ways = [f"bfq on {' '.join(with_bfq)}"] * bool(with_bfq) + [f"iocost on {with_cost}"] * bool(with_cost)
        found = "; ".join(ways)
        return Fact(name="blkio_weight", status=Status.OK, found=found)
    disks = [disk for disk in chosen if not disk.startswith(("loop", "ram", "zram"))]
    disk = disks[0] if disks else next(iter(chosen), "")
    hint = f"modprobe bfq; echo bfq > /sys/block/{disk}/queue/scheduler" if disk else "give the machine a block device"
    return Fact(
        name="blkio_weight",
        status=Status.LIMITED,
        found="no disk uses bfq or iocost",
        meaning="blkio_weight has no effect; jobs that ask for it run and their result says so",
        hint=hint,
    )


def _iocost(place: Place) -> str:
    devices = []
    for home in hierarchies(place):
        path = home.path / "io.cost.qos"
        if home.version == 2 and path.exists():
            devices += [line.split()[0] for line in path.read_text().splitlines() if "enable=1" in line]
    return " ".join(devices)


def swap_accounting(place: Place) -> Fact:
    """Whether a memory limit also holds what was swapped out (memory.memsw.* on v1, memory.swap.max on v2)."""
    found = hierarchies(place)
    files = [
        h.own / ("memory.memsw.limit_in_bytes" if h.version == 1 else "memory.swap.max")
        for h in found
        if "memory" in h.controllers
    ]
    swaps = len((place.proc / "swaps").read_text().splitlines()) - 1
    # The root cgroup of v2 has no memory.swap.max; the kernel has had swap accounting always on since 5.19.
    counted = any(path.exists() or path.parent in {h.path for h in found if h.version == 2} for path in files)
    if counted or swaps < 1:
        return Fact(name="swap", status=Status.OK, found="counted" if counted else "this machine has none")
    return Fact(
        name="swap",
        status=Status.LIMITED,
        found="used and not counted",
        meaning="a job at its memory limit is swapped out instead of ended",
        hint="boot with swapaccount=1, or swapoff -a",
    )
