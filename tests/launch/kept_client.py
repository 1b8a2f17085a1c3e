"""A client of a kept launcher that can be killed: it does what a daemon does with what it has been told to run.

    python -m tests.launch.kept_client BASE

BASE/todo/<attempt> is a launch plan; what became of it is a line of BASE/outcomes before the launcher may forget it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import trio

from batchns.errors import StepError
from batchns.launch.keeper import Interrupted, KeptLauncher, keep_launcher
from batchns.launch.plan import Plan, from_wire

AT_ONCE = 8


def read_outcomes(base: Path) -> dict[str, list[object]]:
    """By attempt: ["exit", code] or ["interrupted", may have run] or ["failed", why]."""
    path = base / "outcomes"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return {attempt: outcome for attempt, *outcome in map(json.loads, lines)}


async def _one(launcher: KeptLauncher, base: Path, plan: Plan, places: trio.CapacityLimiter) -> None:
    async with places:
        null = os.open(os.devnull, os.O_RDWR)
        outcome: tuple[object, object]
        try:
            await launcher.launch(plan, null, null, null)
            ended = await launcher.wait(plan.attempt)
            outcome = ("failed", f"left {ended.left}") if ended.left else ("exit", ended.exit_code)
        except Interrupted as error:
            outcome = ("interrupted", error.may_have_run)
        except StepError as error:
            outcome = ("failed", str(error))
        finally:
            os.close(null)
        line = json.dumps([plan.attempt, *outcome]) + "\n"
        fd = os.open(base / "outcomes", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(fd, line.encode())
        os.close(fd)
        await launcher.forget(plan.attempt)


async def main(base: Path) -> None:
    done = read_outcomes(base)
    plans = [from_wire(path.read_bytes()) for path in sorted((base / "todo").iterdir()) if path.name not in done]
    async with keep_launcher(base / "launcher") as launcher:
        for attempt in launcher.known:
            if attempt in done:
                await launcher.forget(attempt)
        places = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for plan in plans:
                nursery.start_soon(_one, launcher, base, plan, places)
        if (base / "stop").exists():
            await launcher.stop()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
