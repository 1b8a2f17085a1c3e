"""What an attack is after: secrets, canaries, processes and services of the host, made anew for every run.

1. Whatever belongs to somebody belongs to the submitter: a job that is root or a user must not get what the same user
   gets outside.
2. Everything has random names and goes with the scene, also when a test fails.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import secrets
import shutil
import socket
import stat
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import define, field

from ..alone import end_with_parent
from .inside import kit
from .neighbours import Neighbour

# A process of the host: it holds a secret in its memory, its environment and an open file, and does nothing.
_VICTIM = """
import ctypes, json, os, sys, time
secret, path = sys.stdin.readline().split()
memory, scribble = ctypes.create_string_buffer(secret.encode()), ctypes.create_string_buffer(b"untouched")
fd = os.open(path, os.O_RDONLY)
libc = ctypes.CDLL(None)
key = int(libc.syscall(248, b"user", sys.argv[1].encode(), secret.encode(), len(secret), -4))
print(json.dumps([ctypes.addressof(memory), ctypes.addressof(scribble), fd, key]), flush=True)
for line in sys.stdin:
    found = libc.syscall(250, 10, -4, b"user", sys.argv[1].encode() + b"-left", 0)
    print(json.dumps(found >= 0), flush=True)
    if found >= 0: libc.syscall(250, 9, found, -4)
libc.syscall(250, 9, key, -4)  # KEYCTL_UNLINK
"""


@define(kw_only=True, eq=False)
class Scene:
    """`uid`: the submitter. `work`: the job's folder. `visible`: one of the submitter's that the host's root shows."""

    uid: int
    work: Path
    visible: Path
    outside: Path
    id: str = field(factory=lambda: secrets.token_hex(2))
    token: str = field(factory=lambda: secrets.token_hex(16))
    known: dict[str, Any] = field(factory=dict)
    accepted: dict[str, int] = field(factory=dict)
    neighbours: list[Neighbour] = field(factory=list)
    finds_key: Callable[[], bool] = field(init=False)

    @property
    def canary(self) -> Path:
        return self.visible / "canary"

    def failures(self) -> list[tuple[str, frozenset[str]]]:
        """What the neighbour of its "own" user, and that of "another", cannot do any more."""
        return [("own" if one.uid == self.uid else "another", one.failures()) for one in self.neighbours]

    def tell_attacker(self) -> None:
        self.known["neighbours"] = [one.about for one in self.neighbours]
        _write(self.work / "scene.json", json.dumps(self.known), self.uid)

    def comm(self, index: int | None = None) -> str:
        return f"atk-{self.id}" + ("" if index is None else f"-{index:02}")


@contextlib.contextmanager
def make(uid: int, other: int, base: Path, *, masks: tuple[str, ...] = ()) -> Iterator[Scene]:
    """A scene for a job of `uid` in a new folder below `base`; `other`: a user that is neither it nor root."""
    with contextlib.ExitStack() as stack:
        folders = []
        for above in (base, base, Path(tempfile.gettempdir())):
            folder = Path(tempfile.mkdtemp(prefix="attack-", dir=above))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            folder.chmod(0o755)
            os.chown(folder, uid, uid)
            folders.append(folder)
        scene = Scene(uid=uid, work=folders[0], visible=folders[1], outside=folders[2])
        _files(scene, other)
        stack.callback(Path(scene.known["planted"]).unlink)
        stack.callback(shutil.rmtree, base / f"closed-{scene.id}")
        _processes(scene, stack)
        _services(scene, stack)
        _memory(scene, stack)
        scene.known |= {
            "canary": str(scene.canary),
            "visible": str(scene.visible),
            "masks": [*masks, str(scene.visible), "/proc/sys", "/proc"],
            "disk": _disk(),
            "other": other,
        }
        scene.tell_attacker()
        for place in ("/tmp", "/dev/shm", "/run", "/var/tmp"):  # what a control fills
            stack.callback(shutil.rmtree, f"{place}/{scene.known['key']}-full", ignore_errors=True)
        yield scene


def throwaway() -> bool:
    """This machine is one that nobody else uses: User Mode Linux, as tests boot it."""
    return "User Mode Linux" in Path("/proc/cpuinfo").read_text()


def _write(path: Path, content: str, uid: int, mode: int = 0o600) -> Path:
    path.write_text(content)
    os.chown(path, uid, uid)
    path.chmod(mode)
    return path


def _files(scene: Scene, other: int) -> None:
    uid, token = scene.uid, scene.token
    _write(scene.canary, "untouched", uid, 0o644)
    scene.known["secret"] = str(_write(scene.outside / "secret", token, uid))
    scene.known["planted"] = str(_write(Path(f"/run/attack-{scene.id}"), token, uid))
    closed = scene.visible.parent / f"closed-{scene.id}"  # on the file system of the job's folder, beyond every bind
    closed.mkdir(mode=0o700)
    _write(closed / "secret", token, 0)
    scene.known["handle"] = _handle(closed / "secret")
    for source in Path(kit.__file__).parent.glob("*.py"):
        _write(scene.work / source.name, source.read_text(), uid, 0o644)
    reports = scene.work / "reports"
    reports.mkdir()
    os.chown(reports, uid, uid)
    _write(scene.work / "others", token, other)
    for name in ("set-uid-cat", "capable-cat"):
        shutil.copy("/usr/bin/cat", scene.work / name)
    os.chown(scene.work / "set-uid-cat", other, other)
    (scene.work / "set-uid-cat").chmod(0o4755)
    (scene.work / "capable-cat").chmod(0o755)
    # VFS_CAP_REVISION_2 with CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, effective
    os.setxattr(scene.work / "capable-cat", "security.capability", struct.pack("<IIIII", 0x02000001, 6, 0, 0, 0))
    major, minor = _disk()
    os.mknod(scene.work / "disk", 0o666 | stat.S_IFBLK, os.makedev(major, minor))
    (scene.work / "disk").chmod(0o666)
    _write(scene.work / "swap-file", "\0" * 65536, uid)


def _handle(path: Path) -> tuple[int, str]:
    room = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    kit.call("name_to_handle_at", kit.AT_FDCWD, str(path), room, ctypes.byref(ctypes.c_int()), 0)
    length, kind = struct.unpack_from("Ii", room.raw)
    return kind, room.raw[8 : 8 + length].hex()


def disk_opens() -> bool:
    return _disk() != (7, 255)


@functools.cache
def _disk() -> tuple[int, int]:
    """A block device that this machine's root can open, and which is only ever opened for reading."""
    with tempfile.TemporaryDirectory() as folder:
        for found in sorted(Path("/sys/block").glob("*/dev")):
            major, minor = map(int, found.read_text().split(":"))
            node = Path(folder, found.parent.name)
            os.mknod(node, 0o600 | stat.S_IFBLK, os.makedev(major, minor))
            with contextlib.suppress(OSError):
                os.close(os.open(node, os.O_RDONLY))
                return major, minor
    return 7, 255


def _processes(scene: Scene, stack: contextlib.ExitStack) -> None:
    ids: dict[str, Any] = {"user": scene.uid, "group": scene.uid, "extra_groups": []} if scene.uid else {}
    key = f"attack-{scene.id}"
    victim = subprocess.Popen(
        ["/usr/bin/python3", "-c", _VICTIM, key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"TOKEN": scene.token},
        cwd="/",
        preexec_fn=end_with_parent,
        **ids,
    )
    prey = subprocess.Popen(["/bin/sleep", "600"], cwd="/", preexec_fn=end_with_parent, **ids)

    def finds_key() -> bool:
        assert victim.stdin is not None and victim.stdout is not None
        victim.stdin.write("?\n")
        victim.stdin.flush()
        return bool(json.loads(victim.stdout.readline()))

    scene.finds_key = finds_key

    def end() -> None:
        victim.communicate()
        prey.kill()
        prey.wait()

    stack.callback(end)
    assert victim.stdin is not None and victim.stdout is not None
    victim.stdin.write(f"{scene.token} {scene.known['secret']}\n")
    victim.stdin.flush()
    memory, scribble, fd, _ = json.loads(victim.stdout.readline())
    scene.known |= {
        "victim": victim.pid,
        "prey": prey.pid,
        "memory": [memory, len(scene.token)],
        "scribble": [scribble, 9],
        "open": fd,
        "key": key,
    }


def _services(scene: Scene, stack: contextlib.ExitStack) -> None:
    def unix(name: str, address: str) -> None:
        one = socket.socket(socket.AF_UNIX)
        one.bind(address)
        if not address.startswith("\0"):
            Path(address).chmod(0o777)
        _serve(scene, stack, name, one)
        scene.known[name] = address.lstrip("\0")

    unix("abstract", f"\0attack-{scene.id}-{secrets.token_hex(4)}")
    unix("socket", str(scene.outside / "socket"))
    unix("public_socket", str(scene.visible / "socket"))
    tcp = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    _serve(scene, stack, "port", tcp)
    scene.known["port"] = tcp.getsockname()[1]
    scene.known["addresses"] = ["127.0.0.1", "192.0.2.1", "169.254.1.1", "0.0.0.0", "255.255.255.255"]


def _serve(scene: Scene, stack: contextlib.ExitStack, name: str, listener: socket.socket) -> None:
    """Count who connects, and hand each a descriptor of the secret."""
    listener.listen(64)
    scene.accepted[name] = 0

    def answer() -> None:
        while True:
            try:
                one, _ = listener.accept()
            except OSError:
                return
            scene.accepted[name] += 1
            with contextlib.suppress(OSError), one, Path(scene.known["secret"]).open() as file:
                if one.family == socket.AF_UNIX:
                    socket.send_fds(one, [b"x"], [file.fileno()])

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()

    def end() -> None:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        listener.close()

    stack.callback(end)


def _memory(scene: Scene, stack: contextlib.ExitStack) -> None:
    """System V and POSIX memory of the host's IPC namespace."""
    libc, token = kit.libc, scene.token.encode()
    libc.shmat.restype = ctypes.c_void_p
    shm = libc.shmget(0, 4096, 0o1600)
    stack.callback(libc.shmctl, shm, 0, None)  # IPC_RMID
    place = libc.shmat(shm, None, 0)
    ctypes.memmove(place, token, len(token))
    libc.shmdt(ctypes.c_void_p(place))
    room = ctypes.create_string_buffer(128)
    libc.shmctl(shm, 2, room)  # IPC_STAT
    changed = bytearray(room.raw)
    struct.pack_into("II", changed, 4, scene.uid, scene.uid)
    libc.shmctl(shm, 1, ctypes.create_string_buffer(bytes(changed)))  # IPC_SET
    queue = f"/attack-{scene.id}"
    attributes = struct.pack("llll", 0, 4, 64, 0) + bytes(32)
    fd = libc.mq_open(queue.encode(), os.O_CREAT | os.O_RDWR, 0o600, attributes)
    assert fd >= 0, "mq_open"
    os.fchown(fd, scene.uid, scene.uid)
    for _ in range(3):
        libc.mq_send(fd, token, len(token), 0)
    os.close(fd)
    stack.callback(libc.mq_unlink, queue.encode())
    shared = Path(f"/dev/shm/attack-{scene.id}")
    _write(shared, scene.token, scene.uid)
    stack.callback(shared.unlink)
    scene.known |= {"shm": shm, "queue": queue, "shared": str(shared)}
