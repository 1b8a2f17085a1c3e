"""What an attack is, and how it is judged.

1. The program is a function of `inside`; what it says of itself decides nothing. A judge looks at the host: at
   canaries, at other processes, at listeners, and at the attack's own processes through /proc.
2. Every attack is shown to work where nothing keeps it from it: its control. What cannot be shown says why.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import frozen

from .scene import Scene


@frozen(kw_only=True)
class Seen:
    """What there is to judge by while an attack's processes are still there, and its report is written.

    `before`: the driver's namespaces and mounts, looked at before the first attack.
    """

    name: str
    scene: Scene
    report: bytes
    pids: tuple[int, ...]
    before: dict[str, Any]

    def proc(self, pid: int, *names: str) -> Path:
        return Path("/proc", str(pid), *names)


Judge = Callable[[Seen], "bool | tuple[str, ...]"]  # or on whom it has succeeded: "own" user, "another" one


@frozen(kw_only=True)
class Attack:
    """`control`: how it is started without a sandbox: "user", "root", "namespaces" (a naive container), "chroot",
    "launcher". `disturbs`: others cannot be shown together with it. `lacks`: why it cannot be shown on this kernel (""
    where it can). `hidden`: what keeps from it is that nothing is in sight; elsewhere "not found" means that it could
    not be tried. `not_for`: roots on which there is nothing to try. `gap`: why it succeeds, where nothing else
    is promised. `of_a_user`: what the kernel counts by user, so that without root all jobs of one share it; `shared`:
    with root, too. `rootless`: why it succeeds without root. `apart`: by itself, in a job of its own.
    """

    name: str
    judge: Judge
    control: str = "user"
    lacks: Callable[[], str] = lambda: ""
    hidden: bool = False
    not_for: tuple[str, ...] = ()
    gap: str = ""
    disturbs: bool = False
    of_a_user: bool = False
    shared: str = ""
    rootless: str = ""
    apart: bool = False
