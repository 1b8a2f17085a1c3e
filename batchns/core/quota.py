"""The bounds of queues: how much all jobs of a queue, or of one user in it, may hold at a time.

1. Counted are active jobs. A frozen job counts with its memory and as a job, not with the CPUs and bandwidth it lends.
2. A queue without bounds costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, frozen

from batchns.core.demand import Demand
from batchns.core.reasons import FULL, Shortage
from batchns.model.config import Bound, Queue


@frozen
class Reached:
    """Which bound stands in the way: `scope` is "queue" or "user"; the shortage's total is the bound."""

    scope: str
    shortage: Shortage


@define
class _Held:
    jobs: int = 0
    cpus: int = 0  # millionths
    memory: int = 0
    egress: int = 0
    ingress: int = 0

    def change(self, demand: Demand, sign: int) -> None:
        self.jobs += sign * demand.jobs
        self.cpus += sign * (demand.whole * FULL or demand.share)
        self.memory += sign * demand.memory
        self.egress += sign * demand.egress
        self.ingress += sign * demand.ingress


_NONE = Bound()


class Quotas:
    """What is held of each bound. `queues`: of batchns.toml."""

    def __init__(self, queues: Mapping[str, Queue]) -> None:
        self._bounds = {
            name: (queue.total, queue.per_user)
            for name, queue in queues.items()
            if queue.total != _NONE or queue.per_user != _NONE
        }
        self._held: dict[tuple[str, str | None], _Held] = {}

    def copy(self) -> Quotas:
        other = Quotas.__new__(Quotas)
        other._bounds = self._bounds
        other._held = {
            key: _Held(held.jobs, held.cpus, held.memory, held.egress, held.ingress) for key, held in self._held.items()
        }
        return other

    def change(self, queue: str, user: str, demand: Demand, sign: int) -> None:
        """`demand` is held from now on (`sign` 1), or no longer (-1)."""
        if queue in self._bounds:
            for key in ((queue, None), (queue, user)):
                self._held.setdefault(key, _Held()).change(demand, sign)

    def ever(self, queue: str, demand: Demand) -> Reached | None:
        """The bound that `demand` alone would break; None where it may be had one day."""
        total, per_user = self._bounds.get(queue, (_NONE, _NONE))
        for scope, bound in (("queue", total), ("user", per_user)):
            lack = _lack(bound, _Held(), demand)
            if lack is not None:
                return Reached(scope, lack)
        return None

    def reached(self, queue: str, user: str, demand: Demand) -> Reached | None:
        """The first bound that `demand` would break; None where it may be had."""
        bounds = self._bounds.get(queue)
        if bounds is None:
            return None
        for scope, key, bound in (("queue", None, bounds[0]), ("user", user, bounds[1])):
            lack = _lack(bound, self._held.get((queue, key)) or _Held(), demand)
            if lack is not None:
                return Reached(scope, lack)
        return None


def _lack(bound: Bound, held: _Held, demand: Demand) -> Shortage | None:
    cpus = None if bound.cpus is None else round(bound.cpus * FULL)
    rows = (
        ("jobs", demand.jobs, held.jobs, bound.jobs),
        ("cpus", demand.whole * FULL or demand.share, held.cpus, cpus),
        ("memory", demand.memory, held.memory, bound.memory),
        ("egress", demand.egress, held.egress, bound.egress),
        ("ingress", demand.ingress, held.ingress, bound.ingress),
    )
    for resource, needed, used, most in rows:
        if most is not None and needed and used + needed > most:
            return Shortage(resource, needed, max(0, most - used), most)
    return None
