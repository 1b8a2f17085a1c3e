"""From a folder to a connection with the launcher that serves it, which is started where there is none.

Who holds the lock on the folder starts a launcher, and hands it lock and socket: there is never a second one, and no
moment at which one is started and cannot be connected to.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from batchns.errors import HostError
from batchns.kernel.sockets import make_room
from batchns.launch.client import MAX_MESSAGE, Launcher
from batchns.launch.kept import SOCKET

START_TIMEOUT = 20.0  # seconds until a launcher has to serve: it reads what is known first
_GIVE_UP = 6  # launchers in a row that ended before they served
PAUSE = 0.01  # seconds before the folder is looked at again; doubles up to the longest
_LONGEST_PAUSE = 1.0
_LARGEST_LOG = 1 << 20  # bytes
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_INTERPRETER = sys.executable
_PROGRAM = "import sys; sys.path.append({package!r}); from batchns.launch.kept import main; main({folder!r}, 3, 4)"


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise HostError(f"{error.filename}: {error.strerror}", "run batchns as root") from None
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise HostError(f"{folder}: others have access to it", f"chown root {folder} && chmod 700 {folder}")


async def connect(folder: Path, dead: int) -> tuple[trio.socket.SocketType, list[dict[str, Any]], int]:
    """A connection to the launcher, what it knows, and a pidfd of it if it was started here (else -1).

    `dead`: a pidfd of the one before, if that was started here; closed.
    """
    if dead >= 0:
        await reaped(dead)
    started, tries, pause = -1, 0, PAUSE
    while True:
        channel = _dial(folder)
        if channel is not None:
            heard = None
            try:
                heard = await _greeting(folder, channel)
            finally:
                if heard is None:
                    channel.close()
            if heard is not None:
                return channel, heard, started
        lock = take_lock(folder)
        if lock < 0:  # somebody starts one, or the last one is not quite gone
            await trio.sleep(pause)
        else:
            if started >= 0:
                await reaped(started)
                started = -1
            if tries == _GIVE_UP:
                os.close(lock)
                raise HostError(f"no launcher can be started: {tries} have ended at once", f"see {folder}/log")
            if tries:
                await trio.sleep(pause)
            started = _start(folder, lock)
            tries += 1
        pause = min(2 * pause, _LONGEST_PAUSE)


def _dial(folder: Path) -> trio.socket.SocketType | None:
    """None: nobody listens there."""
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _short(folder) as near:
            plain.connect(f"{near}/{SOCKET}")
    except (FileNotFoundError, ConnectionRefusedError):
        plain.close()
        return None
    make_room(plain, MAX_MESSAGE)
    return trio.socket.from_stdlib_socket(plain)


class _short:
    """The path of a folder by a descriptor: that of a socket has room for 107 letters."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> str:
        self._fd = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)


async def _greeting(folder: Path, channel: trio.socket.SocketType) -> list[dict[str, Any]] | None:
    """All that is known; None: it has ended before it could say that.

    Raises:
        HostError: it serves another client, or does not answer.
    """
    listener = Launcher(channel)
    known: list[dict[str, Any]] = []
    with trio.move_on_after(START_TIMEOUT):
        while (heard := await listener._hear()) is not None:
            value, _ = heard
            if value["event"] == "ready":
                return known
            if value["event"] == "taken":
                raise HostError(f"{folder}: another batchns uses this launcher", "end it first")
            known.append(value)
        return None
    raise HostError(f"{folder}: the launcher does not answer", f"see which process it is with: fuser {folder}/lock")


def take_lock(folder: Path) -> int:
    """The lock of whoever is the launcher here, or is about to start it; -1 where another process has it."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return -1
    return lock


def _start(folder: Path, lock: int) -> int:
    """Start a launcher, which gets the lock and a socket that already listens; a pidfd of it."""
    path = folder / SOCKET
    path.unlink(missing_ok=True)
    log = folder / "log"
    with suppress(FileNotFoundError):
        if log.stat().st_size > _LARGEST_LOG:
            log.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        with _short(folder) as near:
            listener.bind(f"{near}/{SOCKET}")
        listener.listen()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in (lock, listener.fileno())]
    os.close(lock)
    try:
        # -I -S: neither the environment nor site-packages have a say in what this process imports. In a session of its
        # own: it is nobody's to interrupt.
        program = _PROGRAM.format(package=_PACKAGE_ROOT, folder=str(folder.resolve()))
        pid = os.posix_spawn(
            _INTERPRETER,
            [_INTERPRETER, "-I", "-S", "-c", program],
            {},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                *((os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(high, 3)),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=signal.valid_signals(),
        )
        return os.pidfd_open(pid)
    finally:
        for fd in high:
            os.close(fd)


async def reaped(pidfd: int) -> None:
    """Wait for the end of a launcher that was started here."""
    try:
        await trio.lowlevel.wait_readable(pidfd)
        with suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    finally:
        os.close(pidfd)
