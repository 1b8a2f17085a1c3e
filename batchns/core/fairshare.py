"""Fair share: who has used less of the node, by past use that fades.

1. What is counted is the dominant resource: the largest part of the node that a job holds, of CPUs, memory, bandwidth
   and named resources (Ghodsi et al., "Dominant Resource Fairness", NSDI 2011). A frozen job holds its memory only.
2. Use fades exponentially. Between two changes of what a user holds it has a closed form, so nothing is ever walked
   through: a change costs the same however many jobs there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from attrs import define

from batchns.core.demand import Demand
from batchns.core.node import NodeCapacity
from batchns.core.reasons import FULL


@define
class _Use:
    """`held`: the part of the node that is held now; `used`: faded use at `since`, in seconds of a whole node."""

    since: float
    used: float = 0.0
    held: float = 0.0


class Shares:
    """What every user has used. `half_life` in seconds; `shares`: by user, 1 for those that are not in it."""

    def __init__(self, capacity: NodeCapacity, half_life: float, shares: Mapping[str, float]) -> None:
        self._capacity = capacity
        self._fading = math.log(2) / half_life
        self._shares = shares
        self._uses: dict[str, _Use] = {}
        self._parts: dict[Demand, float] = {}

    def copy(self) -> Shares:
        other = Shares.__new__(Shares)
        other._capacity, other._fading, other._shares, other._parts = (
            self._capacity,
            self._fading,
            self._shares,
            self._parts,
        )
        other._uses = {user: _Use(use.since, use.used, use.held) for user, use in self._uses.items()}
        return other

    def hold(self, user: str, demand: Demand, now: float, sign: int) -> None:
        """From `now` on the user holds `demand` more (`sign` 1), or less (-1)."""
        use = self._uses.get(user)
        if use is None:
            use = self._uses[user] = _Use(now)
        use.used = self._faded(use, now)
        use.since = now
        use.held = max(0.0, use.held + sign * self.part(demand))

    def used(self, user: str, now: float) -> float:
        """Seconds of the whole node that the user has used, faded, divided by the user's share."""
        use = self._uses.get(user)
        return self._faded(use, now) / self._shares.get(user, 1.0) if use else 0.0

    def part(self, demand: Demand) -> float:
        """The largest part of the node that `demand` is, of any resource."""
        part = self._parts.get(demand)
        if part is None:
            have = self._capacity
            cpus = demand.whole or demand.share / FULL
            part = max(
                cpus / len(have.cpus),
                demand.memory / have.memory,
                demand.egress / have.egress if have.egress else 0.0,
                demand.ingress / have.ingress if have.ingress else 0.0,
                *(count / have.named[name] for name, count in demand.named if have.named.get(name)),
            )
            self._parts[demand] = part
        return part

    def _faded(self, use: _Use, now: float) -> float:
        kept = math.exp(-self._fading * (now - use.since))
        return use.used * kept + use.held / self._fading * (1.0 - kept)
