"""Attacks on the batch system: what judges each, and where it is shown to work."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from . import judges
from .inside import kit
from .table import Attack, Seen

MODULE = "batch"
_LIMITS = ("Max core file size", "Max open files", "Max locked memory", "Max nice priority")


def _init(seen: Seen) -> int:
    """The host's number of its namespace's PID 1."""
    pid = int(seen.before["pid"])
    while _status(pid, "NSpid").split()[-1] != "1":
        pid = int(_status(pid, "PPid"))
    return pid


def _status(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(name + ":"))


def init_touched(seen: Seen) -> bool:
    """init is gone, stopped or traced."""
    try:
        init = _init(seen)
        return _status(init, "State")[0] in "TtZX" or _status(init, "TracerPid") != "0"
    except (OSError, StopIteration):
        return True


def init_opened(seen: Seen) -> bool:
    """It has init's memory, program or one of its open files."""
    links = [os.readlink(f"/proc/{_init(seen)}/fd/{fd}") for fd in os.listdir(f"/proc/{_init(seen)}/fd")]
    own = {link for link in links if not link.startswith("/dev/")} - {f"/proc/{_init(seen)}/mem"}
    found = [link for pid, _, link in judges.descriptors(seen)]
    return any("/mem" in link or "python" in link for link in found) or any(
        judges.holds_for_writing(f"^{re.escape(link)}$")(seen) for link in own if not link.startswith(("pipe", "/"))
    )


def of_init(pid: int) -> tuple[object, ...]:
    """Limits, processors and place of the PID 1 of that process's namespace; () where that is not in sight."""
    try:
        while _status(pid, "NSpid").split()[-1] != "1":
            pid = int(_status(pid, "PPid"))
        return (
            Path(f"/proc/{pid}/limits").read_text(),
            os.sched_getaffinity(pid),
            os.getpriority(os.PRIO_PROCESS, pid),
            Path(f"/proc/{pid}/oom_score_adj").read_text(),
        )
    except (OSError, StopIteration):
        return ()


def init_bound(seen: Seen) -> bool:
    return of_init(int(seen.before["pid"])) != seen.before["init"]


def more_processors(seen: Seen) -> bool:
    return any(set(os.sched_getaffinity(pid)) - seen.before["cpus"] for pid in seen.pids)


def better_place(seen: Seen) -> bool:
    for pid in seen.pids:
        with contextlib.suppress(OSError):
            if os.getpriority(os.PRIO_PROCESS, pid) < 0 or os.sched_getscheduler(pid) in (os.SCHED_FIFO, os.SCHED_RR):
                return True
            if kit.number(252, 1, pid) >> 13 == 1:  # ioprio_get, IOPRIO_CLASS_RT
                return True
    return False


def larger_limits(seen: Seen) -> bool:
    for pid in seen.pids:
        with contextlib.suppress(OSError):
            if any(most > seen.before["limits"][name] for name, most in hard(pid).items()):
                return True
    return False


def hard(pid: int) -> dict[str, float]:
    """Hard limits by their names."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    found = {line[:26].strip(): line[26:].split()[1] for line in lines[1:]}
    return {name: float("inf" if found[name] == "unlimited" else found[name]) for name in _LIMITS}


def later_in_line(seen: Seen) -> bool:
    return any(int(Path(f"/proc/{pid}/oom_score_adj").read_text()) < seen.before["score"] for pid in seen.pids)


def connected(seen: Seen) -> bool:
    """One more connection to the daemon than before, while it holds what it has."""
    return connections(seen.scene.known["control"]) > seen.before["connections"] and bool(seen.pids)


def connections(path: str) -> int:
    """To the daemon at `path`, which has given its socket that name after it was bound to another beside it."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return sum(line[5] == "03" and line[7].startswith(os.path.dirname(path) + "/.") for line in lines if len(line) > 7)


_ITS_INIT = "without root init has the user's id: its limits are the job's own to lower, and concern nobody else"
_KERNEL = "the kernel itself keeps PID 1 of a namespace from signals of its own"


def _score_gap() -> str:
    """Why a job may lower its score here; "" where it cannot."""
    lacks = judges.lacks_resource_rights()
    return lacks and f"{lacks}, so a job may come down from the 500 that it was given to the 0 of others"


BATCH = (
    Attack(name="trace_init", judge=init_touched, control="own_init"),
    Attack(name="stop_init", judge=init_touched, lacks=lambda: _KERNEL),
    Attack(name="write_to_init", judge=init_opened, control="own_init"),
    Attack(name="limits_of_init", judge=init_bound, control="own_init", rootless=_ITS_INIT),
    Attack(name="more_processors", judge=more_processors, control="pinned"),
    Attack(name="more_of_a_processor", judge=better_place, control="root"),
    Attack(name="larger_limits", judge=larger_limits, control="root", lacks=judges.lacks_resource_rights),
    Attack(name="later_in_line_to_be_killed", judge=later_in_line, control="pinned", gap=_score_gap()),
    Attack(name="control_socket", judge=connected, hidden=True),
    Attack(name="folders_of_the_daemon", judge=judges.loot, hidden=True, control="root"),
)
