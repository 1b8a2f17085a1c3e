"""A job's binds make nothing on the host, and show nothing of the kernel's, of a session's or of the daemon's."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..daemon.live import OVER, Live, holds, toml
from ..system.conftest import until
from .batch_system import connections
from .modes import MALLORY, World

pytestmark = pytest.mark.kernel

NESTED = {
    "a folder": ("{theirs}:/mnt", "{empty}:/mnt/made"),
    "a file": ("{theirs}:/mnt", "{file}:/mnt/made"),
    "folders on the way": ("{theirs}:/mnt", "{empty}:/mnt/made/deeper/still"),
    "below a link": ("{own}:/mnt", "{empty}:/mnt/link/made"),
    "a file below a link": ("{own}:/mnt", "{file}:/mnt/link/made"),
    "a file in the place of a link": ("{own}:/mnt", "{file}:/mnt/dangling"),
    "a folder in the place of a link": ("{own}:/mnt", "{empty}:/mnt/dangling"),
    "into the host's root": ("{empty}:{theirs}/made",),
    "into a folder that may only be read": ("{open}:/mnt:ro", "{empty}:/mnt/made"),
    "three deep": ("{own}:/mnt", "{theirs}:/mnt/inner", "{file}:/mnt/inner/made"),
}
WHO = (("mallory", "self"), ("mallory", "root"), (None, "private"))


@pytest.fixture
def daemon(machine: World) -> Iterator[Live]:
    yield machine.daemon
    machine.daemon.clear()


def places(daemon: Live) -> dict[str, Path]:
    """`theirs`: root's, as /etc is. `own`: the user's, with links to it. `open`: a user's, to be shown only."""
    found = {"theirs": daemon.folder(), "own": daemon.folder("mallory"), "open": daemon.folder("mallory")}
    found["empty"] = daemon.folder("mallory")
    found["file"] = found["empty"] / "file"
    found["file"].write_text("of the user's")
    (found["own"] / "link").symlink_to(found["theirs"])
    (found["own"] / "dangling").symlink_to(found["theirs"] / "made")
    (found["own"] / "inner").mkdir()
    for path in (found["file"], found["own"] / "inner"):
        os.chown(path, MALLORY, MALLORY)
    return found


def attempt(
    daemon: Live, binds: list[str], user: str | None, identity: str, *command: str, cwd: Path | None = None
) -> str:
    """The id of a job with these binds; "" where it is refused."""
    folder = cwd or daemon.folder(user)
    text = toml(name="binds", command=list(command) or ["true"], time_limit="1m")
    text += toml(**{"isolation.binds": binds, "isolation.identity": identity})
    (folder / "binds.toml").write_text(text + 'resources.cpus = 0.1\nresources.memory = "64MiB"\n')
    ran = daemon("submit", "--parsable", "binds.toml", user=user, cwd=folder)
    return ran.stdout.strip() if ran.code == 0 else ""


@pytest.mark.parametrize(("user", "identity"), WHO)
def test_mount_points_make_nothing_in_folders_of_the_host(daemon: Live, user: str | None, identity: str) -> None:
    """Root may write to `theirs`, so for its jobs only links of others', and what is read-only, are no way there."""
    made, names = {}, [name for name in NESTED if user or "link" in name or "read" in name]
    there = {name: places(daemon) for name in names}
    jobs = {
        name: attempt(daemon, [bind.format(**there[name]) for bind in NESTED[name]], user, identity) for name in names
    }
    for name, job in jobs.items():
        if job:
            daemon.over(job)
        found = [path.name for key in ("theirs", "open") for path in there[name][key].iterdir()]
        if found:
            made[name] = found
    assert made == {}


def test_a_naive_container_makes_them(daemon: Live) -> None:
    """The control: root mounts one below the other, and makes what there is not."""
    there = places(daemon)
    for way in ("", "link"):
        script = 'mount --bind "$1" /mnt && mkdir -p "/mnt/$3/made-$3" && mount --bind "$2" "/mnt/$3/made-$3"'
        outer = there["own"] if way else there["theirs"]
        command = ["unshare", "--mount", "sh", "-c", script, "sh", outer, there["empty"], way]
        subprocess.run(command, check=True)
    assert sorted(path.name for path in there["theirs"].iterdir()) == ["made-", "made-link"]


def of_the_kernel() -> list[str]:
    """Mounts of this machine whose files are the kernel's, and folders above them."""
    kinds = ("proc", "sysfs", "cgroup", "cgroup2", "mqueue", "devpts", "debugfs", "tracefs", "securityfs")
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = [words[4] for words in lines if words[words.index("-") + 1] in kinds]
    return [*dict.fromkeys(["/proc", "/proc/sys", "/sys", "/sys/fs/cgroup", "/sys/fs", *found])]


def shown(daemon: Live, job: str, point: str = "/mnt") -> list[str]:
    """Kinds of file systems that the job sees there and below: of its processes' mounts, as the host sees them."""
    row = daemon.until(job, "RUNNING", *OVER)
    if row.state != "RUNNING":
        return []
    lines = Path(f"/proc/{daemon.pid(job)}/mountinfo").read_text().splitlines()
    words = [line.split() for line in lines]
    return [one[one.index("-") + 1] for one in words if f"{one[4]}/".startswith(f"{point}/")]


@pytest.mark.parametrize(("user", "identity"), WHO)
def test_no_file_system_of_the_kernel_is_bound(daemon: Live, user: str | None, identity: str) -> None:
    """The control is the last of them: a folder, which is there."""
    sources = [*of_the_kernel(), str(daemon.folder(user))]
    jobs = {source: attempt(daemon, [f"{source}:/mnt"], user, identity, "sleep", "60") for source in sources}
    found = {source: shown(daemon, job) if job else [] for source, job in jobs.items()}
    assert found.pop(sources[-1]) != []
    assert {source: kinds for source, kinds in found.items() if {*kinds} - {"tmpfs", "ext4"}} == {}


CONNECT = """
import os, socket, sys
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        try: socket.socket(socket.AF_UNIX).connect(f"{folder}/{name}")
        except OSError as error: print(error)
try: socket.socket(socket.AF_UNIX).connect(sys.argv[1])
except OSError as error: print(error)
"""


class Listener:
    """Somebody of the user's who does what is asked: as systemd and D-Bus do."""

    def __init__(self, path: Path, uid: int) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        path.chmod(0o777)
        os.chown(path, uid, uid)
        self.socket.listen(64)
        self.socket.setblocking(False)

    def asked(self) -> bool:
        try:
            self.socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@pytest.mark.parametrize("identity", ["self", "root"])
def test_a_session_in_run_user_is_not_asked(daemon: Live, identity: str) -> None:
    """Its user's systemd would start whatever the job asks for, outside of the sandbox. A process of theirs may ask."""
    folder = Path(f"/run/user/{MALLORY}")
    folder.mkdir(parents=True)
    try:
        os.chown(folder, MALLORY, MALLORY)
        folder.chmod(0o700)
        one = Listener(folder / "bus", MALLORY)
        subprocess.run(
            ["/usr/bin/python3", "-c", CONNECT, folder], user=MALLORY, group=MALLORY, extra_groups=[], check=True
        )
        assert one.asked()
        asked = []
        for source in (folder, folder / "bus", folder.parent):
            job = attempt(daemon, [f"{source}:/mnt"], "mallory", identity, "/usr/bin/python3", "-c", CONNECT, "/mnt")
            if job:
                daemon.over(job)
            asked += [str(source)] if one.asked() else []
        assert asked == []
    finally:
        (folder / "bus").unlink(missing_ok=True)
        folder.rmdir()


HOLD = """
import socket, sys, time
kept = []
for path in sys.argv[1:]:
    try: kept.append(socket.socket(socket.AF_UNIX)); kept[-1].connect(path)
    except OSError as error: print(error)
open("tried", "w").close()
time.sleep(60)
"""


class Elsewhere(Live):
    """Its control socket is on the host's root, which jobs see."""

    @property
    def socket(self) -> Path:
        return self.base / "socket/control.sock"


@pytest.fixture
def elsewhere(machine: World) -> Iterator[Live | None]:
    """None: the daemon listens at no such place, and says so."""
    daemon = Elsewhere()
    daemon.socket.parent.mkdir()
    daemon.configure('[daemon]\nsocket = "BASE/socket/control.sock"\n')
    try:
        daemon.start()
    except AssertionError:
        said = daemon.said
        shutil.rmtree(daemon.base)
        shutil.rmtree(daemon.run, ignore_errors=True)
        assert "in reach of jobs" in said
        yield None
        return
    try:
        yield daemon
    finally:
        daemon.close()


@pytest.mark.parametrize(("user", "identity"), WHO)
def test_a_control_socket_elsewhere_is_not_reached(elsewhere: Live | None, user: str | None, identity: str) -> None:
    """By its own path, and by binds of it and of its folder; the control is a process of the same user's."""
    if elsewhere is None:
        return
    path = str(elsewhere.socket)
    folder = elsewhere.folder(user)
    until(lambda: connections(path) == 0)
    ids = {"user": MALLORY, "group": MALLORY, "extra_groups": []} if user else {}
    process = subprocess.Popen(["/usr/bin/python3", "-c", HOLD, path], cwd=folder, **ids)  # type: ignore[call-overload]
    try:
        until((folder / "tried").exists)
        assert connections(path) == 1
    finally:
        process.kill()
        process.wait()
        (folder / "tried").unlink(missing_ok=True)
    until(lambda: connections(path) == 0)
    reached = []
    for binds in ([], [f"{path}:/mnt/s"], [f"{elsewhere.socket.parent}:/mnt/f"], [f"{elsewhere.base}:/mnt/b"]):
        command = ["/usr/bin/python3", "-c", HOLD, path, "/mnt/s", "/mnt/f/control.sock", "/mnt/b/socket/control.sock"]
        job = attempt(elsewhere, binds, user, identity, *command, cwd=folder)
        if not job or elsewhere.until(job, "RUNNING", *OVER).state != "RUNNING":
            continue
        until((folder / "tried").exists)
        reached += [binds] if holds(lambda: connections(path) > 0, 0.5) else []
        elsewhere.clear()
        until(lambda: connections(path) == 0)
        (folder / "tried").unlink()
    assert reached == []
