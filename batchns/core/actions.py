"""What `decide` asks for. Each action names one job; whoever performs it reports to the schedule."""

from __future__ import annotations

from attrs import frozen

from batchns.core.job import Cause
from batchns.core.placement import Placement
from batchns.core.reasons import Reason


@frozen
class Launch:
    """Start the job's next attempt at `placement` (its demand and bounds stand in the job)."""

    job: str
    placement: Placement


@frozen
class Stop:
    """Ask the job to end: SIGTERM now, `Kill` follows when its grace is over."""

    job: str
    cause: Cause


@frozen
class Kill:
    """End the job now, whatever it does."""

    job: str


@frozen
class Requeue:
    """Another attempt: back to PENDING."""

    job: str


@frozen
class Cancel:
    """The pending job will never run."""

    job: str
    reason: Reason


@frozen
class Freeze:
    job: str


@frozen
class Thaw:
    job: str


Action = Launch | Stop | Kill | Requeue | Cancel | Freeze | Thaw
