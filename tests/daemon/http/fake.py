"""A service that is all in memory, and a server around it in a thread: what HTTP and clients are tested with."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio
from attrs import evolve

from batchns.daemon.http import Limits, Settings, serve
from batchns.daemon.http.app import Monitor
from batchns.daemon.http.failures import only
from batchns.daemon.service import HistoryQuery, JobQuery, Peer, Refused, RowsPage, StateEvent
from batchns.wire import codec
from batchns.wire import types as wire


def row(number: int, **values: object) -> wire.JobRow:
    made = wire.JobRow(
        id=str(number), array_id=str(number), name=f"job-{number}", user="ada", queue="default", state="PENDING",
        submitted=1_700_000_000.0 + number,
    )  # fmt: skip
    return evolve(made, **values)


class FakeExecution:
    """Says back what it is told, and ends with its stdin, or with a signal. As its command says: "deaf" never reads
    its stdin, "flood" writes without end, "tenfold" says everything ten times.
    """

    def __init__(self, request: wire.ExecRequest) -> None:
        self.request = request
        self.size = request.terminal
        self.end: tuple[int | None, int | None] = (None, None)
        self._give, self._take = trio.open_memory_channel[tuple[str, bytes] | None](100)

    async def read(self) -> tuple[str, bytes] | None:
        if "flood" in self.request.command:
            await trio.lowlevel.checkpoint()
            return "stdout", bytes(65536)
        return await self._take.receive()

    async def write(self, data: bytes) -> None:
        if "deaf" in self.request.command:
            await trio.sleep_forever()
        if data == b"break":
            raise RuntimeError("a defect")
        if data:
            for _ in range(10 if "tenfold" in self.request.command else 1):
                await self._give.send(("stdout", data))
            return
        await self._give.send(("stderr", f"{self.size}".encode()))
        self.end = (len(self.request.command), None)
        await self._give.send(None)

    async def signal(self, number: int) -> None:
        self.end = (None, number)
        await self._give.send(None)

    def resize(self, rows: int, columns: int) -> None:
        self.size = (rows, columns)

    async def wait(self) -> tuple[int | None, int | None]:
        return self.end


class FakeService:
    """`rows`: its jobs. What clients have asked for last is in `asked`; streams that are open are counted."""

    def __init__(self, count: int = 3) -> None:
        self.rows = [codec.encode(row(number)) for number in range(1, count + 1)]
        self.asked: list[object] = []
        self.peers: list[Peer] = []
        self.submitted: dict[str, wire.Submitted] = {}
        self.numbers = 0
        self.streams = 0
        self.pieces = [b"one\n", b"two\n"]
        self.readers: list[trio.MemorySendChannel[StateEvent | None]] = []
        self.hold: trio.Event | None = None
        self.drained = ""

    def tell(self, event: StateEvent | None) -> None:
        for reader in self.readers:
            reader.send_nowait(event)

    def may_monitor(self, peer: Peer) -> None:
        pass

    async def you(self, peer: Peer) -> wire.You:
        self.peers.append(peer)
        return wire.You(user=peer.user, uid=peer.uid, admin=peer.admin, version="0")

    async def submit(self, peer: Peer, request: wire.SubmitRequest) -> wire.Submitted:
        self.asked.append(request)
        if request.key and request.key in self.submitted:
            return self.submitted[request.key]
        self.numbers += 1
        made = wire.Submitted(jobs=(wire.SubmittedJob(id=str(self.numbers), name="train"),))
        self.submitted[request.key] = made
        return made

    async def jobs(self, peer: Peer, query: JobQuery) -> RowsPage:
        self.asked.append(query)
        if self.hold is not None:
            await self.hold.wait()
        start = int(query.after or 0)
        end = start + query.limit
        return RowsPage(rows=self.rows[start:end], next=str(end) if end < len(self.rows) else "")

    async def job(self, peer: Peer, job_id: str) -> wire.JobDetail:
        if job_id == "break":
            raise RuntimeError("a defect")
        if not job_id.isdigit() or not 0 < int(job_id) <= len(self.rows):
            hint = "see batchns ps, or batchns history"
            raise Refused("not_found", f"there is no job {job_id} that you may see", hint)
        return wire.JobDetail(row=row(int(job_id)), happened=(wire.Happened(at=1.0, event="submitted"),))

    async def why(self, peer: Peer, job_id: str) -> wire.Why:
        return wire.Why(id=job_id, code="resources", text="waits for 4 CPUs", lacks={"resource": "cpus"})

    async def act(self, peer: Peer, request: wire.ActRequest) -> wire.ActAnswer:
        self.asked.append(request)
        return wire.ActAnswer(jobs=tuple(wire.Acted(id=job, done=True) for job in request.jobs))

    async def history(self, peer: Peer, query: HistoryQuery) -> RowsPage:
        if query.user == "*" and not peer.admin:
            raise Refused("forbidden", "only administrators see everybody's jobs")
        self.asked.append(query)
        return RowsPage(rows=self.rows[:1])

    async def usage(self, peer: Peer, query: HistoryQuery) -> wire.UsageAnswer:
        self.asked.append(query)
        return wire.UsageAnswer(rows=(wire.UsageRow(user="ada", name="train", jobs=2),))

    async def node(self, peer: Peer) -> wire.NodeInfo:
        state = "drained" if self.drained else "open"
        return wire.NodeInfo(
            host="here", version="0", pid=1, started=1.0, cgroup="v2", state=state, detail=self.drained,
            total={"cpus": 4.0}, free={"cpus": 1.5},
        )  # fmt: skip

    async def queues(self, peer: Peer) -> wire.QueuesAnswer:
        return wire.QueuesAnswer(queues=(wire.QueueRow(name="default", priority=50),))

    async def drain(self, peer: Peer, request: wire.DrainRequest) -> wire.NodeInfo:
        if not peer.admin:
            raise Refused("forbidden", "only administrators drain the node")
        self.drained = request.detail or "drained"
        return await self.node(peer)

    async def resume(self, peer: Peer) -> wire.NodeInfo:
        self.drained = ""
        return await self.node(peer)

    @asynccontextmanager
    async def events(
        self, peer: Peer, select: Sequence[str], after: int | None
    ) -> AsyncIterator[AsyncIterator[StateEvent | None]]:
        self.asked.append((tuple(select), after))
        give, take = trio.open_memory_channel[StateEvent | None](10_000)
        self.readers.append(give)
        self.streams += 1
        try:
            yield take
        finally:
            self.streams -= 1
            self.readers.remove(give)

    @asynccontextmanager
    async def logs(
        self, peer: Peer, job_id: str, stream: str, *, attempt: int | None, tail: int | None, follow: bool, start: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked.append((job_id, stream, attempt, tail, follow))
        if job_id == "404":
            raise Refused("not_found", "there is no job 404")
        self.streams += 1

        async def pieces() -> AsyncIterator[bytes]:
            for piece in self.pieces:
                yield piece
            if job_id == "endless":
                while True:
                    await trio.lowlevel.checkpoint()
                    yield bytes(65536)
            if job_id == "break":
                raise RuntimeError("a defect")
            if follow:
                await trio.sleep_forever()

        try:
            async with trio.open_nursery():  # as the daemon's has one: what is raised inside is wrapped
                yield pieces()
        finally:
            self.streams -= 1

    @asynccontextmanager
    async def execute(self, peer: Peer, job_id: str, request: wire.ExecRequest) -> AsyncIterator[FakeExecution]:
        if job_id != "1":
            raise Refused("conflict", f"job {job_id} does not run")
        self.asked.append(request)
        self.streams += 1
        try:
            async with trio.open_nursery():
                yield FakeExecution(request)
                if "late" in request.command:
                    raise RuntimeError("a defect")
        finally:
            self.streams -= 1


class Running:
    """A server in a thread. `call` runs a function in its loop."""

    def __init__(
        self, socket: Path, token: trio.lowlevel.TrioToken, stop: trio.Event, thread: threading.Thread
    ) -> None:
        self.socket = socket
        self._token = token
        self._stop = stop
        self._thread = thread

    def call(self, function: object, *arguments: object) -> object:
        return trio.from_thread.run_sync(function, *arguments, trio_token=self._token)  # type: ignore[arg-type]

    def stop(self, seconds: float = 10.0) -> None:
        if self._thread.is_alive():
            self.call(self._stop.set)
            self._thread.join(seconds)
        assert not self._thread.is_alive(), "the server has not ended"


@contextmanager
def running(
    service: FakeService, folder: Path, limits: Limits | None = None, monitor: Monitor | None = None, **settings: object
) -> Iterator[Running]:
    """A server of its own in a thread of its own, in `folder`."""
    chosen = Settings(socket=folder / "api.sock", limits=limits or Limits(), **settings)  # type: ignore[arg-type]
    raised: list[BaseException] = []
    begun: queue.Queue[Running | BaseException] = queue.Queue()

    async def main() -> None:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:

            async def all_of_it(task_status: trio.TaskStatus[None]) -> None:
                await serve(service, chosen, stop=stop, monitor=monitor, task_status=task_status)

            await nursery.start(all_of_it)
            token = trio.lowlevel.current_trio_token()
            begun.put(Running(chosen.socket, token, stop, thread))

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            begun.put(only(error))
            logging.getLogger("tests").exception("the server has ended")
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    server = begun.get(timeout=10)
    if isinstance(server, BaseException):
        raise server
    try:
        yield server
    finally:
        server.stop()
    if raised:
        raise raised[0]
