"""A daemon that is all in memory, with jobs as people have them; over the real HTTP and the real client.

`python -m tests.cli.fake SOCKET [JOBS]` serves it, to look at what commands print.
"""

from __future__ import annotations

import sys
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio
from attrs import evolve

from batchns import __version__
from batchns.cli.rows import matches, unmatched
from batchns.daemon.http import Limits, Settings, serve
from batchns.daemon.service import HistoryQuery, JobQuery, Peer, Refused, RowsPage, StateEvent
from batchns.wire import codec
from batchns.wire import types as wire
from tests.daemon.http.fake import FakeExecution, FakeService, Running, running

NOW = float(int(time.time()))  # the moment at which people() are looked at
GIB = 1 << 30


def row(job_id: str, name: str, state: str, **values: object) -> wire.JobRow:
    array_id, _, index = job_id.partition("_")
    made = wire.JobRow(
        id=job_id,
        array_id=array_id,
        index=int(index) if index else None,
        name=name,
        user="alice",
        queue="normal",
        state=state,
        submitted=NOW - 600,
        since=NOW,
    )
    return evolve(made, **values)


def people() -> list[wire.JobRow]:
    """What a machine with a few users has at one moment."""
    return [
        row(
            "12", "train", "RUNNING", cpus=2.0, memory=4 * GIB, time_limit=9000.0, started=NOW - 192,
            queued_seconds=4.0, running_seconds=192.0, cpu_list="0-1",
        ),
        row(
            "13_0", "sweep", "COMPLETED", memory=GIB, started=NOW - 500, ended=NOW - 300, running_seconds=200.0,
            queued_seconds=1.0, exit_code=0,
        ),
        row("13_1", "sweep", "SUSPENDED", memory=GIB, started=NOW - 90, running_seconds=61.0, frozen_seconds=29.0,
            reason="makes room for 15"),
        row("13_2", "sweep", "PENDING", memory=GIB, reason="waits for its array: 2 tasks at a time"),
        row("13_3", "sweep", "PENDING", memory=GIB, reason="waits for its array: 2 tasks at a time"),
        row("14", "preprocess-all-of-it", "FAILED", started=NOW - 70, ended=NOW - 60, running_seconds=10.2,
            exit_code=3, reason="exit code 3", attempt=2),
        row("15", "urgent", "RUNNING", user="bob", queue="express", priority=90, cpus=0.5, memory=512 << 20,
            started=NOW - 3, running_seconds=3.2, cpu_list="2"),
        row("16", "big", "PENDING", user="bob", cpus=4.0, memory=12 * GIB, time_limit=86400.0, priority=40,
            reason="waits for memory: 12GiB needed, 3.5GiB of 16GiB free"),
        row("17", "später", "PENDING", user="bob", reason="waits: it is held"),
    ]  # fmt: skip


def detail(of: wire.JobRow) -> wire.JobDetail:
    return wire.JobDetail(
        row=of,
        spec={
            "name": of.name,
            "command": ["python3", "train.py", "--epochs", "3", "--name", "run 7"],
            "cwd": "/data/alice/run7",
            "env": {"OMP_NUM_THREADS": "2"},
            "isolation": {"binds": ["/data:/data"]},
            "resources": {"cpus": of.cpus, "memory": of.memory, "pids": 512, "blkio_weight": 500},
            "network": {"mode": "private", "egress": 50_000_000},
        },
        source="/data/alice/run7/train.toml:1",
        limits={
            "cpuset_cpus": wire.Limit(value="0-1", source="cpuset.cpus"),
            "memory": wire.Limit(value=of.memory, source="memory.limit_in_bytes"),
            "pids": wire.Limit(value=512, source="pids.max"),
            "egress": wire.Limit(value=50_000_000, source="tbf"),
            "blkio_weight": wire.Limit(why="no block device uses the bfq scheduler - echo bfq > /sys/block/DEV/queue"),
        },
        usage={
            "cpu_seconds": 361.0,
            "memory_peak_bytes": int(1.2 * GIB),
            "io_read_bytes": 30 << 20,
            "io_write_bytes": 1 << 20,
            "net_sent_bytes": 120_000_000,
            "net_received_bytes": None,
            "oom_kills": 0,
        },
        stdout=f"/data/alice/run7/{of.name}-{of.id}.out",
        stderr=f"/data/alice/run7/{of.name}-{of.id}.err",
        pid=4711,
        cgroup=f"/batchns/{of.id}-0",
        happened=(
            wire.Happened(at=NOW - 196, event="submitted"),
            wire.Happened(at=NOW - 192, event="launched", detail="on CPUs 0-1"),
            wire.Happened(at=NOW - 192, event="started"),
            wire.Happened(at=NOW - 20, event="frozen", detail="makes room for 15"),
        ),
    )


class Execution(FakeExecution):
    def stop(self, code: int) -> None:
        """It has ended by itself."""
        self.end = (code, None)
        self._give.send_nowait(None)


SAID = {
    "cancel": "asked to end",
    "signal": "{signal} sent",
    "hold": "",
    "release": "",
    "freeze": "",
    "thaw": "goes on as soon as its CPUs are free",
    "requeue": "as soon as it has ended",
    "priority": "",
}


class Daemon(FakeService):
    """`rows`: its jobs. Acting on them changes them; `ends` says how a job ends that is submitted, None: it waits."""

    def __init__(self, jobs: Sequence[wire.JobRow] | None = None) -> None:
        super().__init__(0)
        self.known: dict[str, wire.JobRow] = {one.id: one for one in (people() if jobs is None else jobs)}
        self.past: list[wire.JobRow] = []
        self.next_id = 100
        self.ends: Callable[[wire.JobRow], wire.JobRow | None] = lambda job: None
        self.output: dict[str, bytes] = {"stdout": b"epoch 1\nepoch 2\n", "stderr": b"warning\n"}
        self.usage_rows: tuple[wire.UsageRow, ...] = ()
        self.unlisted: set[str] = set()  # over for so long that no list has them
        self.commands: list[wire.ExecRequest] = []
        self.executions: list[Execution] = []

    def change(self, changed: wire.JobRow) -> None:
        """From the server's loop: a job is now like this, and listeners hear of it."""
        self.known[changed.id] = changed
        self.numbers += 1
        self.tell(StateEvent(number=self.numbers, job_id=changed.id, row=codec.encode(changed)))

    def end(self, job_id: str, state: str, **values: object) -> None:
        self.change(evolve(self.known[job_id], state=state, ended=NOW, since=NOW, **values))

    def _meant(self, select: Sequence[str]) -> list[wire.JobRow]:
        return [one for one in self.known.values() if not select or any(matches(one, word) for word in select)]

    async def submit(self, peer: Peer, request: wire.SubmitRequest) -> wire.Submitted:
        self.asked.append(request)
        made = []
        named = [tomllib.loads(one.text).get("name") for one in request.files]
        asked = [one.options for one in request.commands] + [one.options for one in request.files]
        for options, in_file in zip(asked, [None] * len(request.commands) + named, strict=True):
            self.next_id += 1
            name = str(options.get("name") or in_file or "job")
            self.change(row(str(self.next_id), name, "PENDING", reason="waits: it would delay 16"))
            made.append(wire.SubmittedJob(id=str(self.next_id), name=name, tasks=100 if "array" in options else 1))
        for job in made:
            if over := self.ends(self.known[job.id]):
                self.change(over)
        return wire.Submitted(jobs=tuple(made))

    async def jobs(self, peer: Peer, query: JobQuery) -> RowsPage:
        self.asked.append(query)
        found = [
            one
            for one in self._meant(query.select)
            if one.id not in self.unlisted
            and (query.ended or one.ended is None)
            and (not query.states or one.state in query.states)
            and query.user in (None, one.user)
            and query.queue in (None, one.queue)
        ]
        start = int(query.after or 0)
        end = start + query.limit
        return RowsPage(rows=[codec.encode(one) for one in found[start:end]], next=str(end) if end < len(found) else "")

    async def job(self, peer: Peer, job_id: str) -> wire.JobDetail:
        if job_id not in self.known:
            hint = "see batchns ps, or batchns history"
            raise Refused("not_found", f"there is no job {job_id} that you may see", hint)
        return detail(self.known[job_id])

    async def why(self, peer: Peer, job_id: str) -> wire.Why:
        one = self.known[(await self.job(peer, job_id)).row.id]
        waits = one.state == "PENDING"
        return wire.Why(
            id=job_id,
            code="resources" if waits else "running",
            text=one.reason if waits else "it runs",
            behind="15" if waits else "",
            lacks={"resource": "memory", "wanted": 12 * GIB, "free": int(3.5 * GIB)} if waits else {},
            expected=time.time() + 4000 if waits else None,
        )

    async def act(self, peer: Peer, request: wire.ActRequest) -> wire.ActAnswer:
        self.asked.append(request)
        acted = []
        there = [one for one in self._meant(request.jobs) if one.ended is None]
        if missing := unmatched(there, request.jobs):
            what = f"{', '.join(missing)}: there is no such job of yours, or it is over"
            raise Refused("not_found", what, "see batchns ps, and batchns history for jobs that are over")
        for one in there:
            if request.verb == "freeze" and one.state == "PENDING":
                hint = "batchns hold is for one that waits"
                acted.append(wire.Acted(id=one.id, done=False, text="it is PENDING", hint=hint))
                continue
            text = SAID[request.verb].format(signal=f"SIG{request.signal}")
            if request.verb == "cancel":
                text = "" if one.state == "PENDING" else text
                self.end(one.id, "CANCELLED", reason="cancelled by alice")
            acted.append(wire.Acted(id=one.id, done=True, text=text))
        return wire.ActAnswer(jobs=tuple(acted))

    async def history(self, peer: Peer, query: HistoryQuery) -> RowsPage:
        self.asked.append(query)
        return RowsPage(rows=[codec.encode(one) for one in self.past or self.known.values() if one.ended is not None])

    async def usage(self, peer: Peer, query: HistoryQuery) -> wire.UsageAnswer:
        self.asked.append(query)
        return wire.UsageAnswer(rows=self.usage_rows or usage())

    async def node(self, peer: Peer) -> wire.NodeInfo:
        return wire.NodeInfo(
            host="bench7",
            version=__version__,
            pid=812,
            started=NOW - 90_000,
            cgroup="hybrid",
            state="drained" if self.drained else "open",
            detail=self.drained,
            cpus="0-3",
            total={"cpus": 4.0, "memory": 16.0 * GIB, "egress": 1e9, "ingress": 1e9, "gpus": 2.0},
            free={"cpus": 1.5, "memory": 3.5 * GIB, "egress": 9.5e8, "ingress": 1e9, "gpus": 0.0},
            waiting=sum(one.state == "PENDING" for one in self.known.values()),
            running=sum(one.state == "RUNNING" for one in self.known.values()),
            frozen=sum(one.state == "SUSPENDED" for one in self.known.values()),
            troubles=("the disk of /var/lib/batchns is full: nothing can be submitted",) if self.drained else (),
        )

    async def queues(self, peer: Peer) -> wire.QueuesAnswer:
        return wire.QueuesAnswer(
            queues=(
                wire.QueueRow(
                    name="express", priority=80, running=1, preempts=("normal",), preempt_mode="suspend",
                    limits={"per_user": {"jobs": 2, "cpus": 2.0, "time_limit": 1800.0}}, open_to_you=False,
                ),
                wire.QueueRow(name="normal", priority=50, waiting=3, running=1, frozen=1, preempt_mode="suspend"),
            )
        )  # fmt: skip

    @asynccontextmanager
    async def logs(
        self, peer: Peer, job_id: str, stream: str, *, attempt: int | None, tail: int | None, follow: bool, start: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked.append((job_id, stream, attempt, tail, follow))
        await self.job(peer, job_id)

        async def pieces() -> AsyncIterator[bytes]:
            lines = self.output[stream].splitlines(keepends=True)
            yield b"".join(lines[-tail:] if tail else lines)
            while follow and self.known[job_id].ended is None:
                await trio.sleep(0.01)

        yield pieces()

    @asynccontextmanager
    async def execute(self, peer: Peer, job_id: str, request: wire.ExecRequest) -> AsyncIterator[FakeExecution]:
        self.commands.append(request)
        await self.job(peer, job_id)
        if self.known[job_id].state != "RUNNING":
            raise Refused("conflict", f"job {job_id} does not run", f"batchns why {job_id}")
        if request.command == ("no-such-program",):
            raise Refused("command_not_found", "exec: no-such-program: No such file or directory", "no such command")
        if request.command == ("/etc",):
            raise Refused("command_not_executable", "exec: /etc: Permission denied")
        execution = Execution(request)
        self.executions.append(execution)
        yield execution


def usage() -> tuple[wire.UsageRow, ...]:
    return (
        wire.UsageRow(
            user="alice", name="train", jobs=12, completed=11, cpus=2.0, cpu_efficiency=0.94, memory=4 * GIB,
            memory_peak=int(1.2 * GIB), time_limit=9000.0, running_seconds=1800.0, longest_seconds=2100.0,
            advice=(
                'at most 1.2GiB of memory used: memory = "1.5GiB" is enough',
                'a time_limit = "1h" lets it start earlier in gaps',
            ),
        ),
        wire.UsageRow(user="alice", name="sweep", jobs=400, completed=400, cpu_efficiency=0.31, running_seconds=200.0,
            longest_seconds=260.0, memory=GIB, memory_peak=GIB // 2),
    )  # fmt: skip


@contextmanager
def serving(daemon: Daemon, folder: Path, limits: Limits | None = None) -> Iterator[Running]:
    with running(daemon, folder, limits) as server:
        yield server


def many(count: int) -> list[wire.JobRow]:
    reason = "waits for cpus: 1 needed, 0 of 2 free"
    return [row(str(n), f"job-{n % 97}", "PENDING", reason=reason, memory=GIB) for n in range(1, count + 1)]


async def _serve(path: str, jobs: int) -> None:
    await serve(Daemon(many(jobs) if jobs else None), Settings(socket=Path(path)))


if __name__ == "__main__":
    trio.run(_serve, sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
