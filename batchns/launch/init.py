"""The job's first process: it builds the sandbox, becomes PID 1 of the job, and ends with an exit record.

1. It is born before its job is known: what all sandboxes have in common is built, then it waits for a plan.
2. Until the command runs, every failure goes to the launcher as (step, path, errno, hint).
3. As PID 1 it reaps orphans, forwards signals to the command's process group, and writes the exit record to a
   descriptor that the command cannot reach: init is another user, and not dumpable.
4. It ends with the command. The kernel then kills whatever else is left in the PID namespace.

On the socket to the launcher comes the plan, with the descriptors of `Given`. Back go b"M" (map my user namespace;
answered by one byte), b"F" + JSON [step, path, errno, hint], and b"R" + JSON {"phases": ..., "shapers": ...,
"confined": ...} when the command runs.

A job of a kept launcher outlives it, so its init says the same in the record, too (`Record`): nobody may be listening.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from errno import ENOSYS
from typing import NamedTuple, NoReturn, ParamSpec, TypeVar

from batchns.errors import StepError
from batchns.kernel import landlock, lsm
from batchns.kernel import syscalls as sys
from batchns.kernel.network import link
from batchns.kernel.network.types import Shapers
from batchns.launch import identity, sandbox
from batchns.launch.plan import Base, Plan, of_launcher

MAX_MESSAGE = 1 << 20
_LONGEST = 1024  # letters of a path or hint in a failure
P = ParamSpec("P")
T = TypeVar("T")

_EVERY_SIGNAL = frozenset(map(int, signal.valid_signals()))
_NAME_SERVICES = ("/var/lib/sss/pipes/nss",)  # outside of /run: who asks it learns what the user database says
_NOT_FORWARDED = {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP}


class Given(NamedTuple):
    """The descriptors that come with a plan."""

    record: int
    stdin: int
    stdout: int
    stderr: int
    idmap: int = -1  # only where folders are id-mapped


class Record:
    """The exit record's file, which says before there is one how far init has come, if the launcher is a kept one.

        0   one of the letters below, then the exit record in its place
        64  JSON: of the message b"R", or b"F"
        2048  JSON: bytes sent and received on the job's own link, [n, n]

    Each is one write within a page that is there: whole or not at all, however full the file system is.
    """

    SIZE = 4096
    TOLD, COUNTED = 64, 2048
    STARTING, RUNS, FAILED = b"S", b"R", b"F"

    def __init__(self, *, kept: bool) -> None:
        self._kept = kept
        self._link = ""
        self.descriptor = -1

    def starting(self, plan: Plan) -> None:
        """From here on the command may have run."""
        if self._kept:
            self._link = plan.network.job_name if plan.network.mode == "private" else ""
            os.pwrite(self.descriptor, self.STARTING, 0)

    def runs(self, told: bytes) -> None:
        if self._kept:
            os.pwrite(self.descriptor, self.RUNS.ljust(self.TOLD, b"\0") + told + b"\n", 0)

    def failed(self, told: bytes) -> None:
        if self._kept and self.descriptor >= 0:
            with suppress(OSError):
                os.pwrite(self.descriptor, self.FAILED.ljust(self.TOLD, b"\0") + told + b"\n", 0)

    def ended(self, status: int) -> None:
        os.pwrite(self.descriptor, exit_record(status), 0)
        if self._link:
            with suppress(OSError, ValueError):
                counted = link.counters(self._link)
                if counted is not None:  # on the host's end it is the other way round
                    values = [counted.received_bytes, counted.sent_bytes]
                    os.pwrite(self.descriptor, json.dumps(values).encode() + b"\n", self.COUNTED)


def main(base: Base, status: socket.socket, *, kept: bool = False) -> NoReturn:
    """The process's whole life. `status` is the only descriptor of the launcher's that it keeps. Never returns.

    It is born with every signal blocked and no umask. `kept`: the launcher is a kept one, which the job outlives once
    its command runs.
    """
    record = Record(kept=kept)
    try:
        sys.set_name("batchns-init")
        close_others(status.fileno())
        _live(base, status, record, kept=kept)
    except StepError as error:
        _fail(status, record, error)
    except OSError as error:
        _fail(status, record, StepError("init", str(error.filename or error.strerror or ""), error.errno or 0))
    except BaseException as error:  # a defect of ours: say so rather than vanish
        _fail(status, record, StepError("init", f"{type(error).__name__}: {error}", 0))
    finally:
        os._exit(1)


def _live(base: Base, status: socket.socket, record: Record, *, kept: bool) -> NoReturn:
    clock = _Phases()
    os.setsid()
    leave_keyring()
    host = link.isolate() if base.own_network else None
    root = step("mount root", sandbox.make_root) if base.host_root else step("mount root", sandbox.leave_host)
    sandbox.perform(root, base.mounts)
    clock.mark("base")
    plan, given = _receive(status)
    record.descriptor = given.record
    clock.mark("idle")
    program = step("seccomp", read, plan.seccomp) if plan.seccomp else b""
    sandbox.join_cgroups(plan)
    step("cgroup namespace", sys.unshare, sys.CLONE_NEWCGROUP)
    clock.mark("cgroup")
    shapers = Shapers()
    if host is not None:
        with host:
            shapers = link.connect(plan.network, host)
    clock.mark("network")
    if plan.credentials.groups is not None:
        os.setgroups(plan.credentials.groups)  # before the map: setgroups(2) is denied inside
    root = root._replace(idmap=given.idmap, submitter=plan.credentials.submitter)
    if plan.rootfs is not None:
        root = sandbox.make_own_root(root, plan.rootfs)
    sandbox.perform(root, plan.mounts)
    if plan.command.script:
        step("script", sandbox.write_script, root, plan.command.script)
    if plan.rootfs is not None and not plan.rootfs.overlay:
        step("rootfs", sys.mount_setattr, root.fd, attr_set=sys.MOUNT_ATTR_RDONLY)
    step("pivot_root", sandbox.pivot, root)
    open_null()
    step("hostname", sys.sethostname, plan.hostname)
    outputs = (given.stdin, given.stdout, given.stderr)
    layer = step("landlock", lock_paths, plan, outputs[1:])
    clock.mark("mounts")
    step("limits", identity.limit, plan.command.rlimits)
    score = step("identity", identity.open_score, plan.command.oom_score_adj)  # whose owner is not mapped inside
    own = step("identity", lsm.open_own) if plan.command.confined else -1
    _enter_user_namespace(plan, status)
    clock.mark("identity")
    record.starting(plan)
    command = step(
        "identity", identity.start_command, plan.credentials, plan.command, outputs, program, score, layer, own=own
    )
    for fd in (*outputs, given.idmap):
        if fd >= 0:
            os.close(fd)
    if not kept:
        # Set last, since a change of identity clears it. A launcher that died before is noticed by the next send.
        sys.prctl(sys.PR_SET_PDEATHSIG, signal.SIGKILL)
    clock.mark("exec")
    told = ready(clock.seconds, shapers, [lsm.spawned(command, *one) for one in plan.command.confined])
    record.runs(told)
    try:
        status.send(Record.RUNS + told)
    except (BrokenPipeError, ConnectionResetError):
        if not kept:
            raise
    status.close()
    _serve(command, record)


def lock_paths(plan: Plan, outputs: tuple[int, ...] = ()) -> int:
    """A second lock on what the mounts say already: see `kernel.landlock.ruleset`. -1: there is none."""
    if not plan.writable:
        return -1
    reached = tuple([mount.target for mount in plan.mounts if mount.kind == "bind"])
    apart = plan.network.mode == "host"
    return landlock.ruleset(plan.writable, outputs, reached=(*reached, *_NAME_SERVICES), apart=apart)


def ready(phases: dict[str, float], shapers: Shapers, confined: list[str]) -> bytes:
    """JSON by hand: the library's encoder would cost each init 60 KiB."""
    seconds = ", ".join([f'"{phase}": {spent:.6f}' for phase, spent in phases.items()])
    egress, ingress = ["null" if rate is None else rate for rate in shapers]
    rates = f'{{"egress": {egress}, "ingress": {ingress}}}'
    names = json.dumps(confined) if confined else "[]"
    return f'{{"phases": {{{seconds}}}, "shapers": {rates}, "confined": {names}}}'.encode()


def read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def leave_keyring() -> None:
    """The keys of whoever started batchns are not the job's."""
    try:
        sys.join_new_session_keyring()
    except OSError as error:
        if error.errno != ENOSYS:  # a kernel without keyrings
            raise StepError("session keyring", "", error.errno or 0) from None


def _receive(status: socket.socket) -> tuple[Plan, Given]:
    """Wait for the plan; nobody to wait for means the end."""
    room = socket.CMSG_LEN(len(Given._fields) * 4)
    message, ancillary, _, _ = status.recvmsg(MAX_MESSAGE, room, socket.MSG_CMSG_CLOEXEC)
    if not message:
        os._exit(0)
    fds = array.array("i", b"".join(data for _, _, data in ancillary))
    return of_launcher(message), Given(*fds)


def _enter_user_namespace(plan: Plan, status: socket.socket) -> None:
    step("user namespace", identity.make_user_namespace, plan.credentials.owner)
    mapped = b""
    with suppress(BrokenPipeError, ConnectionResetError):
        status.send(b"M")
        mapped = status.recv(1)
    if not mapped:
        os._exit(1)  # the launcher is gone: nobody would ever know of this job
    step("identity", identity.lock_capabilities)


def _serve(command: int, record: Record) -> NoReturn:
    """PID 1: reap, forward, and end with the command."""
    while True:
        number = signal.sigwaitinfo(_EVERY_SIGNAL).si_signo
        if number == signal.SIGCHLD:
            _reap(command, record)
        elif number not in _NOT_FORWARDED:
            with suppress(ProcessLookupError, PermissionError):  # a profile may keep signals from its processes
                os.kill(-command, number)


def _reap(command: int, record: Record) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid == command:
            record.ended(status)
            os._exit(0)


def exit_record(status: int) -> bytes:
    """The exit record of a wait status: one JSON line with `exit_code` and `signal`, one of them null."""
    killed = os.WIFSIGNALED(status)
    values = {
        "exit_code": None if killed else os.WEXITSTATUS(status),
        "signal": os.WTERMSIG(status) if killed else None,
    }
    return json.dumps(values).encode() + b"\n"


def step(name: str, operation: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """One operation under its name: what the kernel refuses becomes a StepError."""
    try:
        return operation(*args, **options)
    except OSError as error:
        raise StepError(name, str(error.filename or error.strerror or ""), error.errno or 0) from None


def close_others(kept: int) -> None:
    """Close every descriptor but `kept`: other jobs' sockets, records and namespaces among them."""
    if kept > 3:
        sys.close_range(3, kept - 1)
    sys.close_range(kept + 1, 0xFFFFFFFF)
    open_null()


def open_null() -> None:
    """Descriptors 0, 1 and 2 are this root's /dev/null: nothing may hold on to the one that has been left."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)


class _Phases:
    """Seconds spent in each phase, for the launch latency metric."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def mark(self, phase: str) -> None:
        now = time.monotonic()
        self.seconds[phase] = now - self._last
        self._last = now


def _encode(error: StepError) -> bytes:
    """A path may be as long as the user likes to write it, a message may not."""
    return json.dumps([error.step, error.path[:_LONGEST], error.errno, error.hint[:_LONGEST]]).encode()


def _fail(status: socket.socket, record: Record, error: StepError) -> None:
    record.failed(_encode(error))
    report(status, error)


def report(status: socket.socket, error: StepError) -> None:
    with suppress(OSError):  # the launcher is gone; so is this job
        status.send(Record.FAILED + _encode(error))
