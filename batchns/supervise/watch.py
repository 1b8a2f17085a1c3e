"""A look at what else the machine does, now and then, while there are jobs that yield to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

import trio
from attrs import define

from batchns.kernel.cgroups.interface import Driver
from batchns.kernel.neighbours import Neighbours
from batchns.model.config import Config
from batchns.supervise.neighbourly import Neighbourly
from batchns.supervise.ports import Blocking

PERIOD = 1.0  # seconds between two samples


class Sampler(Protocol):
    """`kernel.neighbours.Neighbours`, whose documentation holds here."""

    def sample(self, now: float) -> float | None: ...


@define(kw_only=True, eq=False)
class Watch:
    """`cpus`: how many the node has. `clock`: seconds, of the clock that trio sleeps by."""

    sampler: Sampler
    cpus: int
    rule: Neighbourly
    blocking: Blocking
    clock: Callable[[], float]

    async def run(self, changed: Callable[[bool], None]) -> None:
        """Call `changed` whenever jobs are to yield (True), or need not any longer; for ever."""
        yielding = False
        while True:
            now = self.clock()
            found = await self.blocking(partial(self.sampler.sample, now))
            told = self.rule.told(None if found is None else found / self.cpus, now)
            if told != yielding:
                yielding = told
                changed(yielding)
            await trio.sleep(PERIOD)


def sampler_of(config: Config, queues: Iterable[str], cpus: tuple[int, ...], driver: Driver) -> Sampler | None:
    """What measures the neighbours; None where no job of these queues yields to them."""
    if not any(config.queues[name].yields for name in queues if name in config.queues):
        return None
    return Neighbours(cpus, driver.jobs_cpu_seconds)


def rule_of(config: Config) -> Neighbourly:
    settings = config.neighbour
    return Neighbourly(settings.freeze_above, settings.thaw_below, settings.seconds)
