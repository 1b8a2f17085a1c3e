"""A job that minds its own business, and notes whether it still can: what others try to disturb, read and reach.

usage: neighbour.py ID   It reads `neighbour.json`, writes `about.json` once, and appends a line to `beats` every time
that it has done its round: what failed, words apart by spaces. It ends when there is a file `enough`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit import libc
from run import name_me

PORT = 7077
_received: dict[str, int] = {"tcp": 0, "udp": 0, "abstract": 0}


def main() -> None:
    name_me(f"nbr-{sys.argv[1]}")
    libc.shmat.restype = ctypes.c_void_p
    given = json.loads(Path("neighbour.json").read_text())
    kept = services(given)
    Path("about.json").write_text(
        json.dumps({"address": os.environ.get("BATCHNS_ADDRESS", "127.0.0.1"), "pid": os.getpid(), "shm": kept[0]})
    )
    with Path("beats").open("a") as beats:
        while not os.path.exists("enough"):
            failed = [name for name, work in ROUND.items() if not works(work)]
            print(*failed, *(f"{name}={count}" for name, count in _received.items()), file=beats, flush=True)
            time.sleep(0.05)


def works(work: Callable[[], Any]) -> bool:
    try:
        work()
    except OSError:
        return False
    return True


def services(given: dict[str, Any]) -> list[Any]:
    """What of its own others are after: memory, messages, sockets."""
    token = given["token"].encode()
    shm = libc.shmget(given["key"], 4096, 0o1600)
    ctypes.memmove(libc.shmat(shm, None, 0), token, len(token))
    queue = libc.mq_open(f"/{given['name']}".encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
    libc.mq_send(queue, token, len(token), 0)
    for folder in ("/dev/shm", "/tmp"):
        with contextlib.suppress(OSError):  # some sandboxes have none
            Path(folder, given["name"]).write_text(given["token"])
    tcp = socket.create_server(("", given["port"]))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("", given["port"]))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\0" + given["name"])
    abstract.listen()
    for name, one in (("tcp", tcp), ("abstract", abstract)):
        threading.Thread(target=accept, args=(name, one), daemon=True).start()
    threading.Thread(target=receive, args=(udp,), daemon=True).start()
    return [shm, tcp, udp, abstract]


def accept(name: str, one: socket.socket) -> None:
    while True:
        one.accept()[0].close()
        _received[name] += 1


def receive(one: socket.socket) -> None:
    while True:
        one.recv(100)
        _received["udp"] += 1


def closing(fd: int) -> None:
    if fd < 0:
        raise OSError(ctypes.get_errno(), "refused")
    os.close(fd)


def inotify() -> None:
    fd = libc.inotify_init()
    if fd < 0:
        raise OSError(0, "refused")
    watched = libc.inotify_add_watch(fd, b"/tmp", 2)
    os.close(fd)
    if watched < 0:
        raise OSError(0, "refused")


def terminal() -> None:
    for fd in os.openpty():
        os.close(fd)


def timer() -> None:
    made = ctypes.c_void_p()
    if libc.timer_create(0, None, ctypes.byref(made)):
        raise OSError(0, "refused")
    libc.timer_delete(made)


def messages() -> None:
    closing(libc.mq_open(b"/own", os.O_CREAT | os.O_RDWR, 0o600, None))
    libc.mq_unlink(b"/own")


def shared_memory() -> None:
    made = libc.shmget(0, 65536, 0o1600)
    if made < 0:
        raise OSError(0, "refused")
    libc.shmctl(made, 0, None)


def semaphores() -> None:
    made = libc.semget(0, 10, 0o1600)
    if made < 0:
        raise OSError(0, "refused")
    libc.semctl(made, 0, 0)


def process() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def memory() -> None:
    bytearray(4 << 20)


def files() -> None:
    with tempfile.TemporaryFile(dir="/tmp") as one:
        one.write(bytes(1 << 16))
    with tempfile.TemporaryFile(dir="/dev/shm") as other:
        other.write(bytes(1 << 16))


def descriptors() -> None:
    fds = [os.dup(0) for _ in range(100)]
    for fd in fds:
        os.close(fd)


def pipes() -> None:
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, 1032)  # F_GETPIPE_SZ
    os.close(reader)
    os.close(writer)
    if size < 65536:
        raise OSError(0, "small")


def connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(2)
        with socket.create_connection(server.getsockname(), 2) as one:
            other, _ = server.accept()
            with other:
                one.sendall(b"x" * 4096)
                other.settimeout(2)
                other.recv(10)


def lock() -> None:
    with tempfile.TemporaryFile(dir="/tmp") as one:
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)


ROUND: dict[str, Callable[[], Any]] = {
    "inotify": inotify,
    "terminal": terminal,
    "timer": timer,
    "messages": messages,
    "shared_memory": shared_memory,
    "semaphores": semaphores,
    "process": process,
    "memory": memory,
    "files": files,
    "descriptors": descriptors,
    "pipes": pipes,
    "connection": connection,
    "lock": lock,
}

if __name__ == "__main__":
    main()
