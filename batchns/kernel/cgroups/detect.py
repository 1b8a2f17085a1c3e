"""What this host has of cgroups, and the driver for it. Chosen once; nothing else knows where a hierarchy is mounted.

1. Mount points and own paths come from the kernel (mountinfo, /proc/self/cgroup), never from convention.
2. A controller lives where it is mounted: v1 first, since the kernel gives a controller to one version only.
3. batchns works below its own cgroup: what an administrator gave it is all that it touches.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from attrs import frozen

from batchns.errors import HostError
from batchns.kernel.cgroups import files, v1, v2
from batchns.kernel.cgroups.hybrid import HybridDriver
from batchns.kernel.cgroups.interface import Driver

LEAF = "batchns.caller"  # whose processes made room for jobs: see delegated.py
_V1_NAMES = {"blkio": "io"}  # v1's own name: the one used here


@frozen
class Mount:
    """One mounted hierarchy. `controllers` is empty for v2: they are listed in its files."""

    version: int
    root: str  # the cgroup that is visible at `point`
    point: str
    controllers: tuple[str, ...] = ()


def open_driver(
    *,
    locks: str = "/run/batchns/cgroups",
    root: str = "/sys/fs/cgroup",
    parent: str | None = None,
    proc: str = "/proc",
    block: str = "/sys/block",
) -> Driver:
    """The driver for the hierarchies mounted at or below `root`.

    `parent`: the cgroup below which batchns works, as a path from the root of every hierarchy ("/batch"); None: its
    own, except on v2, where a cgroup that has processes cannot hand controllers down: root uses the top then.
    `locks`: a folder that nobody else can write to, the same for all batchns of this machine.

    Raises:
        HostError: no hierarchy can be used, with what to do about it.
    """
    mounts = parse_mountinfo(files.read(f"{proc}/self/mountinfo"), root)
    own = parse_own(files.read(f"{proc}/self/cgroup"))
    unified = next((mount for mount in mounts if mount.version == 2), None)
    parents = {
        controller: _below(mount, own.get(controller, "/") if parent is None else parent)
        for mount in mounts
        for controller in mount.controllers
    }
    if unified is None:
        return _only_v1(parents, block, root, locks)
    if not set(parents) & set(v2.CONTROLLERS):
        below = _v2_parent(unified, own, parent, v2.CONTROLLERS)
        top = unified.point if os.geteuid() == 0 else below  # nobody but root hands down what is not there yet
        offered = (files.read_if_there(f"{top}/cgroup.controllers") or "").split()
        return v2.V2Driver(unified.point, below, block, missing=_missing(offered), locks=locks)
    wanted = [controller for controller in v2.CONTROLLERS if controller not in parents]
    held = (files.read_if_there(f"{unified.point}/cgroup.controllers") or "").split()
    usable = [controller for controller in wanted if controller in held]
    missing = _missing([*parents, *usable])
    # The v2 tree freezes and counts CPU time: a v1 directory for either would cost every job, and add nothing.
    needed = {name: path for name, path in parents.items() if name not in ("freezer", "cpuacct")}
    tree = v2.V2Driver(unified.point, _v2_parent(unified, own, parent, usable), block, wanted, missing, locks=locks)
    _check_parents(needed.values())
    return HybridDriver(v1.V1Driver(needed, block, missing, locks=locks), tree)


def own_unified(root: str = "/sys/fs/cgroup", proc: str = "/proc") -> str | None:
    """The path of this process's own cgroup in the v2 hierarchy; None where it is not mounted."""
    mounts = parse_mountinfo(files.read(f"{proc}/self/mountinfo"), root)
    unified = next((mount for mount in mounts if mount.version == 2), None)
    own = parse_own(files.read(f"{proc}/self/cgroup"))
    return None if unified is None else _below(unified, own.get("", "/"))


def _only_v1(parents: Mapping[str, str], block: str, root: str, locks: str) -> Driver:
    if not parents:
        raise HostError(
            f"no cgroup hierarchy is mounted below {root}",
            f"mount -t cgroup2 cgroup2 {root} (systemd hosts have it mounted)",
        )
    _check_parents(parents.values())
    return v1.V1Driver(parents, block, _missing(parents), locks=locks)


def _check_parents(paths: Iterable[str]) -> None:
    for path in paths:
        if not os.path.isdir(path):
            raise HostError(
                f"there is no cgroup {path}", f"mkdir {path}, or change parent under [cgroup] in batchns.toml"
            )


def _missing(present: Iterable[str]) -> dict[str, str]:
    """Why each controller that is not among `present` cannot be used."""
    have = set(present)
    return {
        name: f"this host has no {name} cgroup controller - it is not mounted, not built into the kernel, or turned off"
        f" by cgroup_disable={name} at boot"
        for name in v2.CONTROLLERS
        if name not in have
    }


def _v2_parent(mount: Mount, own: Mapping[str, str], parent: str | None, wanted: Iterable[str]) -> str:
    """The cgroup to work below: see `open_driver`."""
    if parent is not None:
        path = _below(mount, parent)
        _check_parents([path])
        return path
    mine = _below(mount, own.get("", "/"))
    if os.path.basename(mine) == LEAF:
        mine = os.path.dirname(mine)
    if not any(True for _ in wanted) or _hands_down(mine):
        return mine
    if os.geteuid() == 0 and _hands_down(mount.point):
        return mount.point
    raise HostError(
        f"the cgroup {mine} has processes of its own, so jobs below it cannot have limits",
        "run batchns as root, or set parent under [cgroup] in batchns.toml to a cgroup that has none",
    )


def _hands_down(path: str) -> bool:
    """Whether `path` may give controllers to its children: the root of all may, others while they have no process.

    Only the root has no cgroup.type.
    """
    if not os.path.exists(f"{path}/cgroup.type"):
        return os.path.exists(f"{path}/cgroup.procs")
    return not (files.read_if_there(f"{path}/cgroup.procs") or "").strip()


def parse_mountinfo(text: str, root: str) -> list[Mount]:
    """The cgroup mounts at or below `root`, the first of each hierarchy; see proc_pid_mountinfo(5)."""
    found: dict[tuple[int, tuple[str, ...]], Mount] = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        point = _unescape(fields[4])
        if kind[0] not in ("cgroup", "cgroup2") or not f"{point}/".startswith(f"{root.rstrip('/')}/"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        options = [_V1_NAMES.get(option, option) for option in kind[2].split(",")]
        controllers = tuple(name for name in v1.CONTROLLERS if version == 1 and name in options)
        if version == 2 or controllers:  # a v1 mount without controllers only names processes (name=systemd)
            found.setdefault((version, controllers), Mount(version, _unescape(fields[3]), point, controllers))
    return list(found.values())


def parse_own(text: str) -> dict[str, str]:
    """/proc/self/cgroup: controller to path, "" for v2's; see cgroups(7)."""
    own = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            own[_V1_NAMES.get(controller, controller)] = path
    return own


def _below(mount: Mount, path: str) -> str:
    """Where the cgroup `path` of this hierarchy is visible; the mount point where it is outside of what is mounted."""
    relative = path
    if mount.root != "/":
        inside = f"{path}/".startswith(f"{mount.root}/")
        relative = path[len(mount.root) :] if inside else ""
    if ".." in relative.split("/"):  # seen from another cgroup namespace
        relative = ""
    return f"{mount.point}/{relative.strip('/')}".rstrip("/")


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
