"""Traces for tests: seeded, in the manner of real ones (powers of two, long tails, estimates that are too long)."""

from __future__ import annotations

import random

from .reference import Asked

CPUS = 64


def jobs(seed: int, count: int, *, load: float = 1.0, cpus: int = CPUS) -> list[Asked]:
    """`count` jobs that offer the machine about `load` of what it can do; whole seconds, several at the same moment."""
    rng = random.Random(seed)
    made = []
    now = 0.0
    for _ in range(count):
        processors = min(cpus, 2 ** rng.randrange(7) if rng.random() < 0.7 else rng.randint(1, cpus))
        run = float(max(1, round(rng.lognormvariate(6, 1.8))))
        estimate = run if rng.random() < 0.2 else float(round(run * rng.uniform(1, 8)))
        made.append(Asked(now, run, processors, estimate))
        if rng.random() < 0.8:
            now += round(rng.expovariate(1.0) * run * processors / cpus / load)
    return made


def swf(made: list[Asked], *, cpus: int = CPUS, users: int = 5) -> str:
    """The jobs as a trace."""
    lines = [f"; MaxProcs: {cpus}"]
    for number, job in enumerate(made, 1):
        user = number * 7919 % users + 1
        lines.append(
            f"{number} {job.submit:.0f} -1 {job.run:.0f} {job.processors} -1 -1 {job.processors} {job.estimate:.0f} "
            f"-1 1 {user} 1 -1 1 -1 -1 -1"
        )
    return "\n".join(lines) + "\n"
