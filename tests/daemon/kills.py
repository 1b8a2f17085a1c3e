"""Kills of the daemon, of its launcher and of both, under load; and what the ledger says afterwards."""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .ground import Ground
from .load import Load, settle

LATEST = 1.2  # seconds of a daemon's life; it takes some 0.2 of them to come
_ROUND = 20  # kills after which everything comes to its end


@contextlib.contextmanager
def ground(settings: str = "") -> Iterator[Ground]:
    with tempfile.TemporaryDirectory(prefix="batchns-campaign-") as folder:
        made = Ground(base=Path(folder), settings=settings)
        try:
            yield made
        finally:
            made.close()


def at_random(on: Ground, *, victims: tuple[str, ...], kills: int, seed: str) -> tuple[list[str], Counter[str]]:
    """Kill them `kills` times under load. What is wrong afterwards, and what there was."""
    rng = random.Random(seed)
    ledger = on.ledger()
    ledger.launcher_killed = "launcher" in victims
    counts: Counter[str] = Counter()
    while counts["kills"] < kills:
        on.start(ready=False)
        with Load(on, ledger, f"{seed} {counts['kills']}", prefix=f"r{counts['kills']}") as load:
            for _ in range(min(_ROUND, kills - counts["kills"])):
                time.sleep(rng.random() * (0.1 if rng.random() < 0.1 else LATEST))
                if "launcher" in victims and (victims == ("launcher",) or rng.random() < 0.5):
                    on.kill_launcher()
                if "daemon" in victims:
                    on.kill()
                    on.start(ready=False)
                counts["kills"] += 1
        counts["requests"] += load.requests
        on.wait_ready()
        rows = settle(on)
        on.stop()
    found, more = ledger.complaints(rows)
    return found + on.complaints(), counts + more
