"""Kills of a kept launcher and of its client: before each call of a launcher's, and at random moments under load."""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trio

from batchns.launch import dial
from batchns.launch.keeper import Interrupted, KeptLauncher
from batchns.launch.plan import Plan, to_wire

from .kept_client import read_outcomes
from .kept_world import EXIT_CODE, OUTLASTS, WAITS, World, kill_launcher, leftovers, with_launcher

Point = tuple[str, int]  # a call, and the how-manyeth of a process
READ_FIRST = "attempts"  # in the first call of a launcher that is not its interpreter's start
_ROOT = Path(__file__).parent.parent.parent

# What changes something outside of the launcher's own memory.
STATE_CHANGING = (
    *("openat", "write", "close", "link", "linkat", "unlink", "unlinkat", "rename", "renameat", "mkdir", "rmdir"),
    *(
        "sendmsg",
        "sendto",
        "recvmsg",
        "clone",
        "clone3",
        "fork",
        "vfork",
        "pidfd_send_signal",
        "bpf",
        "waitid",
        "accept4",
    ),
)
_STRACE = """#!/bin/sh
# Stands in for the interpreter: each launcher takes a line of the file, and is killed at the call that it names.
spec=
[ -e {control} ] && spec=$(head -n 1 {control}) && sed -i 1d {control}
case $spec in
    ""|none) exec {python} "$@" ;;
    trace) exec strace -D -qq -o {trace} -e trace={calls} {python} "$@" ;;
    *) exec strace -D -qq -o {trace} -e trace={calls} -e inject="$spec" {python} "$@" ;;
esac
"""


class KillPoints:
    """Kills at chosen system calls, by strace in the interpreter's place."""

    def __init__(self, world: World, monkeypatch: Any) -> None:
        self._control = world.base / "control"
        self._trace = world.base / "trace"
        script = world.base / "python"
        values = {
            "control": self._control,
            "python": sys.executable,
            "trace": self._trace,
            "calls": ",".join(f"?{name}" for name in STATE_CHANGING),
        }
        text = _STRACE
        for name, value in values.items():
            text = text.replace("{" + name + "}", str(value))
        script.write_text(text)
        script.chmod(0o700)
        monkeypatch.setattr(dial, "_INTERPRETER", str(script))

    def plan(self, *next_ones: tuple[str, int] | None, trace: bool = False) -> None:
        """The next launchers are killed as they are about to make their so-manyeth such call; None: that one is not.

        `trace`: the calls of the one after them are written down.
        """
        lines = [f"{point[0]}:signal=SIGKILL:when={point[1]}" if point else "none" for point in next_ones]
        self._control.write_text("".join(f"{line}\n" for line in [*lines, *(["trace"] if trace else [])]))

    def killed(self) -> bool:
        """Whether it came to that with the last one."""
        return "killed by SIGKILL" in self._trace.read_text() if self._trace.exists() else False

    def points(self, after: str) -> list[tuple[str, int]]:
        """Every call of the traced launcher from the one on whose line holds `after`: name, and the how-manyeth."""
        counts: dict[str, int] = {}
        found: list[tuple[str, int]] = []
        seen = False
        for line in self._trace.read_text().splitlines():
            if match := re.match(r"(\w+)\(", line):
                name = match[1]
                counts[name] = counts.get(name, 0) + 1
                seen = seen or after in line
                if seen:
                    found.append((name, counts[name]))
        return found


def after_a_start(world: World, points: KillPoints, choose: Callable[[list[Point]], Sequence[Point]]) -> Counter[str]:
    """A launcher that finds nothing, launches, hears of the end, forgets and ends: killed at each of its calls."""

    async def once(launcher: KeptLauncher, plan: Plan) -> None:
        await world.run(launcher, plan)
        await launcher.stop()

    return _kill_at_each(world, points, choose, lambda: world.plan(OUTLASTS), once, ())


def after_adopting(world: World, points: KillPoints, choose: Callable[[list[Point]], Sequence[Point]]) -> Counter[str]:
    """A launcher that adopts a running job and hears of its end: killed at each of its calls."""

    async def once(launcher: KeptLauncher, plan: Plan) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.run, launcher, plan)
            while not world.ran(plan.attempt) and plan.attempt not in world.outcomes:
                await trio.sleep(0.01)
            kill_launcher(world)
            await launcher.signal(plan.attempt, signal.SIGWINCH)  # answered by the next one
            world.go(plan.attempt)
        await launcher.stop()

    return _kill_at_each(world, points, choose, lambda: world.plan(WAITS), once, (None,))


def while_adopting_a_launch(
    world: World, points: KillPoints, first: Point, choose: Callable[[list[Point]], Sequence[Point]]
) -> Counter[str]:
    """One that finds what another, killed at `first` while it launched, has left: killed at each of its calls."""

    async def once(launcher: KeptLauncher, plan: Plan) -> None:
        await world.run(launcher, plan)
        await launcher.stop()

    return _kill_at_each(world, points, choose, lambda: world.plan(OUTLASTS), once, (first,))


def _kill_at_each(
    world: World,
    points: KillPoints,
    choose: Callable[[list[Point]], Sequence[Point]],
    plan: Callable[[], Plan],
    once: Callable[[KeptLauncher, Plan], Any],
    before: tuple[Point | None, ...],
) -> Counter[str]:
    """How often each outcome was. `before`: what becomes of the launchers before the one that is killed."""
    for trace in (False, True):  # the first time the interpreter may compile modules, which takes other calls
        points.plan(*before, trace=trace)
        undisturbed = plan()
        with_launcher(world, lambda launcher, plan=undisturbed: once(launcher, plan))
    world.check()
    found: Counter[str] = Counter()
    for point in choose(points.points(READ_FIRST)):
        points.plan(*before, point)
        killed = plan()
        with_launcher(world, lambda launcher, killed=killed: once(launcher, killed))
        assert (complaint := world.complaint(killed.attempt)) == "", f"killed at {point}: {complaint}"
        assert (left := leftovers(world)) == [], f"killed at {point}: {left}"
        outcome = world.outcomes[killed.attempt]
        found["ended" if outcome == EXIT_CODE else _kind(outcome)] += 1
        found["kills"] += points.killed()
    return found


def _kind(outcome: object) -> str:
    if isinstance(outcome, Interrupted):
        return "may have run" if outcome.may_have_run else "did not run"
    return str(outcome)


def at_random(world: World, victims: Sequence[str], kills: int, rng: random.Random, *, jobs: int = 150) -> Counter[str]:
    """`jobs` jobs at a time, until `kills` kills of all `victims` at once ("launcher", "client") have been made."""
    (world.base / "todo").mkdir(exist_ok=True)
    found: Counter[str] = Counter()
    while found["kills"] < kills:
        plans = [world.plan(f"echo ran >> ran-$ATTEMPT; sleep {rng.random() / 4:.3f}; exit 7") for _ in range(jobs)]
        for plan, following in zip(plans, [*plans[1:], None], strict=True):
            ahead = plan._replace(ahead=following.attempt if following else "")
            (world.base / "todo" / plan.attempt).write_bytes(to_wire(ahead))
        while found["kills"] < kills and len(read_outcomes(world.base)) < len(world.plans):
            found["kills"] += _kill_once(world, victims, rng)
        (world.base / "stop").touch()
        assert _client(world).wait(60) == 0
        (world.base / "stop").unlink()
        _take_outcomes(world, plans, found)
        world.check()
    return found


def _kill_once(world: World, victims: Sequence[str], rng: random.Random) -> bool:
    """False: the client was faster, and there was nothing to kill any more."""
    client = _client(world)
    moment = time.monotonic() + 0.2 + rng.random()
    while time.monotonic() < moment and client.poll() is None:
        time.sleep(0.005)
    if client.poll() is not None:
        return False
    for victim in rng.sample(victims, len(victims)):
        if victim == "client":
            client.kill()
        else:
            kill_launcher(world)
    if "client" not in victims:
        time.sleep(0.1 + rng.random() / 5)
        client.kill()  # so that it does not only ever see the first kill
    client.wait()
    return True


def _client(world: World) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tests.launch.kept_client", str(world.base)], cwd=_ROOT)


def _take_outcomes(world: World, plans: Sequence[Plan], found: Counter[str]) -> None:
    outcomes = read_outcomes(world.base)
    for plan in plans:
        kind, value = outcomes[plan.attempt]
        world.outcomes[plan.attempt] = (
            value
            if kind == "exit"
            else Interrupted(plan.attempt, may_have_run=bool(value))
            if kind == "interrupted"
            else kind
        )
        outcome = world.outcomes[plan.attempt]
        found["ended" if outcome == EXIT_CODE else _kind(outcome)] += 1


def has_strace() -> bool:
    """There is one, and it may trace."""
    if shutil.which("strace") is None:
        return False
    return (
        subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], check=False, capture_output=True).returncode == 0
    )
