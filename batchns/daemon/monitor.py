"""What the daemon tells of itself to monitors: metrics, whether it lives, whether it takes and starts jobs."""

from __future__ import annotations

from contextlib import suppress

import trio
from attrs import define, field

from batchns.daemon.http.routes import ROUTES
from batchns.daemon.recorder import Recorder
from batchns.daemon.scheduler import Scheduler
from batchns.errors import BatchnsError
from batchns.metrics.exporter import Exporter
from batchns.metrics.meters import Meters
from batchns.supervise import events

TURN = 5.0  # seconds in which the loop has to come round
_LAG = 0.25  # seconds between two looks at how late a timer is


@define(kw_only=True, eq=False)
class Monitor:
    """See `http.app.Monitor`."""

    exporter: Exporter
    scheduler: Scheduler
    recorder: Recorder
    stopping: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        """A defect is to be seen from the first one on: a rate needs a zero before it."""
        defects = [(route.path, route.method, "500") for route in ROUTES]
        self.exporter.meters.begin("batchns_api_request_seconds", defects)

    async def scrape(self, accept: str) -> tuple[str, bytes]:
        return await self.exporter.scrape(accept)

    async def ill(self) -> str:
        reply: events.Reply[None] = events.Reply()
        self.scheduler.inbox.post(events.Ask(_nothing, reply))
        with trio.move_on_after(TURN):
            with suppress(BatchnsError):  # a turn that could not be recorded is one
                await reply.get()
            return ""
        return f"the scheduler has not come round within {TURN:.0f} s"

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        self.exporter.meters.observe("batchns_api_request_seconds", seconds, (route, method, str(status)))

    def unready(self) -> str:
        closed = self.scheduler.schedule.closed
        if self.stopping:
            return "stopping"
        if self.recorder.trouble:
            return f"nothing can be recorded: {self.recorder.trouble}"
        return "" if closed is None else f"drained: {closed}"


def _nothing() -> None:
    pass


async def watch_lag(meters: Meters) -> None:
    """By how much timers of the event loop are late, for ever."""
    while True:
        due = trio.current_time() + _LAG
        await trio.sleep_until(due)
        meters.observe("batchns_loop_lag_seconds", max(0.0, trio.current_time() - due))
