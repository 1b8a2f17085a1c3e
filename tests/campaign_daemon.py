"""A campaign against the daemon: `python -m tests.campaign_daemon` kills it and counts what became of its jobs.

    python -m tests.campaign_daemon [--kills N] [--calls N] [--restarts N] [--seconds N]
        [--requests N] [--only TEXT] [--seed N]

1. At random moments, under the load of four clients of three users: the daemon, its launcher, and both.
2. By strace, before each system call of a short life that changes something: a daemon that finds a launcher, and one
   that starts it. Of each call at most `--calls` points.
3. Restarts with 50 running jobs; a state folder on a full disk; calls of the store that fail; malformed requests;
   random verbs against a model.
4. After each: no acknowledged job is lost, none ran twice for one attempt, each end has the command's own exit code, a
   key has submitted once, the store is sound, nothing is left on the machine, and nobody has printed a traceback.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from .alone import alone
from .daemon import calls, faults, kills, malformed, model
from .daemon.ground import Ground

VICTIMS = (("daemon",), ("launcher",), ("daemon", "launcher"))
COLUMNS = ("kills", "restarts", "acknowledged", "executions", "wrong")
Found = tuple[list[str], Counter[str]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="at random moments, of each (default: 200)")
    parser.add_argument("--calls", type=int, default=12, help="points of each system call, at most (default: 12)")
    parser.add_argument("--restarts", type=int, default=100, help="with 50 running jobs (default: 100)")
    parser.add_argument("--seconds", type=float, default=60, help="of random verbs (default: 60)")
    parser.add_argument("--requests", type=int, default=10_000, help="that are nearly right (default: 10000)")
    parser.add_argument("--only", default="", help="the rows whose name has this in it")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    asked = parser.parse_args()
    print(f"seed {asked.seed}\n")
    print(f"{'what':<44} " + " ".join(f"{column:>12}" for column in COLUMNS) + "  seconds")
    wrong: list[str] = []
    with alone():
        for name, work in rows(asked).items():
            if asked.only in name:
                wrong += row(name, work)
    if not wrong:
        print("\nnothing was lost, nothing ran twice, nothing was left")
    return bool(wrong)


def rows(asked: argparse.Namespace) -> dict[str, Callable[[Ground], Found]]:
    found: dict[str, Callable[[Ground], Found]] = {}
    for victims in VICTIMS:
        name = " and ".join(victims)
        found[f"{name}: at random"] = partial(
            kills.at_random, victims=victims, kills=asked.kills, seed=f"{asked.seed} {name}"
        )
    choose = partial(calls.some_of, most=asked.calls)
    found["daemon: before each call"] = partial(calls.at_every_call, launcher=True, choose=choose)
    found["daemon, first launcher: before each call"] = partial(calls.at_every_call, launcher=False, choose=choose)
    found["50 running jobs: restarts"] = partial(faults.restarts, count=asked.restarts, seed=f"{asked.seed}")
    found["the state folder's disk is full"] = partial(faults.disk_full, restart=False)
    found["the same, and the daemon is killed"] = partial(faults.disk_full, restart=True)
    for call in ("pwrite64", "fdatasync"):
        found[f"EIO of every {call}"] = partial(faults.calls_fail, call=call, error="EIO")
    found["an output's disk is full"] = faults.output_full
    found["EIO of a job's writes to its output"] = faults.output_broken
    found["requests that are nearly right"] = partial(malformed.malformed, count=asked.requests, seed=f"{asked.seed}")
    found["random verbs against a model"] = partial(model.against_a_model, seconds=asked.seconds, seed=f"{asked.seed}")
    return found


def row(name: str, work: Callable[[Ground], Found]) -> list[str]:
    begun = time.monotonic()
    with kills.ground() as on:
        try:
            found, counts = work(on)
        except AssertionError as error:
            found, counts = [f"{error}"], Counter()
    counts["wrong"] = len(found)
    numbers = " ".join(f"{counts[column]:>12}" for column in COLUMNS)
    print(f"{name:<44} {numbers} {time.monotonic() - begun:8.0f}", flush=True)
    for line in found:
        print(f"    {line}", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
