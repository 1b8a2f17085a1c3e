"""The daemon's life: store, recovery, loop and API, taken up in this order and left in reverse.

1. Nothing is asked of the launcher, and nobody is answered, before the log has been replayed.
2. A stop leaves jobs running. What is under way is recorded; the next daemon goes on from there. Where no job runs,
   nothing is left on the machine.
3. A batchns.toml that is not understood changes nothing: the daemon says so, and goes on with the old one.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio
from attrs import define, field

from batchns.core.job import Job
from batchns.daemon.control import Control
from batchns.daemon.files import SharedFiles
from batchns.daemon.fixed import keep_fixed, needs_restart
from batchns.daemon.http.scrape import serve_scrapes
from batchns.daemon.http.server import Change, serve
from batchns.daemon.http.settings import Limits, Settings, Tls
from batchns.daemon.http.tls import read_papers
from batchns.daemon.keys import Keys
from batchns.daemon.logs import Follower
from batchns.daemon.machine import Machine, open_machine, own_folders, remove_strays
from batchns.daemon.monitor import Monitor, watch_lag
from batchns.daemon.notices import Notices
from batchns.daemon.notify import Notifier, telling_of
from batchns.daemon.notify_systemd import ServiceManager
from batchns.daemon.reading import Reading
from batchns.daemon.recorder import Recorder
from batchns.daemon.recovery import Adoption, Recovered, replay
from batchns.daemon.register import REMEMBERED
from batchns.daemon.scheduler import SHARES, Clock, Scheduler
from batchns.daemon.serving import Serving
from batchns.daemon.submitting import Submitting
from batchns.daemon.trim import Trimmer
from batchns.daemon.written import Written
from batchns.errors import BatchnsError, HostError, UserError
from batchns.metrics.exporter import Exporter
from batchns.metrics.meters import Meters
from batchns.model.config import Config
from batchns.store.interface import Batch, Json, Loaded
from batchns.store.store import Store
from batchns.supervise import devices
from batchns.supervise.events import Neighbours
from batchns.supervise.filters import write_all_filters
from batchns.supervise.node import pids_of_jobs, read_node
from batchns.supervise.ports import threads
from batchns.supervise.runfolder import RunFolder
from batchns.supervise.scratch import sweep_scratch
from batchns.supervise.watch import Watch, rule_of, sampler_of

STORE = "batchns.db"  # in the state folder
_RUN = "run"  # the note of the run folder's id
_DAY = 86400.0
_CHECK = 60.0  # seconds between two looks at the firewall


@define(kw_only=True, eq=False)
class Daemon:
    """`load`: reads batchns.toml, as it is now. `tell`: a line for the administrator."""

    load: Callable[[], Config]
    tell: Callable[[str], None]
    manager: ServiceManager = field(factory=ServiceManager.of_environment)
    config: Config = field(init=False)
    scheduler: Scheduler = field(init=False)
    store: Store = field(init=False)
    recorder: Recorder = field(init=False)
    trimmer: Trimmer = field(init=False)
    notifier: Notifier = field(init=False)
    written: Written = field(init=False)
    monitor: Monitor = field(init=False)
    _nursery: trio.Nursery = field(init=False)
    _scraped: trio.CancelScope = field(init=False)  # around what serves metrics
    _scraped_at: tuple[str, int] | None = field(init=False, default=None)
    _admit: Change = field(init=False)  # takes other settings of the API
    _waiting: tuple[str, ...] = field(init=False, default=())  # settings that hold from the next start on
    _notices: Notices = field(init=False, factory=Notices)
    _watching: trio.CancelScope = field(init=False, factory=trio.CancelScope)
    _found: tuple[str, ...] = field(init=False, default=())  # at the last look at what needs looking after
    _flushed: trio.Event = field(init=False, factory=trio.Event)
    _silent: trio.Event = field(init=False, factory=trio.Event)  # nobody is answered any more

    async def run(self) -> None:
        """Until SIGTERM or SIGINT.

        Raises:
            UserError: batchns.toml is not understood.
            HostError: another daemon has the state or the socket, or this machine cannot run jobs.
        """
        self.config = self.load()
        state = Path(self.config.paths.state)
        with Store.open(state / STORE) as self.store:
            loaded = await trio.to_thread.run_sync(self.store.load)
            runs, rebooted = open_runs(self.config, loaded.notes)
            try:
                await self._record_run(runs, loaded)
                runs.keep()
                async with open_machine(self.config, runs, self.tell) as machine:
                    await self._run_on(machine, loaded, rebooted=rebooted)
            finally:
                runs.close()

    async def _record_run(self, runs: RunFolder, loaded: Loaded) -> None:
        """Before it is kept: a run that is kept and that no daemon knows of would stay for ever."""
        if loaded.notes.get(_RUN) != runs.run_id:
            with suppress(HostError):  # tried again with the first batch
                await trio.to_thread.run_sync(self.store.commit, Batch(notes={_RUN: runs.run_id}))

    async def _run_on(self, machine: Machine, loaded: Loaded, *, rebooted: bool) -> None:
        found = replay(loaded, machine.capacity, self.config)
        machine.runs.free_all_but(set(found.slots.values()))
        blocking = threads()
        clock = Clock(loaded.last)
        exporter = Exporter(driver=machine.driver, blocking=blocking, config=lambda: self.config)
        self.recorder = Recorder(
            journal=self.store,
            blocking=threads(),  # of its own: whatever else hangs, what happens is recorded
            notes=lambda: {SHARES: scheduler.schedule.shares.export(clock())},
            committed=partial(_count_commit, exporter.meters),
        )
        scheduler = self.scheduler = Scheduler(
            config=self.config,
            schedule=found.schedule,
            machine=machine,
            recorder=self.recorder,
            owners=found.owners,
            clock=clock,
            serial=found.serial,
            blocking=blocking,
            watched=self._watched,
            metering=exporter.counting,
        )
        exporter.watch(scheduler.books, links=machine.networks.connected)
        self.monitor = Monitor(exporter=exporter, scheduler=scheduler, recorder=self.recorder)
        self.recorder.keep(_RUN, machine.runs.run_id)
        for ending in await trio.to_thread.run_sync(self.store.recent, REMEMBERED):
            scheduler.register.recall(ending)
        shared, follower = SharedFiles(), Follower(blocking)
        self.trimmer = Trimmer(self.config.output.max_size, shared, blocking)
        self.notifier = Notifier(blocking, machine.driver, machine.runs.run_id)
        keys = Keys()
        keys.recall(loaded.notes)
        async with trio.open_nursery() as nursery:
            written = Written(trimmer=self.trimmer, recorder=self.recorder, blocking=blocking, start=nursery.start_soon)
            scheduler.written = self.written = written
            scheduler.outputs.opened = written.opened
            serving = self._serving(scheduler, shared, follower, written, keys)
            for function in (follower.run, self.trimmer.run, self.notifier.run):
                nursery.start_soon(function)
            await self._recover(found, loaded, nursery, rebooted=rebooted)
            self._admit = await nursery.start(self._answer, serving)
            self._nursery = nursery
            await self._tell_monitors(self.config.metrics.listen)
            nursery.start_soon(watch_lag, exporter.meters)
            nursery.start_soon(self._heed_signals)
            nursery.start_soon(self._keep_house, keys)
            await scheduler.run(nursery, self._is_ready)
            self.monitor.stopping = True
            self.manager.stopping()
            self._flushed.set()
            await self._silent.wait()  # answers that are being made are finished, within the grace of `serve`
            machine.keep = bool(scheduler.schedule.active)
            nursery.cancel_scope.cancel()

    def _serving(
        self, scheduler: Scheduler, shared: SharedFiles, follower: Follower, written: Written, keys: Keys
    ) -> Serving:
        return Serving(
            scheduler=scheduler,
            submitting=Submitting(
                config=lambda: self.config,
                journal=self.store,
                books=scheduler.books,
                owners=scheduler.owners,
                register=scheduler.register,
                outputs=scheduler.outputs,
                inbox=scheduler.inbox,
                clock=scheduler.clock,
                keys=keys,
            ),
            control=Control(
                config=lambda: self.config,
                loop=scheduler.loop,
                books=scheduler.books,
                effects=scheduler.effects,
                owners=scheduler.owners,
                places=scheduler.hub.places,
                inbox=scheduler.inbox,
                clock=scheduler.clock,
            ),
            reading=Reading(
                config=lambda: self.config,
                journal=self.store,
                books=scheduler.books,
                hub=scheduler.hub,
                owners=scheduler.owners,
                clock=scheduler.clock,
            ),
            journal=self.store,
            written=written,
            shared=shared,
            follower=follower,
            troubles=self.troubles,
            started=scheduler.clock(),
        )

    async def _recover(self, found: Recovered, loaded: Loaded, nursery: trio.Nursery, *, rebooted: bool) -> None:
        scheduler = self.scheduler
        scheduler.effects.nursery = nursery
        adoption = Adoption(scheduler=scheduler, found=found, notes=loaded.notes, rebooted=rebooted, tell=self.tell)
        await adoption.perform()
        known = {*scheduler.machine.launcher.known, *(one.name for one in scheduler.books.attempts.values())}
        runs = {scheduler.machine.runs.run_id, loaded.notes.get(_RUN, "")}
        for line in await trio.to_thread.run_sync(remove_strays, scheduler.machine.driver, runs, known):
            self.tell(line)
        for run in runs:
            for line in await trio.to_thread.run_sync(sweep_scratch, self.config, known, run):
                self.tell(line)
        for job in scheduler.schedule:
            self._notices.known(job)
        counts = f"{len(scheduler.schedule.pending)} waiting, {adoption.adopted} running"
        self.tell(f"recovered: {counts}" + (f", {adoption.lost} lost" if adoption.lost else ""))

    def _is_ready(self) -> None:
        self.tell(f"ready on {self.config.socket}")
        self.manager.ready()

    async def _answer(self, serving: Serving, task_status: trio.TaskStatus[Change] = trio.TASK_STATUS_IGNORED) -> None:
        settings = http_settings(self.config)
        settings.socket.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        try:
            await serve(serving, settings, monitor=self.monitor, stop=self._flushed, task_status=task_status)
        finally:
            self._silent.set()

    # What happens besides.

    async def _heed_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    await self._reload()
                else:
                    running = len(self.scheduler.schedule.active)
                    self.tell(f"stopping; {running} jobs run on" if running else "stopping")
                    self.scheduler.stop()

    async def _reload(self) -> None:
        self.manager.reloading()
        try:
            await self.reload()
        except BatchnsError as error:
            self.tell(f"batchns.toml is not used, the settings stay as they were: {error}")
        else:
            self.tell("batchns.toml has been read again")
            if self._waiting:
                self.tell(needs_restart(self._waiting))
        self.manager.ready()

    async def reload(self) -> None:
        """Use batchns.toml as it is now, but for what has to wait for a restart.

        Raises:
            UserError: it is not understood.
            HostError: it does not fit this machine. Nothing has changed.
        """
        before = self.config
        config, waiting = keep_fixed(await trio.to_thread.run_sync(self.load), before)
        machine = self.scheduler.machine
        capacity, units = read_node(config), devices.read_units(config)
        filters = await trio.to_thread.run_sync(write_all_filters, config.isolation.seccomp, machine.runs.path)
        settings = http_settings(config)
        papers = None if settings.tls is None else await trio.to_thread.run_sync(read_papers, settings.tls)
        if config.metrics.listen != self._scraped_at:
            await self._move_monitors(config.metrics.listen)
        machine.capacity, machine.units, machine.filters = capacity, dict(units), dict(filters)
        machine.own = own_folders(config)
        self.trimmer.most = config.output.max_size
        machine.driver.bound(pids_of_jobs(config))
        await self.scheduler.reconfigure(config)
        self.config, self._waiting = config, waiting
        rights = (config.daemon.admins, config.daemon.see) != (before.daemon.admins, before.daemon.see)
        self._admit(settings, rights, papers)
        self.monitor.exporter.begin()
        self._watching.cancel()

    async def _move_monitors(self, address: tuple[str, int] | None) -> None:
        """The old address is given up first: both may have the same port.

        Raises:
            HostError: nobody can listen there; metrics are served where they were.
        """
        before = self._scraped_at
        self._scraped.cancel()
        try:
            await self._tell_monitors(address)
        except HostError:
            await self._tell_monitors(before)
            raise

    async def _tell_monitors(self, address: tuple[str, int] | None) -> None:
        """Serve metrics there; None: nowhere.

        Raises:
            HostError: nobody can listen there.
        """
        self._scraped, self._scraped_at = trio.CancelScope(), None
        if address is not None:
            await self._nursery.start(self._serve_metrics, address)
            self._scraped_at = address

    async def _serve_metrics(
        self, address: tuple[str, int], task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with self._scraped:
            await serve_scrapes(self.monitor, address, task_status=task_status)

    async def _keep_house(self, keys: Keys) -> None:
        """Forget what is old, and see that the firewall is what it has to be."""
        pruned = 0.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_neighbours)
            while True:
                now = self.scheduler.clock()
                try:
                    self._found = tuple(await self.scheduler.machine.networks.check())
                    if now - pruned > _DAY / 24:
                        pruned = now
                        for name in keys.expired(now):
                            self.recorder.keep(name, None)
                        while await trio.to_thread.run_sync(self.store.prune, now - self.config.history.keep):
                            await trio.sleep(0.05)
                except HostError as error:
                    self._found = (str(error),)
                for line in self._found:
                    self.tell(line)
                await trio.sleep(_CHECK)

    async def _watch_neighbours(self) -> None:
        """By the settings that hold, which may change."""
        while True:
            with trio.CancelScope() as self._watching:
                await self._watch_these_neighbours()
                await trio.sleep_forever()
            self.scheduler.inbox.post(Neighbours(False))  # whoever watches next finds out anew

    async def _watch_these_neighbours(self) -> None:
        machine = self.scheduler.machine
        sampler = sampler_of(self.config, self.config.queues, machine.capacity.cpus, machine.driver)
        if sampler is None:
            return
        watch = Watch(
            sampler=sampler,
            cpus=len(machine.capacity.cpus),
            rule=rule_of(self.config),
            blocking=self.scheduler.blocking,
            clock=self.scheduler.clock,
        )
        await watch.run(lambda busy: self.scheduler.inbox.post(Neighbours(busy)))

    def _watched(self, job: Job, row: bytes) -> None:
        """A job has changed, and that is recorded."""
        scheduler = self.scheduler
        notice = self._notices.of(job, over=scheduler.schedule.over(job.id))
        if notice is None or job.spec.queue not in self.config.queues:
            return
        settings = self.config.notify_of(job.spec.queue)
        if not settings.command:
            return
        try:
            owner = scheduler.owners.submitter(job)
        except UserError:
            return  # nobody is left to be told
        telling = telling_of(settings, notice, job.spec, owner, job.id, row)
        if telling is not None:
            self.notifier.post(telling)

    def troubles(self) -> tuple[str, ...]:
        """What an administrator should know."""
        recorder = f"nothing can be recorded: {self.recorder.trouble}" if self.recorder.trouble else ""
        restart = needs_restart(self._waiting)
        found = (
            recorder,
            restart,
            *self._found,
            *self.trimmer.troubles(),
            *self.written.troubles(),
            *self.notifier.troubles(),
        )
        return tuple(line for line in found if line)


def open_runs(config: Config, notes: Mapping[str, Json]) -> tuple[RunFolder, bool]:
    """This daemon's run folder, and whether it is a new one though there was one: the machine has been rebooted.

    Raises:
        HostError: another daemon has it, or it cannot be used.
    """
    run_id = notes.get(_RUN)
    runs = RunFolder.reopen(config, run_id) if run_id else None
    if runs is not None:
        return runs, False
    return RunFolder(config), True


def http_settings(config: Config) -> Settings:
    daemon = config.daemon
    tls = daemon.tls
    return Settings(
        socket=Path(config.socket),
        admins=frozenset(daemon.admins.users),
        admin_groups=frozenset(daemon.admins.groups),
        limits=Limits(per_user=daemon.connections),
        tls=None
        if tls is None
        else Tls(
            host=tls.listen[0],
            port=tls.listen[1],
            certificate=Path(tls.certificate),
            key=Path(tls.key),
            authority=Path(tls.ca),
            users=dict(tls.users),
        ),
    )


def _count_commit(meters: Meters, seconds: float, durable: bool) -> None:
    if durable:
        meters.observe("batchns_store_commit_seconds", seconds)
    else:
        meters.add("batchns_store_errors_total")


async def run_daemon(load: Callable[[], Config], tell: Callable[[str], None]) -> None:
    """See `Daemon.run`."""
    await Daemon(load=load, tell=tell).run()
