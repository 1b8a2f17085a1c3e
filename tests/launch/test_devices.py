"""Devices of jobs, by what their commands can open: with nodes of their own, under the rules of their cgroups."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batchns.errors import StepError
from batchns.kernel.cgroups.detect import open_driver
from batchns.kernel.cgroups.interface import Device, Driver, Limits, Write
from batchns.launch import sandbox
from batchns.launch.plan import Mount, Plan
from batchns.model.config_table import SANDBOX_DEV
from batchns.model.job import Isolation
from batchns.supervise.devices import BASE

from .conftest import in_launcher, make_plan, run_plan
from .test_enter import beside, enter

pytestmark = pytest.mark.kernel

LOOPS = ("unit/five b 7 5", "unit/six b 7 6")  # both nodes, of which only the first is in the rules
TRY = (
    "for node in null zero full random urandom unit/five unit/six; do\n"
    "  if (exec 3<>/dev/$node) 2>/dev/null; then echo $node; fi\n"
    "done\n"
    "(exec 3<>/dev/unit/six) 2>&1 | grep -o 'Operation not permitted'"
)
OPENED = "null\nzero\nfull\nrandom\nurandom\nunit/five\nOperation not permitted\n"


@pytest.fixture
def driver() -> Iterator[Driver]:
    found = open_driver()
    found.prepare()
    why = dict(found.plan("probe", Limits(devices=())).unavailable)
    if why:
        found.release()
        pytest.skip(why["devices"])
    yield found
    found.release()


def ruled(driver: Driver, *rules: Device, nodes: tuple[str, ...] = LOOPS) -> Callable[[Plan], Plan]:
    """A plan whose job has these `nodes`, but may open BASE and `rules` only."""

    def change(plan: Plan) -> Plan:
        cgroup = driver.plan(plan.attempt, Limits(devices=(*BASE, *rules)))
        own = (Mount("nodes", "/dev", options=nodes),)
        dev = next((place for place, mount in enumerate(plan.mounts) if mount.kind == "dev"), -1) + 1
        return plan._replace(cgroup=cgroup, mounts=(*plan.mounts[:dev], *own, *plan.mounts[dev:]))

    return change


def test_a_job_opens_its_own_units_and_no_other(run, driver):
    """The other one's node is there, and open to all by its mode: the rules keep it shut, and say EPERM."""
    done = run(script=f"{TRY}\nstat -c %a /dev/unit/six", change=ruled(driver, Device("b", 7, 5)))
    assert done.output == f"{OPENED}666\n"


def test_without_rules_the_other_one_would_open(run):
    """What the test above rests upon."""

    def change(plan: Plan) -> Plan:
        return plan._replace(mounts=(Mount("nodes", "/dev", options=LOOPS), *plan.mounts))

    assert "unit/six" in run(script=TRY, change=change).output


def test_what_enters_a_job_is_under_its_rules(folder, driver):
    plan = make_plan(folder, command=("sleep", "60"), change=ruled(driver, Device("b", 7, 5)))

    async def look(launcher, pid):
        return await enter(launcher, plan, "/bin/sh", "-c", TRY)

    text, left = beside(plan, look)
    assert (text, left.exit_code) == (OPENED, 0)


def test_what_enters_with_a_terminal_has_one(folder, driver):
    """It is made by the enterer, under the job's rules."""
    plan = make_plan(folder, command=("sleep", "60"), change=ruled(driver))

    async def look(launcher, pid):
        script = "test -t 0 && exec 3<>/dev/tty 4<>$(tty)"
        entered = await launcher.enter(plan.attempt, ("/bin/sh", "-c", script), descriptors=None)
        try:
            return (await entered.wait()).exit_code
        finally:
            os.close(entered.terminal)

    assert beside(plan, look) == 0


def test_a_job_has_terminals(run, driver):
    script = (
        "#!/usr/bin/python3\nimport os\na, b = os.openpty()\nos.close(os.open(os.ttyname(b), os.O_RDWR))\nprint('ok')"
    )
    assert run(script=script, change=ruled(driver)).output == "ok\n"


def test_dev_stays_read_only(run, driver):
    """It is opened for a moment, for the nodes."""
    done = run(script="touch /dev/x; mknod /dev/y c 1 3; ls /dev/unit", change=ruled(driver))
    assert "touch: cannot touch '/dev/x': Read-only file system" in done.output
    assert done.output.endswith("five\nsix\n")
    assert "/dev/y" in done.output


@pytest.mark.skipif(not shutil.which("mksquashfs") or not shutil.which("busybox"), reason="squashfs-tools, busybox")
def test_an_image_is_attached_to_a_device_that_its_job_may_not_open(driver):
    """The rules come after what builds the sandbox: loop-control and a loop device are opened for it, in its cgroup."""
    if "squashfs" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has no squashfs")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "batchns-test", "/srv"], check=True)
    try:
        system, work = Path("/srv/system"), Path("/srv/work")
        (system / "bin").mkdir(parents=True)
        work.mkdir()
        shutil.copy(shutil.which("busybox") or "", system / "bin/sh")
        (system / "here").write_text("yes")
        subprocess.run(["mksquashfs", system, "/srv/image", "-comp", "zstd", "-quiet", "-no-progress"], check=True)
        plan = make_plan(
            work,
            script="cat /here; (exec 3</dev/unit/six) 2>/dev/null || echo shut",
            isolation=Isolation(rootfs="/srv/image"),
            change=ruled(driver),
        )
        assert in_launcher(lambda launcher: run_plan(launcher, plan)).output == "yesshut\n"
    finally:
        subprocess.run(["umount", "-l", "/srv"], check=True)


def test_rules_that_cannot_be_applied_stop_the_job(folder, driver):
    """Nothing of it runs, and nothing of it stays."""

    def change(plan: Plan) -> Plan:
        plan = ruled(driver)(plan)
        wrong = plan.cgroup.devices
        if wrong.program:
            wrong = wrong._replace(program="00" * 8)  # no instruction
        else:
            wrong = wrong._replace(writes=(*wrong.writes, Write(wrong.writes[-1].path, "no rule", "devices")))
        return plan._replace(cgroup=plan.cgroup._replace(devices=wrong))

    plan = make_plan(folder, command=("touch", f"{folder}/ran"), change=change)

    async def launch(launcher):
        with pytest.raises(StepError) as raised:
            await run_plan(launcher, plan)
        return raised.value

    assert in_launcher(launch).step == "device rules"
    assert not (folder / "ran").exists()
    assert not [path for path in plan.cgroup.directories if os.path.exists(path)]


def test_what_the_sandbox_makes_in_dev_is_no_unit(run):
    """batchns.toml may not name a node that is there already."""
    names = set(run("ls", "/dev").output.split())
    assert names == SANDBOX_DEV
    assert {name for name, _, _ in sandbox.DEVICES} <= SANDBOX_DEV
