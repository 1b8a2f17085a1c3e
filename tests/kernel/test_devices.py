"""Device rules on the real kernel: root's own processes in a job's cgroups try to open and to make nodes."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cgroup_jobs import Job, hybrid, name, needs_root, within

from batchns.errors import StepError
from batchns.kernel import bpf
from batchns.kernel.cgroups import devices
from batchns.kernel.cgroups.detect import open_driver
from batchns.kernel.cgroups.interface import Device, DevicePlan, Driver, Limits
from batchns.supervise.devices import BASE

pytestmark = [pytest.mark.kernel, needs_root]

LOOP5, LOOP6, CONTROL, KMSG = Device("b", 7, 5), Device("b", 7, 6), Device("c", 10, 237), Device("c", 1, 11)
OTHERS = (LOOP5, LOOP6, CONTROL, KMSG)
V1_DEVICES = Path("/sys/fs/cgroup/devices")


def without_v1(folder: Path) -> str:
    """A /proc that shows a hybrid host without the v1 devices controller: a program in the v2 tree has its place."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines(keepends=True)
    own = Path("/proc/self/cgroup").read_text().splitlines(keepends=True)
    (folder / "self").mkdir(parents=True)
    kept = [line for line in mounts if " - cgroup " not in line or "devices" not in line.rpartition(" - ")[2]]
    (folder / "self" / "mountinfo").write_text("".join(kept))
    (folder / "self" / "cgroup").write_text("".join(line for line in own if ":devices:" not in line))
    return str(folder)


@pytest.fixture(params=["own", "program"])
def driver(request, tmp_path) -> Iterator[Driver]:
    """This host's driver; on a hybrid host also one that has to make do with programs."""
    if request.param == "program":
        if not hybrid():
            pytest.skip("this host has one way only")
        found = open_driver(proc=without_v1(tmp_path / "proc"))
    else:
        found = open_driver()
    found.prepare()
    why = dict(found.plan("probe", Limits(devices=())).unavailable)
    if why:
        found.release()
        pytest.skip(why["devices"])
    yield found
    found.release()


@pytest.fixture
def folder(tmp_path) -> Iterator[Path]:
    """On a file system of its own, whose device nodes work."""
    point = tmp_path / "nodes"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755,dev", "batchns-test", point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", point], check=True)


def node_of(folder: Path, device: Device, number: int = 0) -> Path:
    minor = device.minor if device.minor is not None else number
    path = folder / f"{device.kind}-{device.major}-{minor}"
    if not path.exists():
        kind = stat.S_IFBLK if device.kind == "b" else stat.S_IFCHR
        os.mknod(path, kind | 0o600, os.makedev(device.major, minor))
    return path


def tried(path: Path, flags: int = os.O_RDONLY) -> int:
    """The errno of opening it, 0 for none."""
    try:
        os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError as error:
        return error.errno or 0
    return 0


def made(path: Path, device: Device) -> int:
    try:
        node_of(path, device)
    except OSError as error:
        return error.errno or 0
    return 0


def inside(job: Job, folder: Path, paths: list[Path]) -> dict[str, int]:
    """Ask a process of the job, which is root with every right: it opens each of `paths`, and makes two nodes."""
    told = folder / "told"

    def payload() -> None:
        found = {path.name: tried(path, os.O_RDWR) for path in paths}
        (folder / "new").mkdir()
        found["make a listed one"] = made(folder / "new", Device("c", 1, 3))
        found["make another"] = made(folder / "new", CONTROL)
        (folder / "writing").write_text(json.dumps(found))
        os.rename(folder / "writing", told)

    job.spawn(payload)
    assert within(10, told.exists)
    return json.loads(told.read_text())


@pytest.mark.parametrize("unit", [(), (LOOP5,)], ids=["base", "with a unit"])
def test_what_is_not_listed_cannot_be_opened_or_made_even_by_root(driver, folder, unit):
    """The nodes are there, on a file system that lets devices be used, and open for this process."""
    terminals = (Device("c", 5, 0), Device("c", 5, 2))  # which need one, and their devpts beside them
    listed = [device for device in (*BASE, *unit) if device.minor is not None and device not in terminals]
    paths = [node_of(folder, device) for device in (*listed, *OTHERS)]
    assert {tried(path) for path in paths} == {0}, "this very process may not open them either"
    limits = Limits(devices=(*BASE, *unit))
    with Job(driver, name("rules"), limits) as job:
        job.values |= devices.Programs().apply(job.plan.devices)
        found = inside(job, folder, paths)
        reading = driver.readings(limits, job.plan, job.values)["devices"]
    refused = {node_of(folder, device).name for device in OTHERS if device not in unit}
    expected = {path.name: errno.EPERM if path.name in refused else 0 for path in paths}
    assert found == {**expected, "make a listed one": errno.EPERM, "make another": errno.EPERM}
    assert reading.value == devices.text(limits.devices)
    assert reading.source in (devices.V1_LIST, devices.PROGRAM)


def test_terminals_are_listed_with_every_number(driver, folder):
    """/dev/ptmx makes one, whose node has a number that nobody knows beforehand."""
    with Job(driver, name("pty"), Limits(devices=BASE)) as job:
        devices.Programs().apply(job.plan.devices)

        def payload() -> None:
            master, slave = os.openpty()
            (folder / "told").write_text(str(tried(Path(os.ttyname(slave)), os.O_RDWR)))
            os.close(master)

        job.spawn(payload)
        assert within(10, lambda: (folder / "told").exists() and (folder / "told").read_text() != "")
    assert (folder / "told").read_text() == "0"


def test_a_job_is_under_its_rules_when_whoever_made_them_is_gone(driver, folder):
    """Of a program nothing is kept but the cgroup's hold on it."""
    path = node_of(folder, CONTROL)
    with Job(driver, name("gone"), Limits(devices=BASE)) as job:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                devices.Programs().apply(job.plan.devices)
                os.write(writer, b"done")
            finally:
                os._exit(0)
        os.close(writer)
        assert os.read(reader, 4) == b"done"
        os.close(reader)
        os.waitpid(pid, 0)
        assert inside(job, folder, [path])[path.name] == errno.EPERM


def test_rules_of_a_cgroup_above_hold_beside_the_jobs(driver, folder):
    """As systemd sets some for a service or a session: what both allow is open."""
    paths = [node_of(folder, device) for device in (LOOP5, LOOP6, CONTROL)]
    with Job(driver, name("nested"), Limits(devices=(*BASE, LOOP5, LOOP6))) as job:
        programs = devices.Programs()
        programs.apply(job.plan.devices)
        if not job.plan.devices.program:
            pytest.skip("v1 lets no cgroup allow what the one above does not: another test's")
        below = Path(job.plan.devices.directory, "below")
        below.mkdir()
        programs.apply(devices.v2(str(below), (*BASE, LOOP6, CONTROL)))
        told = folder / "told"

        def payload() -> None:
            (below / "cgroup.procs").write_text("0")
            (folder / "writing").write_text(json.dumps([tried(path) for path in paths]))
            os.rename(folder / "writing", told)

        job.spawn(payload)
        assert within(10, told.exists)
    assert json.loads(told.read_text()) == [errno.EPERM, 0, errno.EPERM]


def test_rules_of_one_job_are_not_those_of_another(driver, folder):
    with (
        Job(driver, name("five"), Limits(devices=(*BASE, LOOP5))) as five,
        Job(driver, name("six"), Limits(devices=(*BASE, LOOP6))) as six,
    ):
        programs = devices.Programs()
        found = []
        for job, place in ((five, folder / "5"), (six, folder / "6")):
            programs.apply(job.plan.devices)
            place.mkdir()
            found.append(inside(job, place, [node_of(folder, LOOP5), node_of(folder, LOOP6)]))
    assert [(one["b-7-5"], one["b-7-6"]) for one in found] == [(0, errno.EPERM), (errno.EPERM, 0)]


def test_a_job_without_rules_has_no_directory_for_them(driver):
    plan = driver.plan("x", Limits(pids=5))
    assert plan.devices == DevicePlan()
    assert not [path for path in plan.directories if path.startswith(f"{V1_DEVICES}/")]


@pytest.mark.skipif(not V1_DEVICES.is_dir(), reason="no v1 devices controller here")
def test_what_a_cgroup_above_denies_is_an_error_that_names_it():
    """Fail closed: a job that is to have a device does not start without it."""
    above = V1_DEVICES / name("above")
    below = above / "job"
    below.mkdir(parents=True)
    try:
        (above / "devices.deny").write_text("b 7:5 rw")
        plan = devices.v1(str(below), (*BASE, LOOP5))
        with pytest.raises(StepError) as raised:
            devices.Programs().apply(plan)
        assert (raised.value.step, raised.value.errno) == ("device rules", errno.EPERM)
        assert raised.value.path == f"{below}/devices.allow"
        assert f"write 'b 7:5 rw': Operation not permitted: a cgroup above denies it - cat {above}" in raised.value.hint
    finally:
        below.rmdir()
        above.rmdir()


def test_a_program_is_loaded_once_for_each_set_of_rules(driver, monkeypatch):
    loaded = []
    load = bpf.load
    monkeypatch.setattr(bpf, "load", lambda *args: loaded.append(args) or load(*args))
    programs = devices.Programs()
    for number in range(4):
        with Job(driver, name(f"again{number}"), Limits(devices=BASE if number % 2 else (*BASE, LOOP5))) as job:
            programs.apply(job.plan.devices)
    assert len(loaded) == (2 if job.plan.devices.program else 0)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSYS, "CONFIG_CGROUP_BPF"), (errno.EINVAL, "CONFIG_CGROUP_BPF"), (errno.EPERM, "root's to set")],
)
def test_a_kernel_without_programs_says_why(monkeypatch, number, words):
    def refuse(*args: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(bpf, "load", refuse)
    assert words in devices.why_no_program()


def test_an_ordinary_user_has_no_programs():
    """For real: in a child without rights."""
    pid = os.fork()
    if pid == 0:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        os._exit(0 if devices.why_no_program() in (devices.ROOTS,) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
