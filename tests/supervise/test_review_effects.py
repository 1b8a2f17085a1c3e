"""Jobs that do not die, on purpose, are nobody else's trouble."""

from __future__ import annotations

import threading
from typing import Any

import trio

from batchns.core.placement import Placement
from batchns.supervise import events
from batchns.supervise.attempt import Attempt
from batchns.supervise.effects import Effects
from batchns.supervise.ports import THREADS, threads

PLACE = Placement(cpus=(0,), mems=(0,))


class Undying:
    """A driver whose kills last as long as the kernel keeps the processes: a user's own FUSE server may do that."""

    mode = "v2"

    def __init__(self) -> None:
        self.over = threading.Event()
        self.kills: list[str] = []

    def kill(self, name: str, timeout: float) -> bool:
        self.kills.append(name)
        return self.over.wait(timeout)

    def freeze(self, name: str, timeout: float) -> bool:
        return True


def test_many_that_do_not_die_keep_nobody_from_a_freeze_and_each_is_killed_by_one_thread() -> None:
    driver, posted = Undying(), list[events.Event]()
    arrived = trio.Event()

    def post(event: events.Event) -> None:
        posted.append(event)
        arrived.set()

    unused: Any = None
    effects = Effects(driver=driver, launcher=unused, blocking=threads(), post=post, give_back=unused)  # type: ignore[arg-type]
    undying = [Attempt(str(number), f"abcde-{number}", PLACE) for number in range(3 * THREADS)]
    other = Attempt("99", "abcde-99", PLACE)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            effects.nursery = nursery
            for _ in range(3):
                for attempt in undying:
                    effects.kill(attempt)
            effects.release(recorded=True)
            await trio.sleep(0.2)
            effects.freeze(other)
            effects.release(recorded=True)
            with trio.fail_after(3):
                await arrived.wait()
            nursery.cancel_scope.cancel()

    try:
        trio.run(main)
    finally:
        driver.over.set()
    assert [(answer.attempt, answer.confirmed) for answer in posted] == [(other, True)]
    assert sorted(driver.kills) == sorted(attempt.name for attempt in undying)
