"""Judges: each looks at the host, and says whether the attack has got what it was after."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .inside import kit
from .table import Judge, Seen


def loot(seen: Seen) -> bool:
    """The secret is in its report."""
    return seen.scene.token.encode() in seen.report


def canary_changed(seen: Seen) -> bool:
    there = seen.scene.canary
    return not there.exists() or there.read_text() != "untouched" or there.stat().st_nlink != 1


def accepted(name: str) -> Judge:
    """The service of that name has been connected to."""
    return lambda seen: seen.scene.accepted[name] > 0


def descriptors(seen: Seen) -> Iterator[tuple[int, int, str]]:
    for pid in seen.pids:
        with contextlib.suppress(OSError):
            for fd in os.listdir(seen.proc(pid, "fd")):
                with contextlib.suppress(OSError):
                    yield pid, int(fd), os.readlink(seen.proc(pid, "fd", fd))


def holds(pattern: str) -> Judge:
    """It has a descriptor of that kind."""
    return lambda seen: any(re.search(pattern, link) for _, _, link in descriptors(seen))


def holds_for_writing(pattern: str) -> Judge:
    def judge(seen: Seen) -> bool:
        for pid, fd, link in descriptors(seen):
            if re.search(pattern, link):
                flags = int(re.search(r"flags:\s*(\d+)", seen.proc(pid, "fdinfo", str(fd)).read_text())[1], 8)  # type: ignore[index]
                if flags & os.O_ACCMODE and not flags & os.O_PATH:
                    return True
        return False

    return judge


def holds_device(*harmless: tuple[int, int]) -> Judge:
    """It has a device open that is none of a sandbox's own."""
    known = {os.makedev(*pair) for pair in (*harmless, (1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2))}

    def judge(seen: Seen) -> bool:
        for pid, fd, _ in descriptors(seen):
            found = os.stat(seen.proc(pid, "fd", str(fd)))
            special = stat.S_ISBLK(found.st_mode) or stat.S_ISCHR(found.st_mode)
            if special and found.st_rdev not in known and os.major(found.st_rdev) not in range(136, 144):
                return True
        return False

    return judge


def holds_host_namespace(seen: Seen) -> bool:
    """A descriptor of the host's user namespace."""
    return holds("^" + re.escape(os.readlink("/proc/self/ns/user")))(seen)


def holds_socket(family: int, kind: int = 0) -> Judge:
    """It has a socket of that family: looked at through a copy of its descriptor."""

    def judge(seen: Seen) -> bool:
        for pid, fd, link in descriptors(seen):
            if not link.startswith("socket:"):
                continue
            with contextlib.suppress(OSError), _copied(pid, fd) as one:
                if one.getsockopt(socket.SOL_SOCKET, 39) == family:  # SO_DOMAIN
                    if family != socket.AF_NETLINK and kind in (0, one.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)):
                        return True
                    if family == socket.AF_NETLINK and one.getsockopt(socket.SOL_SOCKET, 38):  # SO_PROTOCOL
                        return True
        return False

    return judge


def _copied(pid: int, fd: int) -> socket.socket:
    pidfd = os.pidfd_open(pid)
    try:
        return socket.socket(fileno=kit.call("pidfd_getfd", pidfd, fd, 0))
    finally:
        os.close(pidfd)


def namespace(*kinds: str) -> Judge:
    """It is in another namespace than it was started in."""

    def judge(seen: Seen) -> bool:
        before = seen.before["namespaces"]
        for pid in seen.pids:
            for kind in kinds:
                with contextlib.suppress(OSError):
                    if os.readlink(seen.proc(pid, "ns", kind)) != before[kind]:
                        return True
        return False

    return judge


def mounts_changed(seen: Seen) -> bool:
    """It sees other mounts than before."""
    for pid in seen.pids:
        with contextlib.suppress(OSError):
            if mounts(pid) != seen.before["mounts"]:
                return True
    return False


def mounts(pid: int) -> list[str]:
    lines = seen_lines(Path(f"/proc/{pid}/mountinfo"))
    return sorted(" ".join(line.split()[2:6]) for line in lines)


def seen_lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def another_user(seen: Seen) -> bool:
    """It runs with an id that it did not have."""
    for pid in seen.pids:
        with contextlib.suppress(OSError):
            if ids(pid) != seen.before["ids"]:
                return True
    return False


def ids(pid: int) -> list[str]:
    return re.findall(r"^(?:Uid|Gid|Groups):[ \t]*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)


def victim_traced(seen: Seen) -> bool:
    status = Path(f"/proc/{seen.scene.known['victim']}/status").read_text()
    return "TracerPid:\t0\n" not in status


def victim_changed(seen: Seen) -> bool:
    address, length = seen.scene.known["scribble"]
    with Path(f"/proc/{seen.scene.known['victim']}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(length) != b"untouched"


def victim_niced(seen: Seen) -> bool:
    return os.getpriority(os.PRIO_PROCESS, seen.scene.known["victim"]) != 0


def prey_gone(seen: Seen) -> bool:
    try:
        state = Path(f"/proc/{seen.scene.known['prey']}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


def order_known(seen: Seen) -> bool:
    """What it says of the victim's place in the kernel's memory is what the host sees."""
    said = re.search(rb"order ([\d ]+)", seen.report)
    if said is None or not seen.pids:
        return False
    true = [kit.call("kcmp", seen.pids[0], seen.scene.known["victim"], kind, 0, 0) for kind in (1, 2, 3, 4, 5, 6)]
    return [*map(int, said[1].split())] == true


def set_uid_left(seen: Seen) -> bool:
    """A program with such a bit lies in its folder, and was not there before."""
    known = {"set-uid-cat"}
    return any(path.lstat().st_mode & 0o6000 for path in seen.scene.work.iterdir() if path.name not in known)


def personality(seen: Seen) -> bool:
    """READ_IMPLIES_EXEC is set."""
    for pid in seen.pids:
        with contextlib.suppress(OSError):
            if int(seen.proc(pid, "personality").read_text(), 16) & 0x400000:
                return True
    return False


def host_name_changed(seen: Seen) -> bool:
    return _in_namespace(seen, "uts", 0x4000000, lambda: os.uname().nodename == "attack")


def address_added(seen: Seen) -> bool:
    def look() -> bool:
        return "10.99.99.99" in Path("/proc/thread-self/net/fib_trie").read_text()

    return _in_namespace(seen, "net", 0x40000000, look)


def _in_namespace(seen: Seen, kind: str, flag: int, look: Callable[[], bool]) -> bool:
    """Look from inside one of its namespaces, in a child that ends with it."""
    for pid in seen.pids:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                kit.call("setns", os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY), flag)
                if look():
                    os.write(writer, b"y")
            os._exit(0)
        os.close(writer)
        found = os.read(reader, 1)
        os.close(reader)
        os.waitpid(child, 0)
        if found:
            return True
    return False


def log_read(seen: Seen) -> bool:
    """Its report has a line of the kernel's log."""
    room = ctypes.create_string_buffer(1 << 18)
    length = kit.number(103, 3, room, 1 << 18)
    lines = [line[15:].strip() for line in room.raw[:length].splitlines() if len(line) > 40]
    return any(line and line in seen.report for line in lines[-200:])


def clock_set(seen: Seen) -> bool:
    offset = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return abs(offset - seen.before["offset"]) > 60


def key_left(seen: Seen) -> bool:
    """Among the submitter's keys is one more: its victim, who has the same, looks at the end."""
    return seen.scene.finds_key()


def holds_raw_socket(seen: Seen) -> bool:
    return holds_socket(socket.AF_INET, socket.SOCK_RAW)(seen) or holds_socket(socket.AF_INET6, socket.SOCK_RAW)(seen)


FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run")


def taken(pid: int) -> dict[str, tuple[int, int, int]]:
    """By folder, as that process has it: device, bytes and inodes that are taken of its file system."""
    found = {}
    for folder in FOLDERS:
        with contextlib.suppress(OSError):
            there = f"/proc/{pid}/root{folder}"
            of = os.statvfs(there)
            found[folder] = os.stat(there).st_dev, (of.f_blocks - of.f_bfree) * of.f_frsize, of.f_files - of.f_ffree
    return found


def files_taken(seen: Seen) -> bool:
    """More bytes of its /tmp than it was given (64 MiB), or inodes of a file system that is the host's, too."""
    for pid in seen.pids[:1]:
        for folder, (device, room, inodes) in taken(pid).items():
            _, room_before, inodes_before = seen.before["files"][folder]
            if folder in ("/tmp", "/var/tmp") and room - room_before > 72 << 20:
                return True
            if device == os.stat(folder).st_dev and inodes - inodes_before > 3000:
                return True
    return False


def processes_taken(seen: Seen) -> bool:
    """More processes than it was given (256)."""
    return len(seen.pids) > 256


def moved(seen: Seen) -> bool:
    """It is in another cgroup than before."""
    for pid in seen.pids:
        with contextlib.suppress(OSError):
            if seen.proc(pid, "cgroup").read_text() != seen.before["groups"]:
                return True
    return False


def tcp_pages() -> int:
    """What all TCP sockets of the machine hold."""
    found = re.search(r"^TCP:.* mem (\d+)", Path("/proc/net/sockstat").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def requests() -> int:
    there = Path("/proc/sys/fs/aio-nr")
    return int(there.read_text()) if there.exists() else 0


def asynchronous_requests(seen: Seen) -> bool:
    return requests() - seen.before["requests"] > 10_000


def lacks_resource_rights() -> str:
    """Why not even root raises its limits here."""
    effective = int(re.search(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())[1], 16)  # type: ignore[index]
    return "" if effective >> 24 & 1 else "root has no CAP_SYS_RESOURCE on this machine"


def swap_on(seen: Seen) -> bool:
    return "swap-file" in Path("/proc/swaps").read_text()


def modules_changed(seen: Seen) -> bool:
    there = Path("/proc/modules")
    return (there.read_text() if there.exists() else "") != seen.before["modules"]
