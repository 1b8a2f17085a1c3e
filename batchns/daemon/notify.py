"""Runs the administrator's command when something has become of a job: as the job's owner, and never for long.

1. Nothing of the job is a part of the command or names a file: what is known of it is data, on standard input and in
   the environment. The command is the administrator's, and its program has an absolute path.
2. It has its owner's rights and nothing of root's: ids and groups are set by the C code of `subprocess` between fork
   and exec (Python in between would deadlock: trio runs threads), which takes all capabilities; the environment is new,
   all descriptors are closed, root's keys are out of reach. no_new_privs is not set: programs that send mail are often
   setuid, and the owner may start those anyway.
3. It is held in a cgroup of its own, and that is what is killed, so nothing that it forks outlives it.
4. Telling never holds up anything. Each user's queue is bounded, the oldest is dropped and counted, and users take
   turns: one with thousands of jobs does not keep another from being told.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from errno import EACCES, EMSGSIZE, ENOSYS, EPERM
from functools import partial
from pathlib import Path

import trio
from attrs import define, field, frozen

from batchns.errors import HostError
from batchns.kernel import syscalls
from batchns.kernel.cgroups import actions, files
from batchns.kernel.cgroups.interface import Driver, Limits
from batchns.model.config import NotifySettings
from batchns.model.job import JobSpec, Notice
from batchns.model.submitter import Submitter
from batchns.supervise.ports import Blocking
from batchns.units import format_duration

AT_A_TIME = 4
AT_A_TIME_OF_A_USER = 2
QUEUED = 100  # of one user
GRACE = 2.0  # seconds from SIGTERM to SIGKILL
_KILL_SECONDS = 5.0  # for the kernel to end what is in the cgroup
_LIMITS = Limits(memory=256 << 20, pids=64)
_OOM_SCORE = "500"  # as a job's: the daemon's own would spare it
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The command begins when it is in its cgroup, which a line tells; what follows that line is for the command.
_GATE = ("/bin/sh", "-c", 'ulimit -c 0; ulimit -n 1024; read -r go && exec "$@"', "sh")
_MOST = 60_000  # bytes of a row: a pipe takes them at once
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@frozen(kw_only=True)
class Telling:
    """One run of the command. `row`: JSON of `wire.JobRow`; `job`: its id."""

    settings: NotifySettings
    notice: Notice
    owner: Submitter
    job: str
    row: bytes
    variables: Mapping[str, str] = field(factory=dict)  # more of them: BATCHNS_*


@frozen
class _Running:
    """`pidfd`: of the process, which is not reaped before its end is looked at: its number is nobody else's."""

    process: subprocess.Popen[bytes]
    pidfd: int


@define(eq=False)
class Notifier:
    """`driver` None: no cgroup holds what the command forks. `run_id`: what the cgroups' names begin with."""

    blocking: Blocking
    driver: Driver | None = None
    run_id: str = ""
    dropped: int = field(init=False, default=0)  # were not told, because too many waited
    failed: int = field(init=False, default=0)  # ended otherwise than with 0, or could not be run
    stuck: int = field(init=False, default=0)  # cgroups of theirs that could not be emptied and removed
    done: int = field(init=False, default=0)
    _queues: dict[int, deque[Telling]] = field(init=False, factory=dict)  # by uid; who is first is next
    _running: Counter[int] = field(init=False, factory=Counter)
    _some: trio.Event = field(init=False, factory=trio.Event)
    _serial: int = field(init=False, default=0)
    _last: str = field(init=False, default="")
    _last_stuck: str = field(init=False, default="")

    def post(self, telling: Telling) -> None:
        """Have the command run soon. Does not block."""
        queue = self._queues.setdefault(telling.owner.uid, deque())
        if len(queue) == QUEUED:
            queue.popleft()
            self.dropped += 1
        queue.append(telling)
        self._some.set()

    def troubles(self) -> tuple[str, ...]:
        """What an administrator should know."""
        told = []
        if self.dropped:
            told.append(f"notify: {self.dropped} events were not told: more than {QUEUED} of a user waited")
        if self.failed:
            told.append(f"notify: the command failed {self.failed} times, the last time for {self._last}")
        if self.stuck:
            told.append(f"notify: cgroups were left {self.stuck} times, the last time {self._last_stuck}")
        return tuple(told)

    async def run(self) -> None:
        """Run what is posted, until cancelled. What runs then is killed."""
        await self.blocking(self._remove_left)
        limit = trio.Semaphore(AT_A_TIME)
        async with trio.open_nursery() as nursery:
            while True:
                await limit.acquire()
                while (telling := self._next()) is None:
                    self._some = trio.Event()
                    await self._some.wait()
                self._running[telling.owner.uid] += 1
                nursery.start_soon(self._tell, telling, limit)

    def _next(self) -> Telling | None:
        """Whose turn it is; commands of one user that hang leave room for others'."""
        for uid, queue in self._queues.items():
            if self._running[uid] < AT_A_TIME_OF_A_USER:
                telling = queue.popleft()
                del self._queues[uid]
                if queue:
                    self._queues[uid] = queue  # behind the others
                return telling
        return None

    async def _tell(self, telling: Telling, limit: trio.Semaphore) -> None:
        try:
            why = await self._told(telling)
        finally:
            limit.release()
            self._running[telling.owner.uid] -= 1
            self._some.set()
        self.done += 1
        if why:
            self.failed += 1
            self._last = f"job {telling.job}: {why}"

    async def _told(self, telling: Telling) -> str:
        """Run the command to its end. Returns what is wrong, "" where nothing is."""
        name = self._name()
        command, late = telling.settings.command[0], False
        try:
            running = await self.blocking(partial(self._start, telling, name))
        except (OSError, HostError) as error:
            return f"{command}: {error}"
        try:
            if not await _ended(running, telling.settings.time_limit):
                late = True
                os.killpg(running.process.pid, signal.SIGTERM)
                await _ended(running, GRACE)
        finally:
            with trio.CancelScope(shield=True):
                code = await self.blocking(partial(self._end, name, running.process))
            os.close(running.pidfd)
        if late:
            return f"{command} did not end within {format_duration(telling.settings.time_limit)}"
        if code:
            return f"{command} was ended by signal {-code}" if code < 0 else f"{command} ended with {code}"
        return ""

    def _name(self) -> str:
        """A cgroup's name as attempts have them, so that a sweep finds it, but of none of theirs."""
        self._serial, digits, rest = self._serial + 1, "", self._serial
        for _ in range(4):
            rest, digit = divmod(rest, 36)
            digits = _DIGITS[digit] + digits
        return f"{self.run_id}-h{digits}"

    def _start(self, telling: Telling, name: str) -> _Running:
        """In a thread."""
        process = _popen(telling)
        assert process.stdin is not None
        pidfd = -1
        try:
            pidfd = os.pidfd_open(process.pid)
            if self.driver is not None:
                plan = self.driver.plan(name, _LIMITS)
                actions.apply(plan)
                for directory in plan.directories:
                    files.write(f"{directory}/cgroup.procs", str(process.pid))
            Path(f"/proc/{process.pid}/oom_score_adj").write_text(_OOM_SCORE)
            os.write(process.stdin.fileno(), b"go\n" + telling.row)
            process.stdin.close()
        except BaseException:
            self._end(name, process)
            if pidfd >= 0:
                os.close(pidfd)
            raise
        return _Running(process, pidfd)

    def _end(self, name: str, process: subprocess.Popen[bytes]) -> int:
        """Nothing of it is left then. In a thread."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it is not reaped yet, so the number is its own
        self._remove(name)
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()
        try:
            return process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:  # the kernel keeps it, as where a file system does not answer
            return -signal.SIGKILL

    def _remove(self, name: str) -> None:
        """What cannot be is told: the next daemon tries again. In a thread."""
        if self.driver is None:
            return
        try:
            empty = self.driver.kill(name, _KILL_SECONDS)
            self.driver.remove(name)
        except (OSError, HostError) as error:
            self._leave(f"{name}: {error}")
        else:
            if not empty:
                self._leave(f"{name}: it was not empty within {format_duration(_KILL_SECONDS)}")

    def _leave(self, why: str) -> None:
        self.stuck += 1
        self._last_stuck = why

    def _remove_left(self) -> None:
        """What a daemon that was killed has left of this run. In a thread."""
        if self.driver is None:
            return
        try:
            names = self.driver.names()
        except OSError as error:
            self._leave(str(error))
            return
        for name in names:
            if re.fullmatch(f"{self.run_id}-h[0-9a-z]{{4}}", name):
                self._remove(name)


def _popen(telling: Telling) -> subprocess.Popen[bytes]:
    """The gate, with the owner's rights."""
    owner = telling.owner
    if len(telling.row) > _MOST:
        raise OSError(EMSGSIZE, f"more than {_MOST} bytes to tell of job {telling.job}")
    try:
        syscalls.join_new_session_keyring()  # this thread's, which the child inherits
    except OSError as error:
        if error.errno not in (EACCES, EPERM, ENOSYS):
            raise
    # Python 3.12.0 leaves root's groups where extra_groups is empty: it never is.
    groups = sorted({owner.gid, *owner.groups})
    own = os.geteuid() == owner.uid and owner.uid != 0
    return subprocess.Popen(
        [*_GATE, *telling.settings.command],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={
            "PATH": _PATH,
            "HOME": owner.home,
            "USER": owner.name,
            "LOGNAME": owner.name,
            "BATCHNS_JOB_ID": telling.job,
            "BATCHNS_EVENT": telling.notice.value,
            **telling.variables,
        },
        start_new_session=True,
        umask=0o077,
        user=None if own else owner.uid,
        group=None if own else owner.gid,
        extra_groups=None if own else groups,
    )


async def _ended(running: _Running, seconds: float) -> bool:
    """Whether it ends within that time."""
    with trio.move_on_after(seconds):
        await trio.lowlevel.wait_readable(running.pidfd)
        return True
    return False


def telling_of(
    settings: NotifySettings, notice: Notice, spec: JobSpec, owner: Submitter, job: str, row: bytes
) -> Telling | None:
    """What is to be told; None: nobody wants to know. `settings`: as of `Config.notify_of`. `job`: its id."""
    wanted = notice.among(settings.on) and (spec.notify is None or notice.among(spec.notify))
    if not settings.command or not wanted:
        return None
    variables = {"BATCHNS_JOB_NAME": spec.name, "BATCHNS_QUEUE": spec.queue}
    return Telling(settings=settings, notice=notice, owner=owner, job=job, row=row, variables=variables)
