"""The loop of a daemon and all that belongs to it: built once, from the machine's parts and what was recovered.

Every job has an owner of its own here; who that is says `Owners`. The schedule's clock is the time of day, as far as
that never goes back.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio
from attrs import define, field

from batchns.core.job import Job
from batchns.core.schedule import Schedule
from batchns.daemon.hub import Hub
from batchns.daemon.machine import Machine
from batchns.daemon.owners import Owners
from batchns.daemon.places import Places
from batchns.daemon.recorder import Recorder
from batchns.daemon.register import Register
from batchns.daemon.written import Written
from batchns.model.config import Config
from batchns.supervise import events
from batchns.supervise.answers import Answers
from batchns.supervise.attempt import Preparer
from batchns.supervise.books import Books
from batchns.supervise.effects import Effects
from batchns.supervise.events import Mailbox
from batchns.supervise.images import Images
from batchns.supervise.launches import Launches
from batchns.supervise.loop import Loop
from batchns.supervise.outputs import Outputs
from batchns.supervise.ports import Blocking, Metering, Unmetered, threads

SHARES = "shares"  # the note that past use is kept in


class Clock:
    """Seconds since the epoch that never go back, and pass as fast as the clock that trio sleeps by.

    A change of the machine's time during the daemon's life does not move it.
    """

    def __init__(self, last: float, wall: Callable[[], float] = time.time) -> None:
        """`last`: the last moment that was ever recorded."""
        self._offset = max(wall(), last) - trio.current_time()

    def __call__(self) -> float:
        return trio.current_time() + self._offset


@define(kw_only=True, eq=False)
class Scheduler:
    config: Config
    schedule: Schedule
    machine: Machine
    recorder: Recorder
    owners: Owners
    clock: Callable[[], float]
    serial: int = 0
    blocking: Blocking = field(factory=threads)
    watched: Callable[[Job, bytes], None] | None = None
    metering: Metering = field(factory=Unmetered)
    written: Written | None = field(init=False, default=None)
    hub: Hub = field(init=False)
    register: Register = field(init=False)
    books: Books = field(init=False)
    preparer: Preparer = field(init=False)
    effects: Effects = field(init=False)
    loop: Loop = field(init=False)
    outputs: Outputs = field(init=False)
    inbox: Mailbox[events.Event] = field(init=False, factory=Mailbox)
    _stopping: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        machine = self.machine
        places = Places.of(job.id for job in self.schedule)
        self.hub = Hub(self.owners, int(self.clock() * 1000), self.watched, places)
        self.outputs = Outputs(self.blocking, mode=self.config.output.mode)
        self.register = Register(recorder=self.recorder, owners=self.owners, hub=self.hub, outputs=self.outputs)
        self.books = Books(self.schedule, None, self.clock, self.register, self.recorder, self.hub.changed)
        self.books.metering = self.metering
        self.hub.books = self.register.books = self.books
        self.preparer = Preparer(
            config=self.config,
            driver=machine.driver,
            runs=machine.runs,
            outputs=self.outputs,
            images=Images(self.blocking),
            owners=self.owners,
            host_paths=machine.host_paths,
            networks=machine.networks,
            filters=machine.filters,
            units=machine.units,
            own=machine.own,
        )
        self.effects = Effects(
            driver=machine.driver,
            launcher=machine.launcher,
            blocking=self.blocking,
            post=self.inbox.post,
            give_back=self.preparer.give_back,
            forgotten=self._forget,
        )
        launches = Launches(
            launcher=machine.launcher,
            preparer=self.preparer,
            effects=self.effects,
            post=self.inbox.post,
            job=self.schedule.__getitem__,
            kept=machine.launcher,
        )
        self.loop = Loop(
            books=self.books,
            answers=Answers(
                books=self.books,
                preparer=self.preparer,
                effects=self.effects,
                driver=machine.driver,
                root=True,
                drain_when_lost=False,
            ),
            effects=self.effects,
            launches=launches,
            runs=machine.runs,
            inbox=self.inbox,
            clock=self.clock,
            recorder=self.recorder,
            serial=self.serial,
            settled=self._turn_over,
        )

    async def run(self, nursery: trio.Nursery, started: Callable[[], None]) -> None:
        """Until `stop`. Jobs that run then go on. `nursery`: for everything that is done for them. `started`: called
        when the first turn is to begin.
        """
        self.effects.nursery = nursery
        nursery.start_soon(self.loop.launches.serve)
        started()
        await self.loop.run(lambda: self._stopping)

    def stop(self) -> None:
        """After a last turn, which is recorded if that can be."""
        self._stopping = True
        self.inbox.post(events.Wake())

    async def reconfigure(self, config: Config) -> None:
        """Other settings, or another node, from the next turn on."""

        def change() -> None:
            self.config = self.preparer.config = config
            self.outputs.mode = config.output.mode
            self.preparer.filters, self.preparer.units = self.machine.filters, self.machine.units
            self.preparer.own = self.machine.own
            self.schedule.reconfigure(self.machine.capacity, config, self.clock())
            self.recorder.keep(SHARES, self.schedule.shares.export(self.clock()))
            for job_id in self.schedule.pending:
                self.books.tell(job_id)

        reply: events.Reply[None] = events.Reply()
        self.inbox.post(events.Ask(change, reply))
        await reply.get()

    def _turn_over(self) -> None:
        self.hub.turn_over()
        self.register.turn_over()

    def _forget(self, attempt: str) -> None:
        if self.written is not None:
            self.written.ended(attempt)
        self.effects.nursery.start_soon(self.machine.launcher.forget, attempt)
