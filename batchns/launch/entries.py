"""The launcher's side of processes that were started in running jobs: forked, listened to, ended with their job."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any, Protocol

from batchns.errors import StepError
from batchns.kernel import syscalls
from batchns.kernel.cgroups import actions
from batchns.launch.enter import WAKE, Wanted
from batchns.launch.enter import main as join
from batchns.launch.plan import Plan

HANG_UP = 3.0  # seconds from SIGHUP to SIGKILL, for a process to which nobody listens any more


class RunningJob(Protocol):
    """What of a job an entry needs. `pidfd`: of its init."""

    @property
    def plan(self) -> Plan | None: ...

    @property
    def pidfd(self) -> int: ...


class Answer(Protocol):
    """Tells the client. `descriptor`: sent along, and closed."""

    def __call__(self, event: str, attempt: str, *, descriptor: int = -1, **values: Any) -> None: ...


class _Entry:
    """One process. Mutable: what it has told so far."""

    def __init__(self, name: str, attempt: str, pidfd: int, status: socket.socket) -> None:
        self.name = name
        self.attempt = attempt
        self.pidfd = pidfd  # of the enterer
        self.status = status
        self.open = True  # there may be words in the socket
        self.runs = self.failed = False
        self.until: float | None = None  # of one that is hung up: when it is killed; inf: that has been done
        self.record: dict[str, Any] = {"exit_code": None, "signal": None}


class Entries:
    """`watch` and `unwatch`: the launcher's poll. Answers: "entered" and then "left", or "refused"."""

    def __init__(
        self, watch: Callable[[int, Callable[[], None]], None], unwatch: Callable[[int], None], answer: Answer
    ) -> None:
        self._watch = watch
        self._unwatch = unwatch
        self._answer = answer
        self._entries: dict[str, _Entry] = {}

    def enter(self, attempt: str, job: RunningJob | None, name: str, wanted: Wanted, fds: tuple[int, ...]) -> None:
        """Start a process in the job. `name`: the entry's, of the client's choice. `fds`: see `enter.main`."""
        if job is None or job.plan is None:
            self._refuse(attempt, name, StepError("enter", attempt, 0, "the job does not run (any more)"))
            return
        try:
            if actions.is_frozen(job.plan.cgroup):
                self._refuse(attempt, name, StepError("enter", attempt, 0, "the job is frozen: thaw it first"))
            else:
                self._fork(attempt, job.plan, job.pidfd, name, wanted, fds)
        except OSError as error:
            path = str(error.filename or error.strerror or "")
            self._refuse(attempt, name, StepError("enter", path, error.errno or 0))

    def signal(self, name: str, number: int) -> None:
        """To the process and its group, by its enterer; one that has ended is no error."""
        if name in self._entries:
            self._pass(self._entries[name], number)

    def hang_up(self, name: str) -> None:
        """Nobody listens to it any more: it has `HANG_UP` seconds to end; one that has ended is no error."""
        entry = self._entries.get(name)
        if entry is not None and entry.until is None:
            entry.until = time.monotonic() + HANG_UP
            self._pass(entry, signal.SIGHUP, signal.SIGCONT)

    def hang_up_all(self) -> None:
        for name in self._entries:
            self.hang_up(name)

    def due(self) -> float | None:
        """When the first of those that are hung up has had its time; None: there are none."""
        times = [entry.until for entry in self._entries.values() if entry.until is not None]
        return min((time for time in times if time < inf), default=None)

    def end_overdue(self) -> None:
        """Have those killed that have had their time; one that is frozen, or has yet to begin, as soon as it can be."""
        for entry in self._entries.values():
            if entry.until is not None and entry.until <= time.monotonic():
                entry.until = inf
                entry.status.shutdown(socket.SHUT_WR)
                self._pass(entry)

    def _pass(self, entry: _Entry, *numbers: int) -> None:
        """Tell the enterer. What does not fit in its socket is lost, as are signals that are pending already."""
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            for number in numbers:
                entry.status.send(bytes((number,)), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        signal.pidfd_send_signal(entry.pidfd, WAKE)

    def end(self, attempt: str) -> None:
        """The job is over, and what has entered it, too: its cgroups must be empty."""
        for entry in [entry for entry in self._entries.values() if entry.attempt == attempt]:
            signal.pidfd_send_signal(entry.pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, entry.pidfd, os.WEXITED | os.WNOWAIT)
            self._gone(entry)

    def _fork(self, attempt: str, plan: Plan, job: int, name: str, wanted: Wanted, fds: tuple[int, ...]) -> None:
        into = plan.cgroup.into
        cgroup = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if into else -1
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid, pidfd = syscalls.clone3(0, cgroup=cgroup)
            if pid == 0:
                join(plan, job, wanted, fds, theirs)
        except OSError:
            mine.close()
            raise
        finally:
            theirs.close()
            if cgroup >= 0:
                os.close(cgroup)
        entry = self._entries[name] = _Entry(name, attempt, pidfd, mine)
        self._watch(mine.fileno(), lambda: self._says(entry))
        self._watch(pidfd, lambda: self._gone(entry))

    def _says(self, entry: _Entry) -> None:
        try:
            message, ancillary, _, _ = entry.status.recvmsg(
                1 << 16, socket.CMSG_LEN(4), socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
            )
        except (BlockingIOError, ConnectionResetError):
            return
        fds = array.array("i", b"".join(data for _, _, data in ancillary)).tolist()
        if message[:1] == b"R":
            entry.runs = True
            values = {"entry": entry.name, **json.loads(message[1:])}
            self._answer("entered", entry.attempt, descriptor=fds[0] if fds else -1, **values)
        elif message[:1] == b"F":
            entry.failed = True
            step, path, errno, hint = json.loads(message[1:])
            self._refuse(entry.attempt, entry.name, StepError(step, path, errno, hint))
        elif message[:1] == b"E":
            entry.record = json.loads(message[1:])
        else:  # the end is handled by `_gone`
            entry.open = False
            self._unwatch(entry.status.fileno())

    def _gone(self, entry: _Entry) -> None:
        if entry.name not in self._entries or os.waitid(os.P_PIDFD, entry.pidfd, os.WEXITED | os.WNOHANG) is None:
            return  # the descriptor was another one's when the poll saw it
        while entry.open:
            self._says(entry)  # its last words
        del self._entries[entry.name]
        self._unwatch(entry.pidfd)
        os.close(entry.pidfd)
        entry.status.close()
        if entry.runs:
            self._answer("left", entry.attempt, entry=entry.name, **entry.record)
        elif not entry.failed:
            hint = "the job has ended, or its memory is used up"
            self._refuse(entry.attempt, entry.name, StepError("enter", entry.attempt, 0, hint))

    def _refuse(self, attempt: str, name: str, error: StepError) -> None:
        self._answer(
            "refused", attempt, entry=name, step=error.step, path=error.path, errno=error.errno, hint=error.hint
        )
