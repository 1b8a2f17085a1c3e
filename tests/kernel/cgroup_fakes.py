"""Fake hosts in a folder: hierarchies as plain directories, and the files under /proc that describe them."""

from __future__ import annotations

from pathlib import Path

from batchns.kernel.cgroups.detect import open_driver
from batchns.kernel.cgroups.interface import Driver


class FakeHost:
    """`mount` adds one hierarchy; `driver` opens what was mounted. Files hold what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "cgroup"
        self.proc = folder / "proc"
        self.block = folder / "block"
        (self.proc / "self").mkdir(parents=True)
        self.root.mkdir()
        self.block.mkdir()
        self._mounts: list[str] = ["27 1 254:0 / / rw,relatime - ext4 /dev/vda rw"]
        self._own: list[str] = []

    def mount(self, name: str, options: str, own: str = "/", root: str = "/", kind: str = "cgroup") -> Path:
        """A v1 hierarchy with `options` as its controllers (or a v2 one) at `name`; this process is in `own`."""
        point = self.root / name if name else self.root
        point.mkdir(exist_ok=True)
        escaped = str(point).replace(" ", "\\040")
        self._mounts.append(f"40 31 0:29 {root} {escaped} rw,relatime shared:9 - {kind} {kind} rw,{options}")
        self._own.append(f"{len(self._own)}:{options if kind == 'cgroup' else ''}:{own}")
        inside = point / own[len(root.rstrip("/")) :].strip("/")
        inside.mkdir(parents=True, exist_ok=True)
        if "cpuset" in options:
            (inside / "cpuset.effective_cpus").write_text("0-3\n")
            (inside / "cpuset.effective_mems").write_text("0\n")
        return inside

    def unified(self, name: str = "", own: str = "/", controllers: str = "cpuset cpu io memory pids") -> Path:
        """A v2 hierarchy whose root has `controllers`, all of them enabled for every level."""
        inside = self.mount(name, "nsdelegate", own, kind="cgroup2")
        point = self.root / name if name else self.root
        level = point
        for part in ["", *own.strip("/").split("/")]:
            level = level / part
            (level / "cgroup.controllers").write_text(f"{controllers}\n")
            (level / "cgroup.subtree_control").write_text(f"{controllers}\n")
            (level / "cgroup.procs").write_text("")
            if level != point:
                (level / "cgroup.type").write_text("domain\n")
        return inside

    def disk(self, name: str, scheduler: str) -> None:
        folder = self.block / name
        (folder / "queue").mkdir(parents=True)
        (folder / "size").write_text("2048\n")
        (folder / "dev").write_text("8:0\n")
        (folder / "queue" / "scheduler").write_text(f"{scheduler}\n")

    def driver(self, parent: str | None = None) -> Driver:
        (self.proc / "self" / "mountinfo").write_text("\n".join(self._mounts) + "\n")
        (self.proc / "self" / "cgroup").write_text("".join(f"{line}\n" for line in self._own))
        return open_driver(
            root=str(self.root),
            parent=parent,
            proc=str(self.proc),
            block=str(self.block),
            locks=f"{self.root}-locks",
        )
