"""A process that is started in a running job: its namespaces and cgroups, its identity, its filter, its environment.

1. The enterer is a fork of the launcher, born in the job's cgroup v2. It lets go of every descriptor that is not the
   command's, and is not dumpable before it enters: nothing of the host is to be had through it.
2. The namespaces are entered from the outside in, the user namespace last, as a sandbox is built. A child is born in
   the PID namespace; the enterer itself stays outside of it, where no process of the job sees it.
3. What restricts the job's command restricts this one: the same functions, in the same order.

On the socket go back b"F" + JSON [step, path, errno, hint]; or b"R" + JSON {"pid": ...} with the master of the
terminal, if there is one, and at the end b"E" + an exit record. On it come signals for the command, a packet of one
byte each, and its end: then the command is killed. `WAKE` says to look.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import termios
from contextlib import suppress
from functools import partial
from typing import NamedTuple, NoReturn

from batchns.errors import StepError
from batchns.kernel import lsm
from batchns.kernel import syscalls as sys
from batchns.launch import identity, init, sandbox
from batchns.launch.plan import Command, Ids, Plan

NAME = "batchns-enter"
_ALL_BUT_USER = (
    sys.CLONE_NEWNS | sys.CLONE_NEWPID | sys.CLONE_NEWUTS | sys.CLONE_NEWIPC | sys.CLONE_NEWNET | sys.CLONE_NEWCGROUP
)
_EVERY_SIGNAL = frozenset(map(int, signal.valid_signals()))
WAKE = signal.SIGHUP  # the kernel sends it, too, when the launcher is gone
# include/uapi/asm-generic/ioctls.h
_TIOCGPTN = 0x80045430
_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441


class Wanted(NamedTuple):
    """What to start. `env`: added to the job's; `cwd`: "" for the job's; `size`: (rows, columns) of a terminal."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = ""
    size: tuple[int, int] | None = None


def wanted_from(raw: list[object]) -> Wanted:
    """What JSON has made lists of."""
    argv, env, cwd, size = raw
    return Wanted(tuple(argv), tuple((name, value) for name, value in env), cwd, size and tuple(size))  # type: ignore


def command_of(plan: Plan, wanted: Wanted) -> Command:
    """The job's command with another program in it: same limits, same environment but for what is added."""
    env = {**dict(plan.command.env), **dict(wanted.env)}
    return plan.command._replace(
        argv=wanted.argv, env=tuple(sorted(env.items())), cwd=wanted.cwd or plan.command.cwd, script=""
    )


def main(plan: Plan, job: int, wanted: Wanted, given: tuple[int, ...], status: socket.socket) -> NoReturn:
    """The enterer's whole life. `job`: a pidfd of the job's init. `given`: stdin, stdout, stderr, unless a terminal is
    wanted. Never returns.
    """
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _EVERY_SIGNAL)
        sys.set_name(NAME)
        sys.prctl(sys.PR_SET_PDEATHSIG, signal.SIGKILL)
        status, job, given = _keep_only(status, job, given)
        init.open_null()  # the host's, for now
        _live(plan, job, wanted, given, status)
    except StepError as error:
        init.report(status, error)
    except OSError as error:
        init.report(status, StepError("enter", str(error.filename or error.strerror or ""), error.errno or 0))
    except BaseException as error:  # a defect of ours: say so rather than vanish
        init.report(status, StepError("enter", f"{type(error).__name__}: {error}", 0))
    finally:
        os._exit(1)


def _live(plan: Plan, job: int, wanted: Wanted, given: tuple[int, ...], status: socket.socket) -> NoReturn:
    status.setblocking(False)
    init.leave_keyring()
    sys.prctl(sys.PR_SET_DUMPABLE, 0)
    program = init.step("seccomp", init.read, plan.seccomp) if plan.seccomp else b""
    init.step("limits", identity.limit, plan.command.rlimits)
    score = init.step("identity", identity.open_score, plan.command.oom_score_adj)  # the job's /proc lacks this process
    own = init.step("identity", lsm.open_own) if plan.command.confined else -1
    sandbox.join_cgroups(plan)
    if plan.credentials.groups is not None:
        os.setgroups(plan.credentials.groups)
    init.step("enter namespaces", sys.setns, job, _ALL_BUT_USER)
    init.open_null()
    os.chdir("/")
    layer = init.step("landlock", init.lock_paths, plan)
    master, terminal = init.step("terminal", _open_terminal, plan, wanted.size) if wanted.size else (-1, "")
    init.step("enter user namespace", sys.setns, job, sys.CLONE_NEWUSER)
    os.close(job)
    init.step("identity", identity.lock_capabilities)
    command = command_of(plan, wanted)
    start = partial(identity.start_command, terminal=terminal, own=own)
    pid = init.step("identity", start, plan.credentials, command, given, program, score, layer)
    sys.prctl(sys.PR_SET_PDEATHSIG, WAKE)  # a change of identity has cleared it
    ready = b"R" + json.dumps({"pid": pid}).encode()
    try:
        socket.send_fds(status, [ready], [master] if master >= 0 else [])
    except (BrokenPipeError, ConnectionResetError):
        _end(pid, status)
    if master >= 0:
        os.close(master)
    for fd in given:
        os.close(fd)
    _serve(pid, status)


def _keep_only(status: socket.socket, job: int, given: tuple[int, ...]) -> tuple[socket.socket, int, tuple[int, ...]]:
    """Close everything else, and give these the numbers from 3 on."""
    wanted = [status.detach(), job, *given]
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 1 << 9) for fd in wanted]
    moved = [os.dup2(fd, number, inheritable=False) for number, fd in enumerate(high, 3)]
    sys.close_range(3 + len(moved), 0xFFFFFFFF)
    return socket.socket(fileno=moved[0]), moved[1], tuple(moved[2:])


def _open_terminal(plan: Plan, size: tuple[int, int]) -> tuple[int, str]:
    """A new terminal of the job's own devpts, which belongs to the job's user: its master and its path inside."""
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", *size, 0, 0))
    number = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, bytes(4)))[0]
    slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    os.fchown(slave, *_outside(plan.ids, plan.credentials.uid, plan.credentials.gid))
    os.close(slave)
    return master, f"/dev/pts/{number}"


def _outside(ids: Ids, uid: int, gid: int) -> tuple[int, int]:
    """The host's numbers of an id inside."""
    found = []
    for entries, number in ((ids.uids, uid), (ids.gids, gid)):
        inside, outside, _ = next(entry for entry in entries if entry.inside <= number < entry.inside + entry.length)
        found.append(outside + number - inside)
    return found[0], found[1]


def _serve(pid: int, status: socket.socket) -> NoReturn:
    """Pass signals on, and end with the command."""
    while True:
        number = signal.sigwaitinfo(_EVERY_SIGNAL).si_signo
        if number == signal.SIGCHLD:
            ended, code = os.waitpid(pid, os.WNOHANG)
            if ended:
                _tell_end(code, status)
        elif number == WAKE:
            _pass_on(pid, status)


def _pass_on(pid: int, status: socket.socket) -> None:
    """All that has come."""
    with suppress(BlockingIOError):
        # read(2), because the job's filter allows that to its init, and need not allow more.
        while asked := os.read(status.fileno(), 1):
            with suppress(ProcessLookupError, PermissionError):  # a profile may keep signals from its processes
                os.kill(-pid, asked[0])
        _end(pid, status)


def _end(pid: int, status: socket.socket) -> NoReturn:
    """Nobody listens any more. The command is not left to others: the job's init could not end before they reap it."""
    with suppress(ProcessLookupError, PermissionError):  # one that a profile keeps from that ends with the job
        os.kill(-pid, signal.SIGKILL)
    _tell_end(os.waitpid(pid, 0)[1], status)


def _tell_end(code: int, status: socket.socket) -> NoReturn:
    with suppress(OSError):  # the launcher is gone, and the job with it
        status.send(b"E" + init.exit_record(code))
    os._exit(0)
