"""How attacks are started: as real jobs, as plain processes, and in other sandboxes.

A run starts the driver, waits until every attack has done what it could, and judges while they are still there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from ..alone import end_with_parent
from ..daemon.live import lives
from ..system.conftest import until
from . import batch_system, judges
from .scene import Scene
from .table import Attack, Seen
from .tree import PYTHON

_PATIENCE = 60.0  # seconds
_ABSENT = {errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR}


@frozen(kw_only=True)
class Outcome:
    """Of one attack in one run."""

    attack: Attack
    whom: tuple[str, ...]
    report: str

    @property
    def succeeded(self) -> bool:
        return bool(self.whom)

    @property
    def untried(self) -> str:
        """Why it could not be tried: a mistake of its own, or all that it went for was not there. "": it was."""
        if self.succeeded:
            return ""
        last = self.report.strip().rpartition("\n")[2]
        numbers = {*map(int, re.findall(r"\[Errno (\d+)\]", self.report))}
        if "Traceback" in self.report and not re.match(r"\w*(Error|Exception): \[Errno \d+\]|TimeoutError", last):
            return last
        return "nothing was there" if numbers and numbers <= _ABSENT and not self.attack.hidden else ""


def broken(outcomes: dict[str, Outcome], *, without_root: bool = False) -> dict[str, str]:
    """Reports of those that have what is not said to be to be had."""
    return {name: one.report for name, one in outcomes.items() if one.succeeded and not excuse(one, without_root)}


def excuse(one: Outcome, without_root: bool) -> str:
    """Why it succeeds, where nothing else is promised."""
    if one.attack.of_a_user and without_root and one.whom == ("own",):
        return "the kernel counts it by user, and without root all jobs of one share it"
    if one.attack.rootless and without_root:
        return one.attack.rootless
    return one.attack.gap or (one.attack.shared if one.whom == ("own",) else "")


def untried(outcomes: dict[str, Outcome]) -> dict[str, str]:
    """Why, and what those said that could not be tried."""
    return {name: f"{one.untried}: {one.report}" for name, one in outcomes.items() if one.untried}


def command(scene: Scene, module: str, attacks: Iterable[Attack]) -> list[str]:
    return [PYTHON, "run.py", scene.id, module, *(attack.name for attack in attacks)]


def judged(
    scene: Scene, module: str, attacks: tuple[Attack, ...], start: Callable[[list[str]], Callable[[], str]]
) -> dict[str, Outcome]:
    """Run and judge. `start` is given the command, and returns what says why it ended early ("" as long as it runs)."""
    why = start(command(scene, module, attacks))

    def wait(name: str) -> None:
        def there() -> bool:
            said = why()
            assert not said or (scene.work / name).exists(), said
            return (scene.work / name).exists()

        until(there, _PATIENCE)

    try:
        wait("started")
        before = _before(scene)
        (scene.work / "go").touch()
        wait("ready")
        if [attack.disturbs or attack.apart for attack in attacks] != [True]:
            assert all(one.goes_on() for one in scene.neighbours), "a neighbour is held up"
        outcomes = {}
        for index, attack in enumerate(attacks):
            path = scene.work / "reports" / attack.name
            report = path.read_bytes() if path.exists() and not path.is_symlink() else b""
            seen = Seen(name=attack.name, scene=scene, report=report, pids=processes(scene.comm(index)), before=before)
            found = attack.judge(seen)
            whom = found if isinstance(found, tuple) else ("somebody",) * found
            outcomes[attack.name] = Outcome(attack=attack, whom=whom, report=report.decode(errors="replace"))
        return outcomes
    finally:
        (scene.work / "enough").touch()
        with contextlib.suppress(AssertionError):  # an attack has stopped it: whoever started it ends it
            until(lambda: not any(map(lives, processes(scene.comm()))), 10)


def _before(scene: Scene) -> dict[str, Any]:
    (driver,) = processes(scene.comm())
    there = Path("/proc/modules")
    return {
        "namespaces": {kind: os.readlink(f"/proc/{driver}/ns/{kind}") for kind in os.listdir(f"/proc/{driver}/ns")},
        "mounts": judges.mounts(driver),
        "ids": judges.ids(driver),
        "offset": time.time() - time.clock_gettime(time.CLOCK_BOOTTIME),
        "modules": there.read_text() if there.exists() else "",
        "pid": driver,
        "cpus": set(os.sched_getaffinity(driver)),
        "limits": batch_system.hard(driver),
        "score": int(Path(f"/proc/{driver}/oom_score_adj").read_text()),
        "connections": batch_system.connections(scene.known.get("control", "")),
        "tcp_pages": judges.tcp_pages(),
        "requests": judges.requests(),
        "files": judges.taken(driver),
        "groups": Path(f"/proc/{driver}/cgroup").read_text(),
        "init": batch_system.of_init(driver),
    }


def processes(name: str) -> tuple[int, ...]:
    """Those that call themselves so, by their numbers on the host."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "comm").read_text().strip() == name:
                found.append(int(entry.name))
    return tuple(found)


def _all_of(scene: Scene) -> tuple[int, ...]:
    return tuple(pid for index in (None, *range(100)) for pid in processes(scene.comm(index)))


# Without a sandbox


@contextlib.contextmanager
def plain(
    scene: Scene,
    argv_of: Callable[[list[str]], list[str]] = list,
    cwd: Path | None = None,
    uid: int | None = None,
) -> Iterator[Callable[[list[str]], Callable[[], str]]]:
    """What starts the driver as a process of the submitter's, or of `uid`."""
    who = scene.uid if uid is None else uid
    started: list[subprocess.Popen[bytes]] = []
    folder = cwd or scene.work
    home = scene.outside
    if who != scene.uid:
        home = scene.outside / f"home-{who}"
        home.mkdir(mode=0o700, exist_ok=True)
        os.chown(home, who, who)
    said = scene.outside / f"said-{folder.name}"

    def start(argv: list[str]) -> Callable[[], str]:
        ids: dict[str, Any] = {"user": who, "group": who, "extra_groups": []} if who else {}
        with said.open("wb") as log:
            process = subprocess.Popen(
                argv_of(argv),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    "PATH": f"{os.environ['PATH']}:/usr/sbin",
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "HOME": str(home),
                    "XDG_RUNTIME_DIR": str(home),
                },
                preexec_fn=end_with_parent,
                **ids,
            )
        started.append(process)
        return lambda: "" if process.poll() is None else f"ended with {process.returncode}: {said.read_text()}"

    try:
        yield start
    finally:
        with contextlib.suppress(FileNotFoundError):
            (folder / "enough").touch()
        for process in started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:  # an attack has stopped what would have ended it
                process.kill()
                process.wait()
                for pid in _all_of(scene):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def in_namespaces(scene: Scene) -> Callable[[list[str]], list[str]]:
    """A naive container: root in namespaces of its own, and nothing else. One folder is read-only."""
    script = f'mount --bind {scene.visible} {scene.visible}; mount -o remount,ro,bind {scene.visible}; exec "$@"'
    flags = ["--mount", "--pid", "--ipc", "--uts", "--net", "--fork", "--kill-child", "--mount-proc"]
    return lambda argv: ["unshare", *flags, "--propagation", "private", "sh", "-c", script, "sh", *argv]


def in_a_pid_namespace(argv: list[str]) -> list[str]:
    """A naive container of a user's, whose PID 1 is one of the user's processes."""
    return ["unshare", "--user", "--map-current-user", "--pid", "--fork", "--kill-child", "--mount-proc", "--", *argv]


def pinned(argv: list[str]) -> list[str]:
    """By its affinity alone, and as the first to be killed."""
    return ["sh", "-c", 'echo 500 > /proc/self/oom_score_adj; exec taskset -c 0 "$@"', "sh", *argv]


def in_chroot(root: Path) -> Callable[[list[str]], list[str]]:
    """A naive chroot: root, with a folder left open and the working folder outside."""
    program = (
        "import os, sys; os.dup2(os.open('/', os.O_RDONLY), 9); os.chroot(sys.argv[1])\n"
        "os.execv(sys.argv[2], sys.argv[2:])"
    )
    return lambda argv: [PYTHON, "-c", program, str(root), *argv]


def by_launcher(scene: Scene) -> Callable[[list[str]], list[str]]:
    """A launcher that is the submitter's own, and that what it starts has a descriptor of."""
    launcher = scene.work / "launcher/busybox"
    launcher.parent.mkdir()
    shutil.copy(shutil.which("busybox") or "", launcher)
    os.chown(launcher, scene.uid, scene.uid)
    return lambda argv: [str(launcher), "sh", "-c", 'exec 8</proc/self/exe; exec "$@"', "sh", *argv]


# Other sandboxes


def in_bwrap(folder: Path) -> Callable[[list[str]], list[str]]:
    """As it is used for programs that are not trusted: all namespaces, a read-only root, one folder writable."""
    return lambda argv: [
        *("bwrap", "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"),
        *("--bind", str(folder), str(folder), "--chdir", str(folder)),
        *("--die-with-parent", "--new-session", "--", *argv),
    ]


def in_runc(folder: Path, root: Path, state: Path, visible: Path) -> Callable[[list[str]], list[str]]:
    """As `runc spec` configures it, run by root on `root`, with the working folder mounted. It cleans up by itself."""
    name = folder.name

    def argv_of(argv: list[str]) -> list[str]:
        bundle = state / f"bundle-{name}"
        bundle.mkdir()
        subprocess.run(["runc", "spec", "--bundle", bundle], check=True)
        config = json.loads((bundle / "config.json").read_text())
        config["root"] = {"path": str(root), "readonly": True}
        config["process"] |= {"args": argv, "cwd": str(folder), "terminal": False}
        own = {"destination": str(folder), "type": "bind", "source": str(folder), "options": ["rbind", "rw"]}
        shown = {"destination": str(visible), "type": "bind", "source": str(visible), "options": ["rbind", "ro"]}
        config["mounts"] += [own, shown]
        config["linux"]["cgroupsPath"] = name  # relative: below the cgroups of this test run
        (bundle / "config.json").write_text(json.dumps(config))
        return ["runc", "--root", str(state / "runc"), "run", "--bundle", str(bundle), name]

    return argv_of


def without_root(argv: list[str], *options: str) -> list[str]:
    """batchns by an ordinary user, in the foreground."""
    return [sys.executable, "-m", "batchns", "run", *options, "--", *argv]
