"""What `decide` asks for. Each action names one job; whoever performs it reports to the schedule."""

from __future__ import annotations

from attrs import frozen

from batchns.core.job import Cause, FreezeCause
from batchns.core.placement import Placement
from batchns.core.reasons import Reason


@frozen
class Launch:
    """Start the job's next attempt at `placement` (its demand and bounds stand in the job)."""

    job: str
    placement: Placement


@frozen
class Stop:
    """Ask the job to end: SIGTERM now, `Kill` follows when its grace is over.

    `by`: the job that waits for its place, with `cause` PREEMPTED.
    """

    job: str
    cause: Cause
    by: str = ""


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
    """Freeze the job. `thaw_by`: the moment by which it goes on again; None: not promised.

    `by`: the job that waits for its place, with `cause` PREEMPTED.
    """

    job: str
    cause: FreezeCause = FreezeCause.PAUSE
    by: str = ""
    thaw_by: float | None = None


@frozen
class Thaw:
    """Let the job go on. `placement`: on these CPUs, where it has lent its own to others; None: where it is."""

    job: str
    placement: Placement | None = None


@frozen
class Reclaim:
    """Take from the frozen job what memory it can do without, and bound it to the rest."""

    job: str


@frozen
class Join:
    """The pending job's time has come: it competes from now on."""

    job: str


@frozen
class Warn:
    """Send the job the signal that it wants before its time limit."""

    job: str


Action = Launch | Stop | Kill | Requeue | Cancel | Freeze | Thaw | Reclaim | Join | Warn
