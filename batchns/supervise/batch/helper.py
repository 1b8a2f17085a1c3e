"""The launcher of one job, forked and not executed: this process has one thread, and its modules are there already."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from batchns.errors import HostError
from batchns.kernel.sockets import make_room
from batchns.launch import launcher
from batchns.launch.plan import Plan, to_wire

MAX_MESSAGE = 1 << 20
END_SECONDS = 10.0


class Helper:
    """Raises HostError where there is no process for it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        make_room(ours, MAX_MESSAGE)
        # Slurm signals every process of a job: what ends a launcher is the end of its client, and nothing else.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
        except OSError as error:
            raise HostError(f"no process for the launcher: {error.strerror}", "ulimit -u") from None
        if self.pid == 0:
            _live(ours, theirs)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.socket = ours
        ours.setblocking(False)

    def launch(self, plan: Plan, stdin: int, stdout: int, stderr: int) -> None:
        message = b"L" + to_wire(plan)
        if len(message) > MAX_MESSAGE:
            raise HostError(f"a launch plan of {len(message)} bytes is larger than {MAX_MESSAGE}", "a shorter script")
        socket.send_fds(self.socket, [message], (stdin, stdout, stderr))

    def signal(self, attempt: str, number: int) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # its end is heard by `heard`
            self.socket.send(b"S" + json.dumps([attempt, number]).encode())

    def heard(self) -> Iterator[dict[str, Any] | None]:
        """What it has said; None: it is gone."""
        while True:
            try:
                message = self.socket.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except ConnectionResetError:
                message = b""
            yield json.loads(message) if message else None
            if not message:
                return

    def close(self) -> None:
        """It kills what it has started, and ends; it is waited for, within a bound."""
        self.socket.close()
        pidfd = os.pidfd_open(self.pid)
        try:
            if not select.select([pidfd], [], [], END_SECONDS)[0]:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        finally:
            os.close(pidfd)


def _live(ours: socket.socket, theirs: socket.socket) -> None:
    try:
        signal.set_wakeup_fd(-1)
        ours.close()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        os.chdir("/")
        launcher.main(theirs.detach(), root=False)
    except SystemExit:
        os._exit(0)
    except BaseException as error:
        os.write(2, f"batchns: launcher: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(1)
