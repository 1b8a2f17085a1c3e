"""Everything that the daemon can be asked, put together: see `service.Service`, whose documentation holds here."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

import trio
from attrs import define, evolve, field, frozen

from batchns import __version__
from batchns.core import changes
from batchns.daemon import selectors
from batchns.daemon.control import Control
from batchns.daemon.execution import Pipes, Terminal, execute
from batchns.daemon.files import SharedFiles
from batchns.daemon.logs import Follower, LogReader, Output
from batchns.daemon.reading import Reading, kind_of, no_such_job
from batchns.daemon.scheduler import Scheduler
from batchns.daemon.service import HistoryQuery, JobQuery, Peer, Refused, RowsPage, StateEvent
from batchns.daemon.submitting import Submitting
from batchns.daemon.written import Written
from batchns.errors import UserError
from batchns.model.lifecycle import State
from batchns.model.submitter import Submitter
from batchns.store.interface import Journal, Stored
from batchns.supervise.admission import permitted
from batchns.supervise.node import format_cpu_list
from batchns.wire import types as wire

_MOST_EXECUTIONS = 16  # processes of one user in jobs at a time
_NEXT = 0.2  # seconds: how soon the next attempt of a job that is followed is looked for


@define(kw_only=True, eq=False)
class Serving:
    """`started`: the moment at which the daemon began. `troubles`: what an administrator should know."""

    scheduler: Scheduler
    submitting: Submitting
    control: Control
    reading: Reading
    journal: Journal
    written: Written
    shared: SharedFiles
    follower: Follower
    troubles: Callable[[], tuple[str, ...]]
    started: float
    _executions: Counter[int] = field(init=False, factory=Counter)  # by uid

    async def you(self, peer: Peer) -> wire.You:
        return wire.You(user=peer.user, uid=peer.uid, admin=peer.admin, version=__version__)

    def may_monitor(self, peer: Peer) -> None:
        if not self.reading.sight(peer).sees(-1):
            raise Refused("forbidden", "metrics tell of everybody's jobs", 'ask root, or set see = "all" in [daemon]')

    async def submit(self, peer: Peer, request: wire.SubmitRequest) -> wire.Submitted:
        return await self.submitting.submit(peer, await self._user(peer), request)

    async def jobs(self, peer: Peer, query: JobQuery) -> RowsPage:
        return await self.reading.jobs(peer, query)

    async def job(self, peer: Peer, job_id: str) -> wire.JobDetail:
        return await self.reading.job(peer, job_id)

    async def why(self, peer: Peer, job_id: str) -> wire.Why:
        return await self.reading.why(peer, job_id)

    async def act(self, peer: Peer, request: wire.ActRequest) -> wire.ActAnswer:
        return await self.control.act(peer, request)

    async def history(self, peer: Peer, query: HistoryQuery) -> RowsPage:
        return await self.reading.history(peer, query)

    async def usage(self, peer: Peer, query: HistoryQuery) -> wire.UsageAnswer:
        return await self.reading.usage(peer, query)

    async def queues(self, peer: Peer) -> wire.QueuesAnswer:
        submitter = await self._user(peer)
        config = self.scheduler.config
        return self.reading.queues(peer, lambda name: permitted(config.queues[name], submitter))

    async def node(self, peer: Peer) -> wire.NodeInfo:
        scheduler = self.scheduler
        schedule, capacity = scheduler.schedule, scheduler.machine.capacity
        room = schedule.room()
        active = Counter(kind_of(schedule[job_id]) for job_id in schedule.active)
        counts = {"waiting": len(schedule.pending), "running": active["running"], "frozen": active["frozen"]}
        rates = {
            name: float(value)
            for name, value in (("egress", capacity.egress), ("ingress", capacity.ingress))
            if value is not None
        }
        named = {name: float(count) for name, count in capacity.named.items()}
        free_rates = {name: float(getattr(room, name)) for name in rates}
        return wire.NodeInfo(
            host=socket.gethostname(),
            version=__version__,
            pid=os.getpid(),
            started=self.started,
            cgroup=scheduler.machine.driver.mode,
            state="open" if schedule.closed is None else "drained",
            detail=schedule.closed or "",
            cpus=format_cpu_list(capacity.cpus),
            total={"cpus": float(len(capacity.cpus)), "memory": float(capacity.memory), **rates, **named},
            free={
                "cpus": float(room.idle),
                "memory": float(max(room.memory, 0)),
                **free_rates,
                **{name: float(room.named[name]) for name in named},
            },
            troubles=self.troubles() if peer.admin else (),
            **counts,
        )

    async def drain(self, peer: Peer, request: wire.DrainRequest) -> wire.NodeInfo:
        self._administers(peer, "drain the node")
        detail = request.detail[:200] or f"by {peer.user}"
        await self.control.ask(lambda: self.scheduler.books.change(changes.Closed(detail)))
        return await self.node(peer)

    async def resume(self, peer: Peer) -> wire.NodeInfo:
        self._administers(peer, "resume the node")
        await self.control.ask(lambda: self.scheduler.books.change(changes.Opened()))
        return await self.node(peer)

    @asynccontextmanager
    async def events(
        self, peer: Peer, select: Sequence[str], after: int | None
    ) -> AsyncIterator[AsyncIterator[StateEvent | None]]:
        wanted = selectors.parse(select)
        sight = self.reading.sight(peer)

        def meant(uid: int, job_id: str, array_id: str, name: str) -> bool:
            mine = sight.sees(uid)
            return mine and (not wanted or wanted.meets(job_id, array_id, name))

        async with aclosing(self.scheduler.hub.watch(meant, after)) as found:
            yield found

    @asynccontextmanager
    async def logs(
        self, peer: Peer, job_id: str, stream: str, *, attempt: int | None, tail: int | None, follow: bool, start: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        stored = await self._stored(peer, job_id)
        owner = await self._owner(stored.submission.uid)
        outputs = self._outputs(job_id, stored, stream, attempt, follow=follow)
        reader = LogReader(
            outputs, owner, self.shared, self.follower, self.scheduler.blocking, tail=tail, follow=follow, start=start
        )
        async with reader:
            yield reader

    async def _outputs(
        self, job_id: str, stored: Stored, stream: str, wanted: int | None, *, follow: bool
    ) -> AsyncIterator[Output]:
        """The file of the attempt that is wanted, or of the latest one and, with `follow`, of those that come."""
        attempts = attempts_of(stored)
        number, some = wanted or max(len(attempts), 1), False
        while True:
            begun = attempts[number - 1] if number <= len(attempts) else None
            if begun is not None and begun.started:
                path = begun.stdout if stream == "stdout" else begun.stderr
                if path is not None:
                    some = True
                    yield Output(path, self.written.running(begun.name))
            if begun is not None and (begun.started or number < len(attempts)):
                if wanted or not follow:
                    break
                number += 1
            elif not follow or not self._goes_on(job_id):
                break
            else:
                await self._change_of(job_id)
            attempts = attempts_of(await self._again(job_id) or stored)
        if not some:
            if wanted is not None and wanted > len(attempts):
                raise Refused("not_found", f"job {job_id} has no attempt {wanted}", f"see batchns show {job_id}")
            raise Refused("not_found", f"job {job_id} has written nothing", f"see batchns show {job_id}")

    async def _again(self, job_id: str) -> Stored | None:
        return await trio.to_thread.run_sync(self.journal.job, job_id)

    def _goes_on(self, job_id: str) -> bool:
        """There is, or may come, another attempt."""
        schedule = self.scheduler.schedule
        return job_id in schedule and not schedule.over(job_id)

    async def _change_of(self, job_id: str) -> None:
        """Wait until something has become of the job, or a moment."""
        with trio.move_on_after(_NEXT):
            async with aclosing(self.scheduler.hub.watch(lambda _, one, *__: one == job_id, None)) as found:
                async for _ in found:
                    return

    @asynccontextmanager
    async def execute(self, peer: Peer, job_id: str, request: wire.ExecRequest) -> AsyncIterator[Pipes | Terminal]:
        (job, *more) = self.control.mine(peer, [job_id])
        if more:
            raise Refused("invalid", f"{job_id} names {len(more) + 1} jobs", f"write one of them: {job.id}")
        uid = self.scheduler.owners[job.array_id].uid
        if peer.uid not in (uid, 0):  # an administrator has no rights on the owner's files
            raise Refused("forbidden", f"job {job.id} is not yours", "only its owner and root may enter it")
        attempt = self.scheduler.books.attempts.get(job.id)
        if attempt is None or attempt.started is None or job.state is not State.RUNNING:
            raise Refused("conflict", f"job {job.id} is {job.state.value}", "wait until it runs")
        owner = await self._owner(uid)
        if self._executions[peer.uid] >= _MOST_EXECUTIONS:
            raise Refused("conflict", f"{peer.user} is in jobs {_MOST_EXECUTIONS} times already", "leave one of them")
        self._executions[peer.uid] += 1
        try:
            async with execute(self.scheduler.machine.launcher, attempt.name, request, owner) as process:
                yield process
        finally:
            self._executions[peer.uid] -= 1

    async def _stored(self, peer: Peer, job_id: str) -> Stored:
        stored = await trio.to_thread.run_sync(self.journal.job, job_id)
        if stored is None or not (peer.admin or stored.submission.uid == peer.uid):
            raise no_such_job(job_id)
        return stored

    def _administers(self, peer: Peer, what: str) -> None:
        if not peer.admin:
            hint = "ask an administrator, or be named under [daemon] admins in batchns.toml"
            raise Refused("forbidden", f"{peer.user} may not {what}", hint)

    async def _user(self, peer: Peer) -> Submitter:
        """Whose jobs the peer's are: the user database says it."""
        return await self._owner(peer.uid)

    async def _owner(self, uid: int) -> Submitter:
        try:
            return await self.scheduler.owners.look_up(uid)
        except UserError as error:
            raise Refused("forbidden", error.what, error.hint) from None


@frozen
class Begun:
    """One attempt. `started`: its command ran; its files are known then."""

    name: str
    started: bool = False
    stdout: str | None = None
    stderr: str | None = None


def attempts_of(stored: Stored) -> list[Begun]:
    """The job's attempts so far, in their order."""
    attempts: list[Begun] = []
    for entry in stored.entries:
        if isinstance(entry.change, changes.Launched):
            attempts.append(Begun(entry.data["attempt"]))
        elif isinstance(entry.change, changes.Started) and attempts:
            data = entry.data
            attempts[-1] = evolve(attempts[-1], started=True, stdout=data.get("stdout"), stderr=data.get("stderr"))
    return attempts
