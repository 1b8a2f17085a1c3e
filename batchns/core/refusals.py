"""Which kinds of jobs could not run even if they were alone: a node or a queue may have become too small for them."""

from __future__ import annotations

from batchns.core.demand import Demand
from batchns.core.node import NodeCapacity
from batchns.core.placement import Room
from batchns.core.quota import Quotas
from batchns.core.reasons import Reason, Why
from batchns.model.config import Config

_KEPT = 4096  # kinds that are known: there are few at a time, and many in the course of years


class Refusals:
    """Of one node and one batchns.toml."""

    def __init__(self, capacity: NodeCapacity, config: Config, quotas: Quotas) -> None:
        self._empty = Room(capacity)
        self._queues = config.queues
        self._quotas = quotas  # asked for its bounds alone
        self._known: dict[tuple[str, Demand, bool], Reason | None] = {}

    def of(self, queue: str, demand: Demand, *, frozen: bool) -> Reason | None:
        """Why no such job can start, or go on where it is `frozen`; None: it could."""
        key = (queue, demand, frozen)
        if key not in self._known:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[key] = self._look(queue, demand, frozen=frozen)
        return self._known[key]

    def _look(self, queue: str, demand: Demand, *, frozen: bool) -> Reason | None:
        if not frozen and queue not in self._queues:
            return Reason(why=Why.UNFIT, queue=queue)
        if (lack := self._empty.shortage(demand)) is not None:
            return Reason(why=Why.UNFIT, shortage=lack)
        reached = self._quotas.ever(queue, demand.to_thaw() if frozen else demand)
        return None if reached is None else Reason(why=Why.UNFIT, scope=reached.scope, shortage=reached.shortage)
