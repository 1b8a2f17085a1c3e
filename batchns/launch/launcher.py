"""The launcher: a small single-threaded process that turns launch plans into running jobs.

1. It keeps no policy and few modules: a fork of it is cheap, and each job's init is such a fork.
2. Nothing in it waits for one job: every job is a few descriptors in one poll loop.
3. What it acquires for a job it releases when the job's init is gone, whatever the reason; the user is told after.
4. When its client is gone it kills what it started, cleans up, and ends.

A sandbox can be prepared before its job is known (`init.main`); it waits under the name of the attempt that will use
it, because a cgroup v2 is joined cheaply only by being born in it. The zygote forks it: it is born a little later than
it is asked for, and may be sent its plan before.

Messages are single packets on a SOCK_SEQPACKET socket. Requests: b"P" + JSON [attempt, base, cgroup v2 directory];
b"L" + plan with the descriptors stdin, stdout and stderr; b"S" + JSON [attempt, signal]; b"X" + JSON [attempt, entry,
what] to enter a job (`enter.Wanted`), with three descriptors unless it is a terminal; b"Y" + JSON [entry, signal];
b"H" + JSON [entry], to which nobody listens any more.
Answers: JSON {"event": "started" | "failed" | "ended" | "entered" | "refused" | "left", "attempt": ..., ...}; with
"entered" comes the master of a terminal.
"""

from __future__ import annotations

import array
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from errno import ENOENT, EPERM
from typing import Any, NoReturn

from batchns.errors import StepError
from batchns.kernel import rootless, syscalls, userns
from batchns.kernel.cgroups import actions, devices
from batchns.kernel.cgroups.interface import CgroupPlan
from batchns.kernel.filesystems import kernels_below
from batchns.kernel.network import link, police
from batchns.kernel.sockets import make_room
from batchns.launch.ahead import Ahead
from batchns.launch.births import Births
from batchns.launch.enter import wanted_from
from batchns.launch.entries import Entries
from batchns.launch.init import MAX_MESSAGE
from batchns.launch.job import NO_RECORD, Job, make_cgroup, read_record, receive, remove_record, thaw
from batchns.launch.outbox import Outbox
from batchns.launch.pasta import Pastas
from batchns.launch.plan import Base, Plan, base_from, from_wire, to_init
from batchns.launch.sandbox import of_the_kernel

_PREPARED_AT_MOST = 8
_RECORD_BYTES = 64


class Launcher:
    """For one client. `kept.KeptLauncher` is the one that outlives its clients."""

    record_bytes = _RECORD_BYTES
    outlives_client = False  # and so do its jobs; what a client that is gone had asked for is done all the same

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._births = Births(
            self._watch, self._unwatch, kept=self.outlives_client, born=self._born, failed=self._never_born
        )
        self._jobs: dict[str, Job] = {}
        self._ahead = Ahead(self._watch, build=self._prepare, give_up=self._give_up)
        self._handlers: dict[int, Callable[[], None]] = {}
        self._poll = select.epoll()
        self._outbox = Outbox(client, self._wait_for_room)
        self._idmaps = userns.Mapped()
        self._programs = devices.Programs()
        self._entries = Entries(self._watch, self._unwatch, self._answer)
        self._pastas = Pastas(self._watch, self._unwatch)
        self._open = True

    def run(self) -> None:
        """Serve until the client is gone and the last job is cleaned up."""
        self._watch(self._client.fileno(), self._request)
        self._serve()

    def _serve(self) -> None:
        self._births.serve()
        self._ahead.serve()
        while self._goes_on():
            for fd, _ in self._poll.poll(self._pause()):
                handler = self._handlers.get(fd)
                if handler:
                    handler()
            self._do_what_is_due()
        self._births.end()

    def _goes_on(self) -> bool:
        return self._open or bool(self._jobs)

    def _pause(self) -> float | None:
        """Seconds until something is due, None for nothing."""
        moments = (self._ahead.due(), self._pastas.due(), self._entries.due())
        times = [moment for moment in moments if moment is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _do_what_is_due(self) -> None:
        self._pastas.end_overdue()
        self._entries.end_overdue()
        self._ahead.do()

    # -- the client ----------------------------------------------------------------------------------------------

    def _request(self) -> None:
        try:
            message, ancillary, _, _ = self._client.recvmsg(
                MAX_MESSAGE, socket.CMSG_LEN(3 * 4), socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            self._outbox.flush()
            return
        except ConnectionResetError:  # once: it has left an answer unread. What it sent comes after that
            if self.outlives_client:
                return
            message, ancillary = b"", []
        if not message:
            self._client_gone()
            return
        fds = array.array("i", b"".join(data for _, _, data in ancillary)).tolist()
        try:
            self._do(message[:1], message[1:], fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _do(self, kind: bytes, message: bytes, fds: list[int]) -> None:
        """What the client asks for. The descriptors stay the caller's."""
        if kind == b"L":
            self._launch(from_wire(message), message, fds)
        elif kind == b"P":
            attempt, base, into = json.loads(message)
            self._prepare(attempt, base_from(base), into)
        elif kind == b"S":
            attempt, number = json.loads(message)
            self._signal(attempt, number)
        elif kind == b"X":
            attempt, name, wanted = json.loads(message)
            job = self._jobs.get(attempt)
            running = job if job is not None and job.running else None
            self._entries.enter(attempt, running, name, wanted_from(wanted), tuple(fds))
        elif kind == b"Y":
            name, number = json.loads(message)
            self._entries.signal(name, number)
        elif kind == b"H":
            (name,) = json.loads(message)
            self._entries.hang_up(name)

    def _client_gone(self) -> None:
        self._open = False
        self._ahead.clear()
        self._unwatch(self._client.fileno())
        self._births.wait_for_all()
        for job in self._jobs.values():
            if job.plan is not None:
                thaw(job.plan.cgroup)
            signal.pidfd_send_signal(job.pidfd, signal.SIGKILL)

    def _answer(self, event: str, attempt: str, *, descriptor: int = -1, **values: Any) -> None:
        """`descriptor`: sent along, and closed."""
        if self._open:
            self._outbox.add(json.dumps({"event": event, "attempt": attempt, **values}).encode(), descriptor)
        elif descriptor >= 0:
            os.close(descriptor)

    def _wait_for_room(self, *, on: bool) -> None:
        """The client's socket is full: what is to be sent waits until it is writable again; or it is no longer."""
        self._poll.modify(self._client.fileno(), select.EPOLLIN | select.EPOLLOUT if on else select.EPOLLIN)

    def _signal(self, attempt: str, number: int) -> None:
        job = self._jobs.get(attempt)
        if job is not None and self._births.wait_for(job):
            signal.pidfd_send_signal(job.pidfd, number)

    # -- a job's way ---------------------------------------------------------------------------------------------

    def _prepare(self, attempt: str, base: Base, into: str) -> None:
        """Build what the sandbox of a coming attempt has in common with others."""
        if attempt in self._jobs or not self._open:
            return
        idle = [job for job in self._jobs.values() if job.plan is None]
        if len(idle) < _PREPARED_AT_MOST:
            # What goes wrong here goes wrong once more when the attempt is launched, and is told then.
            with suppress(StepError, OSError):
                self._bear(attempt, base, into)

    def _give_up(self, stale: Callable[[Job], bool]) -> None:
        for job in [job for job in self._jobs.values() if job.plan is None and stale(job)]:
            self._discard(job)

    def _bear(self, attempt: str, base: Base, into: str) -> Job:
        """Ask for an init, which begins with the base and then waits for its plan."""
        job = Job(attempt, base, into)
        with ExitStack() as acquired, ExitStack() as passing:
            cgroup = make_cgroup(into, acquired, passing) if into else -1
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            acquired.callback(mine.close)
            passing.callback(theirs.close)
            self._births.ask(job, theirs.fileno(), cgroup)
            acquired.pop_all()
        make_room(mine, MAX_MESSAGE)
        job.status = mine
        self._jobs[attempt] = job
        self._watch(mine.fileno(), lambda: self._status(job))
        return job

    def _born(self, job: Job) -> None:
        self._watch(job.pidfd, lambda: self._gone(job))

    def _never_born(self, job: Job, error: StepError) -> None:
        job.failure = job.failure or error.with_traceback(None)
        self._release(job)
        if job.plan is not None:
            self._answer_failure(job)

    def _launch(self, plan: Plan, message: bytes, fds: list[int]) -> None:
        self._ahead.look()
        self._ahead.forget(plan.attempt)
        job = self._jobs.get(plan.attempt)
        if job is not None and job.plan is not None:
            return  # an attempt is launched once, however often it is asked for
        if job is not None and (job.base, job.into) != (plan.base, plan.cgroup.into):
            self._discard(job)
            job = None
        try:
            job = job or self._bear(plan.attempt, plan.base, plan.cgroup.into)
        except (StepError, OSError) as error:
            failed = Job(plan.attempt, plan.base, plan.cgroup.into)
            failed.failure = _as_step(error, "launch").with_traceback(None)
            self._answer_failure(failed)
            return
        job.plan = plan
        job.asked = time.monotonic()
        try:
            self._hand_over(job, plan, to_init(plan), fds)
        except (StepError, OSError) as error:
            self._fail(job, _as_step(error, "launch"))

    def _hand_over(self, job: Job, plan: Plan, message: bytes, fds: list[int]) -> None:
        """Cgroups and exit record, then the plan goes to the waiting init."""
        assert job.status is not None
        for mount in plan.mounts:
            kind = mount.kind == "bind" and kernels_below(mount.source, self._ahead.mounts)
            if kind:
                raise StepError("mount bind", mount.source, EPERM, of_the_kernel(kind))
        idmap = (self._idmaps.get(plan.shift),) if plan.shift.uids else ()
        job.values = actions.apply(plan.cgroup, there=job.into)
        if plan.network.mode == "host":
            self._police(job, plan)
        record = os.open(plan.record, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # A file system that is full later must not cost an exit status. Written, not allocated: what is deleted
            # before it reached the disk costs nothing there.
            os.write(record, bytes(self.record_bytes))
            if not self._may_be_sent(job):
                return
            stdin, stdout, stderr = fds
            with suppress(BrokenPipeError, ConnectionResetError):  # init has ended: its last word says why
                socket.send_fds(job.status, [message], (record, stdin, stdout, stderr, *idmap))
        finally:
            os.close(record)

    def _may_be_sent(self, job: Job) -> bool:
        """The last word before the plan is. False: what became of the job has been told."""
        return True

    def _police(self, job: Job, plan: Plan) -> None:
        """Rates and counters of a job in the host's network, where the kernel has them."""
        try:
            if not job.into:
                raise OSError(ENOENT, police.NO_TREE)
            job.police = police.attach(job.into, plan.network)
        except OSError as error:
            if plan.network.strict:
                raise StepError("network: rates", job.into, error.errno or 0, str(error.strerror)) from None
            job.unshaped = str(error.strerror)

    def _fail(self, job: Job, error: StepError) -> None:
        """The job cannot start: the first reason counts, and is told when its init is gone."""
        job.failure = job.failure or error.with_traceback(None)  # whose frames hold the job: nothing collects cycles
        if self._births.wait_for(job):
            signal.pidfd_send_signal(job.pidfd, signal.SIGKILL)

    def _discard(self, job: Job) -> None:
        """End a prepared sandbox that does not fit. It waits for a plan and holds nothing: it ends at once."""
        if self._births.wait_for(job):
            signal.pidfd_send_signal(job.pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, job.pidfd, os.WEXITED)
            self._release(job)

    def _status(self, job: Job) -> None:
        """A message of the job's init while it starts."""
        assert job.status is not None
        try:
            message = receive(job.status)
        except BlockingIOError:
            return  # the descriptor was another job's when the poll saw it
        if message[:1] == b"M":
            self._map(job)
        elif message[:1] == b"R":
            self._close_status(job)
            self._started(job, json.loads(message[1:]))
        elif message[:1] == b"F":
            step, path, errno, hint = json.loads(message[1:])
            job.failure = job.failure or StepError(step, path, errno, hint)
            self._close_status(job)
        else:  # init ended without a word: the end itself is handled by `_gone`
            self._close_status(job)

    def _map(self, job: Job) -> None:
        assert job.status is not None and job.plan is not None
        if not self._births.wait_for(job):
            return
        try:
            # The sandbox is built, and the command does not yet run: from here on only the job's own devices open.
            job.values |= self._programs.apply(job.plan.cgroup.devices)
            userns.map_ids(job.pid, job.plan.ids)
            if job.plan.network.mode == "private":
                # Keeps the veth, and so its counters, until they have been read.
                job.netns = os.open(f"/proc/{job.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            if job.plan.network.mode == "pasta":
                network = os.open(f"/proc/{job.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    self._pastas.start(job.attempt, job.plan.network.program, network, lambda why: self._way(job, why))
                finally:
                    os.close(network)
                return
            job.status.send(b"G")
        except (StepError, OSError) as error:
            self._fail(job, _as_step(error, "map ids"))

    def _way(self, job: Job, failure: StepError | None) -> None:
        """The job's way out is there, or will not be."""
        if failure is not None:
            self._fail(job, failure)
        elif job.status is not None:
            with suppress(BrokenPipeError, ConnectionResetError):  # init has ended: its last word says why
                job.status.send(b"G")

    def _started(self, job: Job, told: dict[str, Any]) -> None:
        assert job.plan is not None
        job.running = True
        with suppress(OSError):  # where a score cannot be lowered again but by this process; else init has done it
            job.last_to_go()
        phases = {**told["phases"], "total": time.monotonic() - job.asked}
        shapers = told["shapers"]
        if job.police >= 0:
            shapers = police.rates(job.police, job.plan.network.mtu)._asdict()
        self._answer(
            "started",
            job.attempt,
            pid=job.pid,
            phases=phases,
            cgroup_values=job.values,
            shapers=shapers,
            unshaped=job.unshaped,
            confined=told.get("confined", []),
        )
        if job.plan.ahead:
            into = job.into and f"{os.path.dirname(job.into)}/{job.plan.ahead}"
            self._ahead.after(job.plan.ahead, job.base, into)

    def _gone(self, job: Job) -> None:
        """init has ended, and with it everything in the job's PID namespace."""
        if self._has_ended(job):  # else the descriptor was another job's when the poll saw it
            self._over(job)

    def _has_ended(self, job: Job) -> bool:
        return os.waitid(os.P_PIDFD, job.pidfd, os.WEXITED | os.WNOHANG) is not None

    def _over(self, job: Job) -> None:
        while job.status is not None:
            self._status(job)  # its last words may still be in the socket
        plan = job.plan
        if plan is None:
            self._release(job)
        elif job.running:
            final = self._last_readings(job, plan)
            self._answer("ended", job.attempt, **final, left=self._release(job))
            self._ahead.hurry()
        else:
            self._release(job)
            self._answer_failure(job)

    def _last_readings(self, job: Job, plan: Plan) -> dict[str, Any]:
        """What a result is made of. What cannot be read is named, and concerns this job alone."""
        final: dict[str, Any] = {**NO_RECORD, "cgroup_texts": {}, "network": None, "unread": ""}
        try:
            final |= read_record(plan.record)
            final["cgroup_texts"] = actions.read_final(plan.cgroup)
            if job.netns >= 0:
                final["network"] = link.counters(plan.network.host_name)
            elif job.police >= 0:
                final["network"] = police.counters(job.police)
        except (StepError, OSError) as error:
            final["unread"] = str(error)
        return final

    def _answer_failure(self, job: Job) -> None:
        self._answer("failed", job.attempt, **self._failure(job))

    def _failure(self, job: Job) -> dict[str, Any]:
        small = job.plan is not None and any(write.limit == "memory" for write in job.plan.cgroup.writes)
        hint = "is its memory limit too small? A sandbox takes about 4 MiB itself" if small else ""
        error = job.failure or StepError("init", "ended before the command ran", 0, hint)
        return {"step": error.step, "path": error.path, "errno": error.errno, "hint": error.hint}

    def _release(self, job: Job) -> list[str]:
        """Give back all that was acquired for the job, whose init is gone; returns what could not be removed."""
        del self._jobs[job.attempt]
        self._entries.end(job.attempt)
        self._pastas.end(job.attempt)
        if job.pidfd >= 0:
            self._unwatch(job.pidfd)
            os.close(job.pidfd)
        self._close_status(job)
        plan = job.plan
        left = actions.remove(plan.cgroup if plan else CgroupPlan(directories=(job.into,) if job.into else ()))
        for fd in (job.netns, job.police):
            if fd >= 0:
                os.close(fd)
        if plan:
            self._remove_record(plan)
        return left

    def _remove_record(self, plan: Plan) -> None:
        remove_record(plan.record)

    def _close_status(self, job: Job) -> None:
        if job.status is not None:
            self._unwatch(job.status.fileno())
            job.status.close()
            job.status = None

    # -- small things --------------------------------------------------------------------------------------------

    def _watch(self, fd: int, handler: Callable[[], None], events: int = select.EPOLLIN) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, events)

    def _unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None):
            self._poll.unregister(fd)


def _as_step(error: StepError | OSError, step: str) -> StepError:
    if isinstance(error, StepError):
        return error
    return StepError(step, str(error.filename or error.strerror or ""), error.errno or 0)


def main(fd: int, *, root: bool = True) -> NoReturn:
    """The launcher process: `fd` is its end of the socket to the client. `root`: it has the rights of the host's."""
    syscalls.set_name("batchns-launch")
    if not root:
        rootless.enter()
    client = socket.socket(fileno=fd)
    make_room(client, MAX_MESSAGE)
    gc.disable()  # a collection in a fork would touch, and so copy, every page
    gc.freeze()
    Launcher(client).run()
    sys.exit(0)
