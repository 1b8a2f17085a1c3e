"""Landlock as a second lock: what a hole in the mounts would let a job write, it does not write."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from batchns.kernel import landlock
from batchns.launch.plan import Mount, Plan
from batchns.model.job import Bind, Isolation
from batchns.model.submitter import Submitter

from .conftest import in_launcher, make_plan, run_plan

pytestmark = pytest.mark.kernel

ALICE = Submitter(uid=12345, gid=12345, name="alice", home="/", shell="/bin/sh", groups=(12345,))


@pytest.fixture(autouse=True)
def _there() -> None:
    if landlock.version() < landlock.LEAST:
        pytest.skip("this kernel has no Landlock")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of alice's that no job of hers asks for."""
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder.owner() == "root" and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_text("precious")
    for path in (folder, folder / "precious"):
        os.chown(path, ALICE.uid, ALICE.gid)
    return folder


def with_a_hole(outside: Path, *, locked: bool):
    """A mount too many, as a defect of ours would leave it."""

    def change(plan: Plan) -> Plan:
        hole = Mount("bind", "/tmp/hole", str(outside))
        return plan._replace(
            mounts=(*plan.mounts, hole),
            writable=tuple(path for path in plan.writable if path != "/tmp") if locked else (),
        )

    return change


ATTACKS = "; ".join(
    f"({attack}) 2>/dev/null && echo {name}"
    for name, attack in {
        "overwritten": "echo x > /tmp/hole/precious",
        "appended": "echo x >> /tmp/hole/precious",
        "made": "touch /tmp/hole/new",
        "folder": "mkdir /tmp/hole/folder",
        "link": "ln -s / /tmp/hole/link",
        "moved": "mv /tmp/hole/precious /tmp/hole/other",
        "removed": "rm -f /tmp/hole/other /tmp/hole/precious; ! test -e /tmp/hole/precious",
    }.items()
)


def test_what_a_hole_in_the_mounts_would_allow_is_not_done(outside: Path, work: Path) -> None:
    for locked in (False, True):
        plan = make_plan(work, submitter=ALICE, script=ATTACKS, change=with_a_hole(outside, locked=locked))
        done = in_launcher(lambda launcher, plan=plan: run_plan(launcher, plan)).output.split()
        if locked:
            assert done == []
            assert [path.name for path in outside.iterdir()] == ["precious"]
            assert (outside / "precious").read_text() == "precious"
        else:
            assert done == ["overwritten", "appended", "made", "folder", "link", "moved", "removed"], "the hole is one"
            for path in outside.iterdir():
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
            (outside / "precious").write_text("precious")
            os.chown(outside / "precious", ALICE.uid, ALICE.gid)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    os.chown(folder, ALICE.uid, ALICE.gid)
    tmp_path.chmod(0o755)
    return folder


ORDINARY = """\
set -e
mkdir -p a/b; echo x > a/b/c; mv a/b/c a/d; ln a/d e; ln -s a f; mkfifo g; rm -r a e f g
for folder in /tmp /var/tmp /dev/shm /run; do
  echo x > $folder/file; mkdir $folder/sub; mv $folder/file $folder/sub
done
echo x > /dev/null; : >> /dev/stdout; : >> /dev/stderr; echo > /proc/self/comm
python3 -c 'import os, socket, tempfile
s = socket.socket(socket.AF_UNIX); s.bind("/tmp/s"); s.listen()
c = socket.socket(socket.AF_UNIX); c.connect("/tmp/s")
a = socket.socket(socket.AF_UNIX); a.bind(chr(0) + "own"); a.listen()
b = socket.socket(socket.AF_UNIX); b.connect(chr(0) + "own")
f = tempfile.TemporaryFile(dir="."); f.write(b"x"); f.truncate(0); os.memfd_create("m")
m, s = os.openpty(); os.write(m, b"x")'
echo fine
"""


def test_what_jobs_do_every_day_is_not_in_its_way(work: Path) -> None:
    plan = make_plan(work, submitter=ALICE, script=ORDINARY)
    ended = in_launcher(lambda launcher: run_plan(launcher, plan))
    assert (ended.output, ended.exit_code) == ("fine\n", 0)


SPEAK = """\
python3 -c 'import os, socket
s = socket.socket(socket.AF_UNIX); s.bind("own"); s.listen()
c = socket.socket(socket.AF_UNIX); c.connect("own")
os.chdir("/PLACE")
for name, way in (("socket", lambda: socket.socket(socket.AF_UNIX).connect("socket")),
                  ("datagrams", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", "datagrams")),
                  ("fifo", lambda: os.open("fifo", os.O_WRONLY | os.O_NONBLOCK))):
    try: way()
    except PermissionError: continue
    print(name)'
"""


def test_services_of_the_host_are_spoken_to_only_where_they_are_bound(work: Path) -> None:
    with contextlib.ExitStack() as stack:
        place = Path(tempfile.mkdtemp(dir="/srv"))
        stack.callback(shutil.rmtree, place)
        place.chmod(0o755)
        for kind, name in ((socket.SOCK_STREAM, "socket"), (socket.SOCK_DGRAM, "datagrams")):
            service = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            service.bind(str(place / name))
            if kind == socket.SOCK_STREAM:
                service.listen()
        os.mkfifo(place / "fifo")
        stack.callback(os.close, os.open(place / "fifo", os.O_RDONLY | os.O_NONBLOCK))
        for path in place.iterdir():
            path.chmod(0o666)

        def reached(where: object, **isolation: object) -> list[str]:
            more = {"isolation": Isolation(**isolation)} if isolation else {}
            script = SPEAK.replace("/PLACE", str(where))
            ended = in_launcher(
                lambda launcher: run_plan(launcher, make_plan(work, submitter=ALICE, script=script, **more))
            )
            (work / "own").unlink()
            assert ended.exit_code == 0, ended.output
            return ended.output.split()

        sockets = ["socket", "datagrams"]
        assert reached(place) == ([] if landlock.version() >= 9 else sockets)  # a FIFO is written to
        assert reached("/srv", binds=(Bind(str(place), "/srv", True),)) == sockets
        assert reached("/srv", binds=(Bind(str(place), "/srv", False),)) == [*sockets, "fifo"]


def test_the_rules_are_in_the_plan_and_a_writable_root_has_none(work: Path) -> None:
    binds = (Bind("/srv", "/srv", True), Bind(str(work), "/data", False))
    plan = make_plan(work, script="true", isolation=Isolation(binds=binds))
    assert set(plan.writable) == {"/tmp", "/var/tmp", "/run", "/dev", "/proc", "/data", str(work)}
    assert make_plan(work, script="true", isolation=Isolation(rootfs="/srv/x", overlay=1 << 20)).writable == ()


def test_an_old_kernel_has_no_such_lock(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 1)
    assert landlock.ruleset(("/tmp",)) == -1


def test_what_enters_the_job_is_under_it_too(outside: Path, work: Path) -> None:
    """The same hole, tried from outside: `batchns exec`."""
    plan = make_plan(work, submitter=ALICE, script="sleep 60", change=with_a_hole(outside, locked=True))

    async def enter(launcher) -> int | None:
        import trio

        read, write = os.pipe()
        null = os.open("/dev/null", os.O_RDWR)
        await launcher.launch(plan, null, write, write)
        try:
            entered = await launcher.enter(
                plan.attempt, ("sh", "-c", "echo x > /tmp/hole/precious"), descriptors=(null, write, write)
            )
            return (await entered.wait()).exit_code
        finally:
            await launcher.signal(plan.attempt, 9)
            with trio.move_on_after(10):
                await launcher.wait(plan.attempt)
            for fd in (read, write, null):
                os.close(fd)

    assert in_launcher(enter) not in (0, None)
    assert (outside / "precious").read_text() == "precious"
