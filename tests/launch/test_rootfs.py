"""A root file system of the job's own, and how mounts of the host and of the job see each other."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from batchns.errors import StepError
from batchns.launch.plan import Plan, Version
from batchns.model.job import Bind, Identity, Isolation
from batchns.model.submitter import ROOT, Submitter

from .conftest import in_launcher, make_plan, run_plan

pytestmark = pytest.mark.kernel

ALICE = Submitter(name="alice", uid=31001, gid=31001, groups=(31001,))
MIB = 1 << 20


@pytest.fixture
def srv() -> Iterator[Path]:
    """A file system that folders can be id-mapped on, and that every user enters."""
    point = Path("/srv")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "batchns-test", point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", point], check=True)


@pytest.fixture
def root(srv) -> Path:
    """A small system: a shell, its commands, and one file that tells it from the host."""
    busybox = shutil.which("busybox")
    assert busybox, "install busybox-static"
    folder = srv / "system"
    (folder / "bin").mkdir(parents=True)
    shutil.copy(busybox, folder / "bin/busybox")
    for name in ("sh", "cat", "touch", "ls", "id", "mount", "umount", "dd", "stat", "mkdir", "rm", "sleep", "grep"):
        (folder / "bin" / name).symlink_to("busybox")
    (folder / "etc").mkdir()
    (folder / "etc/who").write_text("not the host\n")
    (folder / "home").mkdir()
    (folder / "home").chmod(0o777)
    return folder


def need(file_system: str) -> None:
    if not re.search(rf"\b{file_system}$", Path("/proc/filesystems").read_text(), re.MULTILINE):
        pytest.skip(f"this kernel has no {file_system}")


@pytest.fixture
def image(srv, root) -> Path:
    need("squashfs")
    images = srv / "images"
    images.mkdir()
    made = images / "system.squashfs"
    subprocess.run(
        ["mksquashfs", root, made, "-comp", "zstd", "-quiet", "-no-progress"], check=True, stdout=subprocess.DEVNULL
    )
    made.chmod(0o644)
    return made


@pytest.fixture
def work(srv) -> Path:
    """alice's folder."""
    folder = srv / "work"
    folder.mkdir(mode=0o755)
    os.chown(folder, ALICE.uid, ALICE.gid)
    return folder


def plan_of(folder: Path, rootfs: Path, script: str, submitter: Submitter = ALICE, **more: object) -> Plan:
    identity = more.pop("identity", None)
    change = more.pop("change", lambda plan: plan)
    isolation = Isolation(rootfs=str(rootfs), identity=identity, **more)
    return make_plan(folder, submitter=submitter, script=script, isolation=isolation, change=change)


def output(folder: Path, rootfs: Path, script: str, submitter: Submitter = ALICE, **more: object) -> str:
    plan = plan_of(folder, rootfs, script, submitter, **more)
    return in_launcher(lambda launcher: run_plan(launcher, plan)).output


def refusal(folder: Path, rootfs: Path, **more: object) -> str:
    """What a job with this root is told instead of being started."""

    async def start(launcher) -> str:
        with pytest.raises(StepError) as raised:
            await run_plan(launcher, plan_of(folder, rootfs, "true", **more))
        return str(raised.value)

    return in_launcher(start)


def listed(plan: Plan) -> Plan:
    """As if the administrator had listed the image's folder."""
    return plan._replace(rootfs=plan.rootfs._replace(image=True))


def tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    return {str(path): (path.lstat().st_mode, path.lstat().st_uid, path.lstat().st_size) for path in folder.rglob("*")}


def loops() -> list[str]:
    """The images of these tests that a loop device holds."""
    held = (path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file"))
    return sorted(path for path in held if path.endswith((".squashfs", "/junk")))


@pytest.mark.parametrize("identity", [Identity.SELF, Identity.ROOT, Identity.PRIVATE])
def test_a_folder_is_the_root_read_only_and_stays_as_it_was(root, work, identity):
    before = tree(root)
    script = (
        "cat /etc/who; ls /usr; touch /home/x /new /etc/who; touch /tmp/fine made && echo $PWD; ls -d /proc/1 /dev/null"
    )
    text = output(work, root, script, identity=identity)
    assert "not the host" in text
    assert "/usr: No such file" in text
    assert text.count("Read-only file system") == 3
    assert str(work) in text.splitlines()
    assert text.endswith("/dev/null\n/proc/1\n")
    assert tree(root) == before
    assert (work / "made").stat().st_uid == ALICE.uid


def test_roots_job_has_its_own_ids_in_it(root, work):
    os.chown(work, 0, 0)
    text = output(work, root, "stat -c '%u %n' /etc/who; id -u; echo x > /home/mine && echo written", ROOT, overlay=MIB)
    assert text == "0 /etc/who\n0\nwritten\n"


def test_what_an_overlay_takes_is_gone_with_the_job_and_no_more_than_its_size(root, work):
    before = tree(root)
    script = (
        "echo new > /home/who; cat /home/who; rm /home/who && echo removed; "
        "dd if=/dev/zero of=/home/much bs=64k count=64 2>&1; stat -c %s /home/much"
    )
    text = output(work, root, script, overlay=2 * MIB)
    assert text.startswith("new\nremoved\n")
    assert "No space left on device" in text
    assert MIB < int(text.splitlines()[-1]) <= 2 * MIB
    assert tree(root) == before
    assert "No such file" in output(work, root, "cat /home/much", overlay=2 * MIB)


def test_an_image_is_the_root_and_its_loop_device_goes_with_the_job(image, work):
    before = loops()
    text = output(work, image, "cat /etc/who; touch /home/x", change=listed)
    assert text.startswith("not the host\n")
    assert "Read-only file system" in text
    text = output(work, image, "echo new > /home/x; cat /home/x /etc/who", change=listed, overlay=MIB)
    assert text == "new\nnot the host\n"
    assert loops() == before


def test_an_image_of_a_job_that_is_killed_leaves_no_loop_device(image, work):
    before = loops()
    plan = plan_of(work, image, "sleep 60", change=listed)

    async def killed(launcher):
        null = os.open("/dev/null", os.O_RDWR)
        started = await launcher.launch(plan, null, null, null)
        os.close(null)
        assert loops() != before
        os.kill(started.pid, signal.SIGKILL)
        return await launcher.wait(plan.attempt)

    assert in_launcher(killed).left == ()
    assert loops() == before


def test_an_image_that_a_user_could_have_made_is_refused(image, work):
    """The kernel's squashfs is no guard against a forged image, so root must have written it, where root said."""
    assert "batchns.toml lists" in refusal(work, image)
    own = work / "own.squashfs"
    shutil.copy(image, own)
    os.chown(own, ALICE.uid, ALICE.gid)
    for path, mode in ((own, 0o644), (image, 0o664), (image, 0o646)):
        path.chmod(mode)
        assert "an image belongs to root" in refusal(work, path, change=listed)
    assert loops() == []


def test_an_image_is_the_version_that_was_checked(image, root, work):
    """Also when another file has the same content, and when a folder has taken its place."""

    def version(of: Path) -> Callable[[Plan], Plan]:
        wanted = tuple(Version.of(of.stat()))
        return lambda plan: plan._replace(rootfs=plan.rootfs._replace(image=True, version=wanted))

    assert output(work, image, "cat /etc/who", change=version(image)) == "not the host\n"
    twin = image.with_name("twin.squashfs")
    shutil.copy2(image, twin)
    for path in (twin, root):
        assert "since its digest was checked" in (told := refusal(work, path, change=version(image))) or (
            "when its digest was checked" in told
        )
    before = version(image)
    os.utime(image)
    assert "it has changed since its digest was checked" in refusal(work, image, change=before)
    assert loops() == []


def test_a_hostile_root_is_refused(root, srv, work):
    """Links out of it lead nowhere, set-uid files and device nodes in it lend nothing, and mounts follow no link."""
    (srv / "link").symlink_to(root)
    assert "real path" in refusal(work, srv / "link")
    closed = srv / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(root, closed / "system", symlinks=True)
    assert "Permission denied" in refusal(work, closed / "system")
    (root / "bin/su").hardlink_to(root / "bin/busybox")
    (root / "bin/su").chmod(0o4755)
    os.mknod(root / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    flags = output(work, root, "grep ' / / ' /proc/self/mountinfo; cat /zero; grep NoNew /proc/self/status")
    assert "nosuid" in flags
    assert "nodev" in flags
    assert "Permission denied" in flags
    for name in ("proc", "dev", "tmp", "srv"):
        (root / name).symlink_to("/etc")
        assert "symbolic link" in refusal(work, root)
        (root / name).unlink()


def test_what_is_no_root_is_told_apart(root, srv, work):
    assert "No such file" in refusal(work, srv / "missing")
    junk = srv / "junk"
    junk.write_bytes(bytes(8192))
    assert "squashfs image" in refusal(work, junk, change=listed)
    os.mkfifo(srv / "fifo")
    assert "Not a directory" in refusal(work, srv / "fifo")
    assert loops() == []


def test_binds_are_mounted_into_a_root_that_lacks_their_points(root, srv, work):
    (srv / "data").mkdir()
    (srv / "data/file").write_text("data")
    (srv / "one").write_text("one")
    binds = (Bind(source=str(srv / "data"), target="/mnt/deep/data"), Bind(source=str(srv / "one"), target="/opt/one"))
    assert output(work, root, "cat /mnt/deep/data/file /opt/one", binds=binds) == "dataone"


# -- propagation -------------------------------------------------------------------------------------------------------


async def while_running(launcher, plan: Plan, work: Callable[[], None], asks: Path) -> str:
    """Do `work` once the job has made the file `asks`; then what the job printed."""

    async def ask() -> None:
        while not asks.exists():
            await trio.sleep(0.01)
        await trio.to_thread.run_sync(work)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        return (await run_plan(launcher, plan)).output


WAITS = "touch asks; for i in $(seq 200); do [ -e {file} ] && break; sleep 0.02; done; cat {file}"


def test_a_file_system_that_the_host_mounts_while_the_job_runs_appears_inside(srv, work):
    point = srv / "late"
    point.mkdir()

    def mount() -> None:
        subprocess.run(["mount", "-t", "tmpfs", "late", point], check=True)
        (point / "file").write_text("mounted later")

    plan = make_plan(work, submitter=ALICE, script=WAITS.format(file=point / "file"))
    try:
        assert in_launcher(lambda launcher: while_running(launcher, plan, mount, work / "asks")) == "mounted later"
    finally:
        subprocess.run(["umount", "-l", point], check=False)


def test_what_a_job_mounts_nobody_outside_sees(srv, work, root):
    """The sandbox itself mounts its /proc, /tmp and more, and all of it stays inside."""
    before = Path("/proc/self/mountinfo").read_text()
    seen = []
    for isolation in (Isolation(), Isolation(rootfs=str(root), overlay=MIB)):
        plan = make_plan(work, submitter=ALICE, script="touch asks; sleep 0.2", isolation=isolation)

        def look() -> None:
            seen.append(Path("/proc/self/mountinfo").read_text())

        in_launcher(lambda launcher, plan=plan, look=look: while_running(launcher, plan, look, work / "asks"))
        (work / "asks").unlink()
    assert seen == [before, before]


@contextmanager
def automounter(point: Path, served: list[str]) -> Iterator[None]:
    """An automounter in small: a name that is looked up below `point` becomes a tmpfs with a file of that name.

    The kernel side is autofs, protocol 5 (Documentation/filesystems/autofs.rst).
    """
    reader, writer = os.pipe()
    options = f"fd={writer},pgrp={os.getpgrp()},minproto=5,maxproto=5,indirect"
    subprocess.run(["mount", "-i", "-t", "autofs", "-o", options, "test", point], check=True, pass_fds=(writer,))
    os.close(writer)
    top = os.open(point, os.O_RDONLY | os.O_DIRECTORY)

    def serve() -> None:
        packet = struct.Struct("=iiIIQIIIII256s")  # struct autofs_v5_packet
        while len(data := os.read(reader, 512)) >= packet.size:
            _, _, token, *_, length, name = packet.unpack_from(data)
            place = point / name[:length].decode()
            place.mkdir()
            subprocess.run(["mount", "-i", "-n", "-t", "tmpfs", "auto", place], check=True)
            (place / "file").write_text(f"automounted {place.name}")
            served.append(place.name)
            fcntl.ioctl(top, 0x9360, token)  # AUTOFS_IOC_READY

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        fcntl.ioctl(top, 0x9362, 0)  # AUTOFS_IOC_CATATONIC: nobody waits for an answer any more, the pipe ends
        os.close(top)
        thread.join(5)
        subprocess.run(["umount", "-R", "-l", point], check=True)
        os.close(reader)


def test_an_automounted_path_works(srv, work):
    """Home folders on many hosts: mounted by whoever looks first, here a job."""
    need("autofs")
    point = srv / "auto"
    point.mkdir()
    served: list[str] = []
    with automounter(point, served):
        plan = make_plan(work, submitter=ALICE, script=f"cat {point}/ada/file")
        assert in_launcher(lambda launcher: run_plan(launcher, plan)).output == "automounted ada"
        assert served == ["ada"]
        plan = make_plan(work, cwd=str(point / "eve"), submitter=ALICE, script="cat file")
        assert in_launcher(lambda launcher: run_plan(launcher, plan)).output == "automounted eve"
        assert served == ["ada", "eve"]
