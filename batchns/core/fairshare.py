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

_KEPT = 4096  # demands whose part is known: there are few kinds at a time, and many in the course of years


_WHOLE = 1 << 40  # the whole node, in the unit that parts of it are counted in: integers add up exactly, for years
_NOTHING = 1e-3  # seconds of the whole node: less is as good as none


@define
class _Use:
    """`held`: the part of the node that is held now; `used`: faded use at `since`, in seconds of a whole node."""

    since: float
    used: float = 0.0
    held: int = 0


class Shares:
    """What every user has used. `half_life` in seconds; `shares`: by user, 1 for those that are not in it."""

    def __init__(self, capacity: NodeCapacity, half_life: float, shares: Mapping[str, float]) -> None:
        self._capacity = capacity
        self._fading = math.log(2) / half_life
        self._shares = shares
        self._uses: dict[str, _Use] = {}
        self._parts: dict[Demand, int] = {}
        self._known = -math.inf  # up to that moment all use is known: what is told of before changes what is held alone

    def copy(self) -> Shares:
        other = Shares.__new__(Shares)
        other._capacity, other._fading, other._shares = self._capacity, self._fading, self._shares
        other._parts, other._known = self._parts, self._known
        other._uses = {user: _Use(use.since, use.used, use.held) for user, use in self._uses.items()}
        return other

    def hold(self, user: str, demand: Demand, now: float, sign: int) -> None:
        """From `now` on the user holds `demand` more (`sign` 1), or less (-1)."""
        now = max(now, self._known)
        use = self._uses.get(user)
        if use is None:
            use = self._uses[user] = _Use(now)
        use.used = self._faded(use, now)
        use.since = now
        use.held = max(0, use.held + sign * self.part(demand))

    def export(self, now: float) -> dict[str, tuple[float, float]]:
        """What each user has used up to `now`: (seconds of the whole node, the moment), for `restore`."""
        for user, use in list(self._uses.items()):
            use.used, use.since = self._faded(use, now), now
            if use.used < _NOTHING and not use.held:
                del self._uses[user]
        return {user: (use.used, use.since) for user, use in self._uses.items()}

    def restore(self, exported: Mapping[str, tuple[float, float]]) -> None:
        """Begin with what was exported. Before a journal is replayed: what it tells of up to then is in it already."""
        self._uses = {user: _Use(since, used) for user, (used, since) in exported.items()}
        self._known = max((since for _, since in exported.values()), default=-math.inf)

    def rebuilt(self, capacity: NodeCapacity, half_life: float, shares: Mapping[str, float], now: float) -> Shares:
        """Those of another node or policy, with what has been used here; nobody holds anything of it yet."""
        other = Shares(capacity, half_life, shares)
        other.restore(self.export(now))
        return other

    def used(self, user: str, now: float) -> float:
        """Seconds of the whole node that the user has used, faded, divided by the user's share."""
        use = self._uses.get(user)
        return self._faded(use, now) / self._shares.get(user, 1.0) if use else 0.0

    def standing(self, now: float) -> tuple[dict[str, float], dict[str, float]]:
        """Of each user that has used anything lately: the share, and what has been used, faded."""
        used = {user: self._faded(use, now) for user, use in self._uses.items()}
        return {user: self._shares.get(user, 1.0) for user in used}, used

    def part(self, demand: Demand) -> int:
        """The largest part of the node that `demand` is, of any resource, in units of `_WHOLE`."""
        part = self._parts.get(demand)
        if part is None:
            have = self._capacity
            cpus = demand.whole or demand.share / FULL
            largest = max(
                cpus / len(have.cpus),
                demand.memory / have.memory,
                demand.egress / have.egress if have.egress else 0.0,
                demand.ingress / have.ingress if have.ingress else 0.0,
                *(count / have.named[name] for name, count in demand.named if have.named.get(name)),
            )
            part = round(largest * _WHOLE)
            if len(self._parts) >= _KEPT:
                self._parts.clear()
            self._parts[demand] = part
        return part

    def _faded(self, use: _Use, now: float) -> float:
        kept = math.exp(-self._fading * (now - use.since))
        return use.used * kept + use.held / _WHOLE / self._fading * (1.0 - kept)
