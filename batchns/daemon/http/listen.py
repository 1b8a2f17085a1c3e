"""The daemon's socket in the file system: there from the moment at which somebody listens, and only one daemon's.

1. The lock beside it says whose it is; a daemon holds that for its life, so a killed one's can be taken.
2. It is made under another name, with its mode, and renamed when it listens: nobody finds one that does not answer.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

from batchns.errors import HostError

BACKLOG = 1024
MAX_PATH = 107  # unix(7)


@contextmanager
def unix_listener(path: Path, mode: int) -> Iterator[trio.socket.SocketType]:
    """A listening socket at `path`, whose folder is made where it is missing; gone at the end of the block.

    Raises:
        HostError: another daemon listens there, or it cannot be made.
    """
    if len(os.fsencode(path)) > MAX_PATH:
        raise HostError(f"{path} is too long for a socket", f"choose one of at most {MAX_PATH} bytes")
    with _refused(path):
        path.parent.mkdir(mode=0o755, exist_ok=True)
    with _lock(path), trio.socket.from_stdlib_socket(_bound(path, mode)) as listener:
        mine = path.lstat()
        try:
            yield listener
        finally:
            with suppress(FileNotFoundError):
                if os.path.samestat(path.lstat(), mine):
                    path.unlink()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    lock = path.with_name(f"{path.name}.lock")
    with _refused(lock):
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(path) from None
        yield
    finally:
        os.close(descriptor)


def _bound(path: Path, mode: int) -> socket.socket:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise HostError(f"{path} is there and is no socket", "remove it, or set another path for the socket")
        if _answers(path):
            raise _taken(path)
    new = path.with_name(f".{os.getpid()}")
    if len(os.fsencode(new)) > MAX_PATH:
        raise HostError(f"{new} is too long for a socket", f"choose a shorter folder than {path.parent}")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        with _refused(path):
            new.unlink(missing_ok=True)
            made.bind(os.fspath(new))
            new.chmod(mode)
            made.listen(BACKLOG)
            new.rename(path)
    except BaseException:
        made.close()
        with suppress(OSError):
            new.unlink()
        raise
    return made


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:
            return True  # so many want to be heard that it has no room for more
        except OSError:
            return False
        return True


def _taken(path: Path) -> HostError:
    return HostError(f"another batchns daemon listens at {path}", "stop it first: systemctl stop batchns")


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", "the daemon's socket needs a folder that it may write") from None
