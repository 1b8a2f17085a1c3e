"""The job's first process: it builds the sandbox, becomes PID 1 of the job, and ends with an exit record.

1. Until the command runs, every failure goes to the launcher as (step, path, errno, hint).
2. As PID 1 it reaps orphans, forwards signals to the command's process group, and writes the exit record to a
   descriptor that the command cannot reach: init is another user, and not dumpable.
3. It ends with the command. The kernel then kills whatever else is left in the PID namespace.

Status messages on the socket to the launcher: b"M" (map my user namespace; answered by one byte),
b"F" + JSON [step, path, errno, hint], b"R" + JSON {"phases": ..., "shapers": ...} when the command runs.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, NoReturn, ParamSpec, TypeVar

from batchns.errors import StepError
from batchns.kernel import syscalls as sys
from batchns.kernel.network import link
from batchns.launch import identity, sandbox
from batchns.launch.plan import Plan


class Descriptors(NamedTuple):
    """What the child keeps of the launcher's descriptors; all others are closed first thing."""

    status: int
    record: int
    stdin: int
    stdout: int
    stderr: int
    idmap: int


P = ParamSpec("P")
T = TypeVar("T")

_NOT_FORWARDED = {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP}


def main(plan: Plan, keep: Descriptors, *, die_with_parent: bool) -> NoReturn:
    """The child's whole life. Never returns."""
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        _close_others(keep)
        command = _start(plan, keep, die_with_parent)
        _serve(command, keep.record)
    except StepError as error:
        _report(keep.status, error)
    except OSError as error:
        _report(keep.status, StepError("init", str(error.filename or error.strerror or ""), error.errno or 0))
    except BaseException as error:  # a defect of ours: say so rather than vanish
        _report(keep.status, StepError("init", f"{type(error).__name__}: {error}", 0))
    finally:
        os._exit(1)


def _start(plan: Plan, keep: Descriptors, die_with_parent: bool) -> int:
    """Build everything and start the command; returns its pid in the job's namespace."""
    clock = _Phases()
    os.umask(0)
    os.setsid()
    sandbox.join_cgroups(plan)
    _step("cgroup namespace", sys.unshare, sys.CLONE_NEWCGROUP)
    clock.mark("cgroup")
    shapers = link.set_up(plan.network)
    clock.mark("network")
    root = _step("mount root", sandbox.make_root, keep.idmap)
    sandbox.perform(root, plan.mounts)
    if plan.command.script:
        _step("script", sandbox.write_script, root, plan.command.script)
    _step("pivot_root", sandbox.pivot, root)
    _step("hostname", sys.sethostname, plan.hostname)
    clock.mark("mounts")
    os.setgroups(plan.credentials.groups)  # before the map: setgroups(2) is denied inside
    _step("user namespace", sys.unshare, sys.CLONE_NEWUSER)
    os.write(keep.status, b"M")
    if not os.read(keep.status, 1):
        os._exit(1)  # the launcher is gone: nobody would ever know of this job
    _step("identity", identity.lock_capabilities)
    clock.mark("identity")
    outputs = (keep.stdin, keep.stdout, keep.stderr)
    command = _step("identity", identity.start_command, plan.credentials, plan.command, outputs)
    for fd in (*outputs, keep.idmap):
        os.close(fd)
    if die_with_parent:
        # Set last, since a change of identity clears it. A launcher that died before is noticed by the next write.
        sys.prctl(sys.PR_SET_PDEATHSIG, signal.SIGKILL)
    clock.mark("exec")
    os.write(keep.status, b"R" + json.dumps({"phases": clock.seconds, "shapers": shapers._asdict()}).encode())
    os.close(keep.status)
    return command


def _serve(command: int, record: int) -> NoReturn:
    """PID 1: reap, forward, and end with the command."""
    everything = signal.valid_signals()
    while True:
        number = signal.sigwaitinfo(everything).si_signo
        if number == signal.SIGCHLD:
            _reap(command, record)
        elif number not in _NOT_FORWARDED:
            with suppress(ProcessLookupError):
                os.kill(-command, number)


def _reap(command: int, record: int) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid == command:
            os.write(record, exit_record(status))
            os._exit(0)


def exit_record(status: int) -> bytes:
    """The exit record of a wait status: one JSON line with `exit_code` and `signal`, one of them null."""
    killed = os.WIFSIGNALED(status)
    values = {
        "exit_code": None if killed else os.WEXITSTATUS(status),
        "signal": os.WTERMSIG(status) if killed else None,
    }
    return json.dumps(values).encode() + b"\n"


def _step(name: str, operation: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """One operation under its name: what the kernel refuses becomes a StepError."""
    try:
        return operation(*args, **options)
    except OSError as error:
        raise StepError(name, str(error.filename or error.strerror or ""), error.errno or 0) from None


def _close_others(keep: Descriptors) -> None:
    """Close every descriptor but those in `keep`: other jobs' sockets, records and namespaces among them."""
    first = 0
    for fd in sorted({fd for fd in keep if fd >= 0}):
        if fd > first:
            sys.close_range(first, fd - 1)
        first = fd + 1
    sys.close_range(first, 0xFFFFFFFF)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        if fd not in keep:
            os.dup2(null, fd)
    if null > 2:
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
    return json.dumps([error.step, error.path, error.errno, error.hint]).encode()


def _report(status: int, error: StepError) -> None:
    with suppress(OSError):  # the launcher is gone; so is this job
        os.write(status, b"F" + _encode(error))
