"""Kill a process that commits, and see what is there afterwards.

    python -m tests.store.crash FOLDER [--kills N] [--each SYSCALLS] [--fail ERRNO]

Without more: N kills at random moments. With `--each pwrite64,fdatasync`: one kill at every single one of these calls,
by strace, in a whole life of a store. With `--fail EIO` besides: the call fails instead, and the process goes on; once
more each, where it is killed as soon as it hears of it; and once more, where all such calls fail from there on.

1. What was acknowledged is there. What was refused is not. What was in flight is there as a whole, or not at all.
2. The process is a fork of this one, which has everything loaded: a round takes some 30 ms.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from attrs import define, field

from batchns.store.interface import StoreError
from batchns.store.store import Store

from . import batches

BATCHES = 6  # of one round under strace
NAME = "batchns.db"


@define
class Told:
    """What the writer said before it was gone."""

    acknowledged: set[int] = field(factory=set)
    refused: set[int] = field(factory=set)
    opened: bool = False
    done: bool = False

    @classmethod
    def read(cls, text: str) -> Told:
        told = cls()
        for line in text.splitlines(keepends=True):
            word, _, number = line.strip().partition(" ")
            if not line.endswith("\n"):
                break
            if word == "acknowledged":
                told.acknowledged.add(int(number))
            elif word == "refused":
                told.refused.add(int(number))
            elif word == "opened":
                told.opened = True
            elif word == "done":
                told.done = True
        return told


@define
class Outcome:
    """Of many rounds. `wrong`: what was not as it had been told, a line each."""

    rounds: int = 0
    acknowledged: int = 0
    refused: int = 0
    wrong: list[str] = field(factory=list)


def write(path: Path, first: int, count: int, out: int, *, die: bool = False) -> None:
    """Commit `count` batches and say what became of each. `die`: be killed at the first that is refused."""

    def say(text: str) -> None:
        os.write(out, text.encode() + b"\n")

    store = Store.open(path)
    say("opened")
    for number in range(first, first + count):
        try:
            store.commit(batches.batch(number))
        except StoreError:
            say(f"refused {number}")
            if die:
                os.kill(os.getpid(), signal.SIGKILL)
        else:
            say(f"acknowledged {number}")
    store.close()
    say("done")


def round_of(
    path: Path, first: int, count: int, *, after: float | None = None, inject: str = "", die: bool = False
) -> Told:
    """One writer's life. `after`: seconds until it is killed. `inject`: what strace does to it."""
    reading, writing = os.pipe()
    waiting, going = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            os.close(going)
            os.read(waiting, 1)
            write(path, first, count, writing, die=die)
        except StoreError:
            os._exit(3)  # it could not even open it
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(4)
        os._exit(0)
    os.close(writing)
    os.close(waiting)
    tracer = _attach(child, inject) if inject else None
    os.write(going, b"x")
    os.close(going)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    if tracer is not None:
        tracer.communicate(timeout=30)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) != 4, "the writer raised what it must not"
    return Told.read(text)


def _attach(child: int, inject: str) -> subprocess.Popen[str]:
    traced = inject.partition(":")[0]
    tracer = subprocess.Popen(
        ["strace", "-q", "-q", "-o", "/dev/null", "-e", f"trace={traced}", "-e", f"inject={inject}", "-p", str(child)],
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 20
    while not re.search(r"^TracerPid:\t[1-9]", Path(f"/proc/{child}/status").read_text(), re.MULTILINE):
        assert tracer.poll() is None, tracer.stderr and tracer.stderr.read()
        assert time.monotonic() < end, "strace does not attach"
        time.sleep(0.001)
    return tracer


def wrong(path: Path, numbers: Sequence[int], told: Told) -> list[str]:
    """What is not as it was told."""
    with Store.open(path) as store:
        found, notes = store.check(), store.load().notes
        for number in numbers:
            lacks = batches.missing(store, number)
            everything = len(batches.batch(number).submissions[0].jobs)
            there = f"of {number}" in notes
            if number in told.acknowledged and (lacks or not there):
                found.append(f"batch {number} was acknowledged, and lacks {', '.join(lacks) or 'its note'}")
            if number in told.refused and (len(lacks) < everything or there):
                found.append(f"batch {number} was refused, and is there")
            if lacks and (len(lacks) < everything or there):
                found.append(f"batch {number} is there by half: it lacks {', '.join(lacks)}")
    return found


def kills(folder: Path, count: int, seed: int = 1) -> Outcome:
    """Kill writers at random moments, twenty of one store after another."""
    rng = random.Random(seed)
    outcome, first = Outcome(), 0
    for kill in range(count):
        path = folder / f"{kill // 20}" / NAME
        first = first if kill % 20 else 0
        told = round_of(path, first, 10_000, after=rng.uniform(0.0, 0.03))
        last = max(told.acknowledged, default=first - 1) + 2  # one more may be there: it was in flight
        outcome.wrong += wrong(path, range(max(0, first - 3), last), told)
        outcome.acknowledged += len(told.acknowledged)
        outcome.rounds += 1
        first = last
    return outcome


def each(folder: Path, call: str, action: str, *, die: bool = False, on: bool = False, every: int = 1) -> Outcome:
    """Do `action` at the n-th `call`, for each n (or `every` so many) that there is in a writer's life.

    `on`: and at all calls after that. `die`: see `write`.
    """
    outcome = Outcome()
    for number in range(1, count_calls(folder, call) + 1, every):
        path = folder / f"{number}" / NAME
        told = round_of(path, 0, BATCHES, inject=f"{call}:{action}:when={number}{'+' if on else ''}", die=die)
        faults = wrong(path, range(BATCHES + 1), told)
        shutil.rmtree(path.parent)
        if "error" in action and not die and told.opened and len(told.acknowledged) + len(told.refused) < BATCHES:
            faults.append("the writer did not go on")
        if len(told.refused) > 1 and not on:
            faults.append(f"{len(told.refused)} refusals of one error")
        outcome.rounds += 1
        outcome.acknowledged += len(told.acknowledged)
        outcome.refused += len(told.refused)
        outcome.wrong += [f"{action} at {call} number {number}: {text}" for text in faults]
    return outcome


_COUNTED: dict[str, int] = {}


def count_calls(folder: Path, call: str) -> int:
    """How often a writer that nobody disturbs makes the `call`."""
    if call not in _COUNTED:
        low, high = 1, 4096
        while low < high:  # the largest number at which a kill still hits it
            middle = (low + high) // 2
            path = folder / "count" / NAME
            told = round_of(path, 0, BATCHES, inject=f"{call}:signal=KILL:when={middle}")
            shutil.rmtree(path.parent)
            low, high = (low, middle) if told.done else (middle + 1, high)
        _COUNTED[call] = low - 1
    return _COUNTED[call]


def main() -> int:
    parser = argparse.ArgumentParser(description="kill a process that commits, and see what is there afterwards")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--each", default="", help="system calls: pwrite64,fdatasync,ftruncate")
    parser.add_argument("--fail", default="", help="an error: EIO, ENOSPC")
    parser.add_argument("--every", type=int, default=1, help="only every so many of the calls")
    options = parser.parse_args()
    found: list[str] = []

    def show(what: str, outcome: Outcome) -> None:
        counts = f"{outcome.rounds} rounds, {outcome.acknowledged} batches acknowledged, {outcome.refused} refused"
        print(f"{what}: {counts}, {len(outcome.wrong)} things wrong")
        found.extend(outcome.wrong)

    if not options.each:
        show("killed at random", kills(options.folder, options.kills, seed=time.time_ns()))
    for call in filter(None, options.each.split(",")):
        if not options.fail:
            show(f"killed at {call}", each(options.folder, call, "signal=KILL", every=options.every))
            continue
        error = f"error={options.fail}"
        show(f"{options.fail} of {call}", each(options.folder, call, error, every=options.every))
        show(f"{options.fail} of {call}, and killed", each(options.folder, call, error, die=True, every=options.every))
        show(f"{options.fail} of {call} from there on", each(options.folder, call, error, on=True, every=options.every))
    print(*found, sep="\n", end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
