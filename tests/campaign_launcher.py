"""A campaign of kills of the kept launcher: `python -m tests.campaign_launcher` counts what became of its jobs.

    python -m tests.campaign_launcher [--kills N] [--seed N]

1. By strace: before every call that changes something, of a launch and an end, of an adoption and an end, and of the
   adoption of what another launcher has left that was killed in the middle of a launch.
2. At random moments, with eight jobs at a time: the launcher, its client, and both.
3. After each: no command ran twice, each end has the command's own exit code, "did not run" is true, nothing is left:
   cgroups, links, records, notes, processes. The first thing that is not so ends the campaign.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from .alone import alone
from .launch import kept_kills
from .launch.kept_kills import KillPoints, has_strace
from .launch.kept_world import World, world

# Calls of a launch, in its order: the plan is noted; an init is asked for; it is noted; it is sent the plan; it is told
# that it is mapped; its start is noted.
MIDDLES = (("linkat", 1), ("sendmsg", 2), ("renameat", 1), ("sendmsg", 3), ("sendto", 1), ("renameat", 2))
VICTIMS = (("launcher",), ("client",), ("client", "launcher"))
COLUMNS = ("kills", "ended", "did not run", "may have run")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="at random moments, of each (default: 100)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    asked = parser.parse_args()
    print(f"seed {asked.seed}\n")
    print(f"{'killed':<48} " + " ".join(f"{column:>12}" for column in COLUMNS) + "  seconds")
    with alone(), pytest.MonkeyPatch.context() as patch:
        if has_strace():
            at_every_call(patch)
        else:
            print("no strace that may trace: not before every call")
        for victims in VICTIMS:
            generator = random.Random(f"{asked.seed} {victims}")
            row(
                f"{' and '.join(victims)} at random",
                lambda made, victims=victims, rng=generator: kept_kills.at_random(made, victims, asked.kills, rng),
            )
    print("\nno command ran twice, every exit code was right, nothing was left")
    return 0


def at_every_call(patch: pytest.MonkeyPatch) -> None:
    row("before each call of a launch", lambda made: kept_kills.after_a_start(made, KillPoints(made, patch), list))
    row("before each call of an adoption", lambda made: kept_kills.after_adopting(made, KillPoints(made, patch), list))
    for middle in MIDDLES:
        row(
            f"the next one after {middle[0]} {middle[1]} of a launch",
            lambda made, middle=middle: kept_kills.while_adopting_a_launch(made, KillPoints(made, patch), middle, list),
        )


def row(name: str, work: Callable[[World], Counter[str]]) -> None:
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="batchns-campaign-") as folder, world(Path(folder)) as made:
        found = work(made)
    numbers = " ".join(f"{found[column]:>12}" for column in COLUMNS)
    print(f"{name:<48} {numbers} {time.monotonic() - begun:8.0f}", flush=True)
    assert not found.keys() - {*COLUMNS}, found


if __name__ == "__main__":
    sys.exit(main())
