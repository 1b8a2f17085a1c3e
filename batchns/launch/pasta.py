"""The way out of a user's job: pasta(1) carries what the job sends through sockets of the user's own.

1. It is started once the job's namespaces are there and before the command is, and ends with the job or the launcher.
2. It has two capabilities over the user namespace that the launcher is in, and none over anything of the host's.
3. Nothing leads in, and nothing to the host: no port is forwarded in either direction, no address stands for its
   loopback, and the job's address is the host's own, so that what it sends there comes back to itself.
4. The launcher never waits for it: it is told of its readiness, or its failure, by a pipe.

pasta wants to be alone in setting its signals up: SIGPIPE, which Python ignores, has to be as it is by default.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, NoReturn

from batchns.errors import StepError
from batchns.kernel import syscalls

INTERFACE = "eth0"
READY_SECONDS = 10.0
_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21  # include/uapi/linux/capability.h
_LAST_WORDS = 1 << 14  # bytes of its messages that are kept
_NOISE = "Failed to send"  # it also writes to a system log that may not be there

# To set up the interface itself; no ports; the gateway's address is not the host's loopback; nobody asks for addresses.
_OPTIONS = (
    *("--foreground", "--quiet", "--stderr", "--config-net", "--ns-ifname", INTERFACE, "--no-map-gw"),
    *("--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none"),
    *("--no-dhcp", "--no-dhcpv6", "--no-ra"),
)


class _Process(NamedTuple):
    pid: int
    pidfd: int
    said: int  # a file of memory with its messages
    ready: int  # the pipe
    until: float
    done: Callable[[StepError | None], None]


class Pastas:
    """One for each job that has one. `watch` and `unwatch`: the launcher's poll."""

    def __init__(self, watch: Callable[[int, Callable[[], None]], None], unwatch: Callable[[int], None]) -> None:
        self._watch = watch
        self._unwatch = unwatch
        self._starting: dict[str, _Process] = {}
        self._running: dict[str, _Process] = {}

    def start(self, attempt: str, program: str, network: int, done: Callable[[StepError | None], None]) -> None:
        """Start one for the network namespace of the descriptor `network`; `done` is called with what went wrong.

        Raises:
            OSError: there is no process for it.
        """
        said = os.memfd_create("pasta", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(said, _LAST_WORDS)
        # A job can make it complain as often as it likes: what is beyond is refused, and nobody's memory grows.
        fcntl.fcntl(said, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        ready, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(ready, False)
        pid = os.fork()
        if pid == 0:
            _become(program, network, writer, said)
        os.close(writer)
        pidfd = os.pidfd_open(pid)
        self._starting[attempt] = _Process(pid, pidfd, said, ready, time.monotonic() + READY_SECONDS, done)
        self._watch(ready, lambda: self._answers(attempt, program))

    def due(self) -> float | None:
        """When the first of those that are not ready has had its time; None: there are none."""
        return min((process.until for process in self._starting.values()), default=None)

    def end_overdue(self) -> None:
        """Kill those that have had their time: their pipes tell."""
        for process in self._starting.values():
            if process.until <= time.monotonic():
                signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)

    def end(self, attempt: str) -> None:
        """Its job is over."""
        process = self._starting.pop(attempt, None)
        if process is not None:
            self._unwatch(process.ready)
            os.close(process.ready)
        else:
            process = self._running.pop(attempt, None)
        if process is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED)
            os.close(process.pidfd)
            os.close(process.said)

    def _answers(self, attempt: str, program: str) -> None:
        """It has written its pid, or closed the pipe without."""
        process = self._starting.get(attempt)
        if process is None:
            return
        try:
            ready = os.read(process.ready, 64)
        except BlockingIOError:
            return  # the descriptor was another one's when the poll saw it
        del self._starting[attempt]
        self._unwatch(process.ready)
        os.close(process.ready)
        self._running[attempt] = process
        if ready:
            process.done(None)
            return
        text = os.pread(process.said, _LAST_WORDS, 0).rstrip(b"\0").decode(errors="replace")
        lines = [line for line in text.splitlines() if line and not line.startswith(_NOISE)]
        why = lines[-1] if lines else f"no answer within {READY_SECONDS:.0f} s"
        hint = f'it says: {why}. Without it: network.mode = "none"'
        process.done(StepError("network: pasta", program, 0, hint))


def _become(program: str, network: int, ready: int, said: int) -> NoReturn:
    """The forked child: pasta, with the two capabilities and these descriptors."""
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        mask = 1 << _CAP_NET_ADMIN | 1 << _CAP_SYS_ADMIN
        syscalls.set_capabilities(mask, inherited=mask)
        for capability in (_CAP_NET_ADMIN, _CAP_SYS_ADMIN):
            syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, capability)
        os.dup2(said, 2)
        for fd in (network, ready):
            os.set_inheritable(fd, True)
        names = ("--pid", f"/proc/self/fd/{ready}", "--netns", f"/proc/self/fd/{network}")
        os.execve(program, ("pasta", *_OPTIONS, *names), {"PATH": "/usr/bin:/bin"})
    except OSError as error:
        os.write(said, f"{error.strerror}\n".encode())
    finally:
        os._exit(1)
