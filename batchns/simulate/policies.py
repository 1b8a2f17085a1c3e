"""The policies that have a name: settings of the scheduler as the literature knows them.

fcfs: strictly in order. easy: the first waiting job has a reservation, others may go ahead if they do not delay it
(Lifka, "The ANL/IBM SP Scheduling System", 1995). easy-sjbf: of those the shortest first (Tsafrir, Etsion and
Feitelson, 2007). conservative: every waiting job has a reservation (Mu'alem and Feitelson, 2001). preemptive:
batchns's own, where a job that is sooner over takes the place of one that is later over, which is frozen meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from batchns.model.config import Backfill, Config, FairShare, Order, Preemption, ScheduleSettings

_DAY = 86400.0


def _plain(**settings: object) -> ScheduleSettings:
    """In order of submission, by the users' own estimates, nothing preempted."""
    return ScheduleSettings(order=Order.SUBMITTED, preempt=Preemption.OFF, learn=False, **settings)  # type: ignore[arg-type]


POLICIES: Mapping[str, ScheduleSettings] = MappingProxyType(
    {
        "fcfs": _plain(backfill=Backfill.OFF),
        "easy": _plain(backfill=Backfill.SUBMITTED, reservations=1),
        "easy-sjbf": _plain(backfill=Backfill.SHORTEST, reservations=1),
        "conservative": _plain(backfill=Backfill.SUBMITTED, reservations=None),
        "preemptive": ScheduleSettings(
            order=Order.SHORTEST,
            backfill=Backfill.SUBMITTED,
            reservations=0,  # who is to wait takes somebody's place instead
            preempt=Preemption.SHORTER,
            max_frozen=3 * _DAY,
            learn=True,
        ),
    }
)


def named(name: str) -> Config | None:
    """All settings of the policy of this name, without fair share; None when there is none."""
    settings = POLICIES.get(name)
    return None if settings is None else Config(schedule=settings, fair_share=FairShare(enabled=False))
