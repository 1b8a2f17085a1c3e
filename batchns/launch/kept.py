"""The kept launcher: it outlives its client, and its jobs outlive it.

1. What it knows of an attempt is written down before anybody is told, and before a cgroup is removed (`notes`): the
   next launcher reads it and adopts what runs.
2. An attempt is known from before anything is forked for it until the client says `forget`: it is launched once.
3. A launch is safe at every moment: the plan is noted; the init is noted; it is sent the plan; it asks to be mapped,
   and without an answer it ends; it marks the record, and starts the command.
4. One client at a time. What was made for it alone goes with it: prepared sandboxes; processes that it had enter jobs
   are hung up.

Besides those of `launcher`, requests: b"K" + JSON [attempt, signal, serial], answered with "signalled"; b"D" + JSON
[attempt], to forget it, answered with "forgotten"; b"E", to end, answered with "ending" or, where jobs are left,
"busy". A new client is told first, with an event "known" for each attempt, what is known, and then "ready"; or "taken".
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import sys
from contextlib import suppress
from typing import Any, NoReturn

from batchns.errors import StepError
from batchns.kernel import bpf, syscalls
from batchns.kernel.cgroups import actions, devices, files, members
from batchns.kernel.cgroups.interface import CgroupPlan
from batchns.kernel.network.types import Counters
from batchns.kernel.sockets import hung_up, make_room
from batchns.launch.init import MAX_MESSAGE, Record
from batchns.launch.job import Job, remove_record, thaw
from batchns.launch.launcher import Launcher
from batchns.launch.notes import Identity, Noted, Notes, boot_id, open_same, start_time
from batchns.launch.outbox import Outbox
from batchns.launch.plan import Base, Plan, from_wire

SOCKET = "socket"
_LOOK_AGAIN = 0.01  # seconds between looks at inits whose launcher died while they began
_BUSY = 2.0  # seconds for what a killed launcher left to be gone: the next launch waits
# Of one that could not be noted, because the file system was full.
_UNKNOWN_START = {"pid": 0, "phases": {}, "cgroup_values": {}, "shapers": {}, "unshaped": ""}
_ALONE = "the job ended while there was no launcher"


class KeptLauncher(Launcher):
    """`folder`: where its notes and its socket are. `listener`: that socket, listening."""

    record_bytes = Record.SIZE
    outlives_client = True

    def __init__(self, folder: str, listener: socket.socket) -> None:
        nobody = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(nobody)
        nobody.close()
        self._open = False
        self._folder = folder
        self._listener = listener
        self._notes = Notes(folder)
        self._boot = boot_id()
        self._known: dict[str, dict[str, Any]] = {}  # {"started": ..., "over": ...} by attempt
        self._beginning: list[Job] = []  # adopted, and not known to run yet
        self._prepared: set[str] = set()  # that are noted as such
        self._records_left: dict[str, str] = {}  # path by attempt
        self._ending = False

    def run(self) -> None:
        """Serve until a client asks for the end and no job is left."""
        self._adopt_all()
        self._watch(self._listener.fileno(), self._accept)
        self._serve()
        os.unlink(f"{self._folder}/{SOCKET}")

    def _goes_on(self) -> bool:
        return not self._ending

    # -- clients -------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        """A new client, which takes the place of one that is gone."""
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        make_room(client, MAX_MESSAGE)
        if self._open and not hung_up(self._client):
            with suppress(OSError):
                client.send(b'{"event": "taken"}', socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            client.close()
            return
        while self._open:
            self._request()
        self._client = client
        self._outbox = Outbox(client, self._wait_for_room)
        self._open = True
        self._watch(client.fileno(), self._request)
        for attempt, known in self._known.items():
            self._answer("known", attempt, **known)
        self._answer("ready", "")

    def _client_gone(self) -> None:
        self._open = False
        self._ahead.clear()
        self._unwatch(self._client.fileno())
        self._outbox.drop()
        self._client.close()
        for job in [job for job in self._jobs.values() if job.plan is None]:
            self._discard(job)
        self._entries.hang_up_all()

    def _do(self, kind: bytes, message: bytes, fds: list[int]) -> None:
        if kind == b"K":
            attempt, number, serial = json.loads(message)
            self._signal(attempt, number)
            self._answer("signalled", attempt, serial=serial)
        elif kind == b"D":
            (attempt,) = json.loads(message)
            self._forget(attempt)
            self._answer("forgotten", attempt)
        elif kind == b"E":
            self._end()
        else:
            super()._do(kind, message, fds)

    def _forget(self, attempt: str) -> None:
        """Only what is over."""
        if attempt in self._known and attempt not in self._jobs:
            self._notes.forget(attempt)
            del self._known[attempt]
            if attempt in self._records_left:
                remove_record(self._records_left.pop(attempt))

    def _end(self) -> None:
        if any(job.plan is not None for job in self._jobs.values()):
            self._answer("busy", "")
            return
        self._answer("ending", "")
        self._client_gone()
        self._ending = True

    # -- a job's way, written down -------------------------------------------------------------------------------

    def _launch(self, plan: Plan, message: bytes, fds: list[int]) -> None:
        known = self._known.get(plan.attempt)
        if known is not None:  # launched once, however often it is asked for
            if known["started"] is not None:
                super()._answer("started", plan.attempt, **known["started"])
            elif known["over"] is not None:
                super()._answer(**{"attempt": plan.attempt, **known["over"]})
            return
        try:
            self._notes.begin(plan.attempt, message)
        except OSError as error:
            failed = Job(plan.attempt, plan.base, plan.cgroup.into)
            failed.failure = StepError("note", str(error.filename), error.errno or 0)
            super()._answer("failed", plan.attempt, **self._failure(failed))
            return
        self._known[plan.attempt] = {"started": None, "over": None}
        super()._launch(plan, message, fds)

    def _signal(self, attempt: str, number: int) -> None:
        with suppress(ProcessLookupError):  # an adopted one, which has been reaped, and whose end is about to be seen
            super()._signal(attempt, number)

    def _prepare(self, attempt: str, base: Base, into: str) -> None:
        # Else it has come without; or what a killed launcher left is to be waited for, which only a launch is worth.
        if attempt not in self._known and not (into and os.path.exists(into)):
            super()._prepare(attempt, base, into)

    def _bear(self, attempt: str, base: Base, into: str) -> Job:
        if into and os.path.exists(into):  # nobody else makes it: a killed launcher did, and it was busy at our start
            _kill(CgroupPlan(directories=(into,)))
            files.remove_tree(into, _BUSY)
        if into and attempt not in self._known:
            self._notes.prepare(attempt, into)
            self._prepared.add(attempt)
        return super()._bear(attempt, base, into)

    def _may_be_sent(self, job: Job) -> bool:
        """From here on the command may run without us: whoever comes next must find its init."""
        if not self._births.wait_for(job):
            return False
        identity = Identity(job.pid, start_time(job.pid), self._boot)
        born: dict[str, Any] = {"identity": identity, "values": job.values, "asked": job.asked}
        if job.police >= 0:
            born["map"] = bpf.map_id(job.police)
        self._notes.add(job.attempt, "born", born)
        self._unprepare(job.attempt)
        return True

    def _unprepare(self, attempt: str) -> None:
        if attempt in self._prepared:
            self._prepared.discard(attempt)
            self._notes.unprepare(attempt)

    def _answer(self, event: str, attempt: str, *, descriptor: int = -1, **values: Any) -> None:
        """What is told of an attempt is known from here on, whoever asks."""
        if event == "started":
            self._known[attempt]["started"] = values
            self._note(attempt, "started", values)
        elif event == "failed":
            values = self._note_failure(attempt, values)
        elif event == "ended":
            self._known[attempt]["over"] = {"event": event, **values}
        super()._answer(event, attempt, descriptor=descriptor, **values)

    def _note(self, attempt: str, kind: str, values: dict[str, Any]) -> bool:
        """False where the file system is full: then it is known for as long as this launcher lives."""
        try:
            self._notes.add(attempt, kind, values)
        except OSError as error:
            with suppress(OSError):  # the log is a file there, too
                os.write(2, f"{error.filename or attempt}: {error.strerror}\n".encode())
            return False
        return True

    def _note_failure(self, attempt: str, values: dict[str, Any]) -> dict[str, Any]:
        known = self._known[attempt]
        if known["over"] is None:
            known["over"] = {"event": "failed", **values}
            self._note(attempt, "failed", values)
        over: dict[str, Any] = known["over"]
        return {name: value for name, value in over.items() if name != "event"}

    def _last_readings(self, job: Job, plan: Plan) -> dict[str, Any]:
        final = super()._last_readings(job, plan)
        if job.netns < 0 and plan.network.mode == "private":
            final["network"] = _counted(plan.record)
            final["unread"] = final["unread"] or ("" if final["network"] else f"network: {_ALONE}")
        if not self._note(job.attempt, "ended", final):
            self._records_left[job.attempt] = plan.record  # all that is left for the next launcher
        return final

    def _failure(self, job: Job) -> dict[str, Any]:
        return {**super()._failure(job), "interrupted": job.interrupted}

    def _release(self, job: Job) -> list[str]:
        if job.plan is not None and not job.running:
            self._note_failure(job.attempt, self._failure(job))
        if job.plan is not None and job.adopted:
            _kill(job.plan.cgroup)
        left = super()._release(job)
        self._unprepare(job.attempt)
        return left

    def _remove_record(self, plan: Plan) -> None:
        if plan.attempt not in self._records_left:
            super()._remove_record(plan)

    # -- what another launcher has left ---------------------------------------------------------------------------

    def _adopt_all(self) -> None:
        noted = self._notes.read()
        for attempt, into in self._notes.prepared().items():
            if attempt not in noted:
                _clear(CgroupPlan(directories=(into,)))
            self._notes.unprepare(attempt)
        for attempt, found in noted.items():
            self._adopt(attempt, found)

    def _adopt(self, attempt: str, noted: Noted) -> None:
        plan = from_wire(noted.plan)
        known: dict[str, Any] = {"started": noted.started, "over": None}
        self._known[attempt] = known
        if noted.ended is not None:
            known["started"] = noted.started or _UNKNOWN_START
            known["over"] = {"event": "ended", **noted.ended, "left": _clear(plan.cgroup)}
            self._remove_record(plan)
            return
        if noted.failed is not None:
            known["over"] = {"event": "failed", **noted.failed}
            _clear(plan.cgroup)
            self._remove_record(plan)
            return
        job = self._jobs[attempt] = Job(attempt, plan.base, plan.cgroup.into)
        job.plan = plan
        job.adopted = True
        job.running = noted.started is not None
        if noted.born is not None:
            identity = Identity(*noted.born["identity"])
            job.values, job.asked = noted.born["values"], noted.born["asked"]
            job.pid, job.pidfd = identity.pid, open_same(identity)
            with suppress(OSError):  # it went with the cgroup
                job.police = bpf.open_map(noted.born["map"]) if "map" in noted.born else -1
        if job.pidfd < 0:
            self._over(job)
            return
        self._watch(job.pidfd, lambda: self._gone(job))
        if job.running:
            self._hold_network(job)
        else:
            self._beginning.append(job)

    def _has_ended(self, job: Job) -> bool:
        if not job.adopted:
            return super()._has_ended(job)
        poller = select.poll()
        poller.register(job.pidfd, select.POLLIN)
        return bool(poller.poll(0))

    def _over(self, job: Job) -> None:
        if job.adopted and not job.running:
            letter = self._look(job)
            if not job.running and job.failure is None:
                job.interrupted = letter == Record.STARTING
        super()._over(job)

    def _look(self, job: Job) -> bytes:
        """How far an init has come that tells nobody but its record: the letter there."""
        assert job.plan is not None
        letter, told = _read_progress(job.plan.record)
        if letter == Record.FAILED:
            step, path, errno, hint = told or ("init", "ended before the command ran", 0, "")
            job.failure = StepError(step, path, errno, hint)
        elif letter not in (b"", Record.STARTING):  # it runs, or there is an exit record already
            job.values |= _read_rules(job.plan)
            if job.pidfd >= 0:
                self._hold_network(job)
            self._started(job, told or {"phases": {}, "shapers": {"egress": None, "ingress": None}})
        return letter

    def _hold_network(self, job: Job) -> None:
        """Keep the link until its counters have been read."""
        if job.plan is not None and job.plan.network.mode == "private":
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                job.netns = os.open(f"/proc/{job.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def _pause(self) -> float | None:
        pause = super()._pause()
        if not self._beginning:
            return pause
        return _LOOK_AGAIN if pause is None else min(_LOOK_AGAIN, pause)

    def _do_what_is_due(self) -> None:
        super()._do_what_is_due()
        for job in self._beginning:
            if self._jobs.get(job.attempt) is job and not job.running and job.failure is None:
                self._look(job)
        self._beginning = [
            job for job in self._beginning if job.attempt in self._jobs and not job.running and job.failure is None
        ]


def _read_progress(path: str) -> tuple[bytes, Any]:
    """What init has marked in its record, and what it told with it, None where that is not complete."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b"", None
    with os.fdopen(fd, "rb") as file:
        text = file.read()
    told, end, _ = text[Record.TOLD :].partition(b"\n")
    return text[:1].rstrip(b"\0"), json.loads(told) if end else None


def _counted(path: str) -> Counters | None:
    """What init counted at its end."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    text = os.pread(fd, Record.SIZE, Record.COUNTED)
    os.close(fd)
    line, end, _ = text.partition(b"\n")
    return Counters(*json.loads(line)) if end else None


def _read_rules(plan: Plan) -> dict[str, str | int]:
    """What `devices.Programs.apply` answered for the job."""
    rules = plan.cgroup.devices
    if not rules.directory:
        return {}
    try:
        if not rules.program:
            return {devices.source(rules): files.read(devices.source(rules))}
        cgroup = os.open(rules.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return {devices.source(rules): str(bpf.count(cgroup, bpf.DEVICES))}
        finally:
            os.close(cgroup)
    except OSError as error:
        return {devices.source(rules): error.errno or 0}


def _kill(cgroup: CgroupPlan) -> None:
    """What is left in the job's cgroups although its init is gone, or waits for a plan that nobody will send."""
    thaw(cgroup)
    members.kill_all(cgroup.directories)


def _clear(cgroup: CgroupPlan) -> list[str]:
    _kill(cgroup)
    return actions.remove(cgroup)


def main(folder: str, lock: int, listener: int) -> NoReturn:
    """The launcher process. `lock`: on the folder, for as long as it lives; the client has taken it."""
    syscalls.set_name("batchns-launch")
    os.chdir("/")
    for fd in (lock, listener):
        os.set_inheritable(fd, False)
    with socket.socket(fileno=listener) as server:
        server.setblocking(False)
        launcher = KeptLauncher(folder, server)
        gc.disable()  # a collection in a fork would touch, and so copy, every page
        gc.freeze()
        launcher.run()
    sys.exit(0)
