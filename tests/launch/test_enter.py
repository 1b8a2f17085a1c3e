"""Processes that join a running job: where they are, what they may, and how they and the job end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from batchns.errors import StepError
from batchns.kernel.cgroups.detect import open_driver
from batchns.kernel.cgroups.interface import Limits
from batchns.kernel.network.types import NetworkPlan
from batchns.launch.client import Launcher
from batchns.launch.entries import HANG_UP
from batchns.launch.plan import Plan
from batchns.model.job import Identity, Isolation
from batchns.model.submitter import Submitter

from .conftest import in_launcher, make_plan

pytestmark = pytest.mark.kernel

ADA = Submitter(name="ada", uid=31001, gid=31001, groups=(31001, 31500))
STATUS = (
    "grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/self/status; cat /proc/self/oom_score_adj; ulimit -c"
)
WHERE = (
    "for i in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$i; done; cat /proc/self/cgroup; umask; pwd"
)


async def start(launcher: Launcher, plan: Plan) -> int:
    null = os.open("/dev/null", os.O_RDWR)
    try:
        return (await launcher.launch(plan, null, null, null)).pid
    finally:
        os.close(null)


async def begin(launcher: Launcher, plan: Plan, *argv: str, **more: Any) -> Any:
    """One that prints nowhere."""
    null = os.open("/dev/null", os.O_RDWR)
    try:
        return await launcher.enter(plan.attempt, argv, descriptors=(null, null, null), **more)
    finally:
        os.close(null)


async def enter(launcher: Launcher, plan: Plan, *argv: str, **more: Any) -> tuple[str, Any]:
    """What it printed, and how it ended."""
    told = os.memfd_create("told")
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        entered = await launcher.enter(plan.attempt, argv, descriptors=(null, told, told), **more)
        left = await entered.wait()
        return os.pread(told, 1 << 20, 0).decode(errors="replace"), left
    finally:
        os.close(null)
        os.close(told)


def beside(plan: Plan, work: Callable[[Launcher, int], Awaitable[Any]]) -> Any:
    """`work` beside a running job, which is ended then."""

    async def run(launcher: Launcher) -> Any:
        pid = await start(launcher, plan)
        try:
            return await work(launcher, pid)
        finally:
            await launcher.signal(plan.attempt, signal.SIGKILL)
            ended = await launcher.wait(plan.attempt)
            assert ended.left == ()

    return in_launcher(run)


async def until(true: Callable[[], Any], seconds: float = 10) -> None:
    with trio.fail_after(seconds):
        while not true():
            await trio.sleep(0.01)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def names_below(pid: int | str) -> list[str]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sorted(Path(f"/proc/{child}/comm").read_text().strip() for child in children)


def sleeping(folder: Path, **more: Any) -> Plan:
    return make_plan(folder, command=("sleep", "60"), **more)


def test_in_a_job_of_the_hosts_network_it_is_there_too(folder):
    def there(plan: Plan) -> Plan:
        return plan._replace(network=NetworkPlan("host"), base=plan.base._replace(own_network=False))

    async def work(launcher: Launcher, pid: int) -> None:
        told, left = await enter(launcher, plan, "readlink", "/proc/self/ns/net")
        assert (told.strip(), left.exit_code) == (os.readlink("/proc/self/ns/net"), 0)

    plan = sleeping(folder, change=there)
    beside(plan, work)


@pytest.fixture
def ours():
    """A folder that can be id-mapped, and that every user may enter."""
    mount = ["mount", "-t", "tmpfs", "-o", "mode=755", "batchns-test", "/srv"]
    assert os.spawnvp(os.P_WAIT, "mount", mount) == 0
    try:
        folder = Path("/srv/enter")
        folder.mkdir()
        yield folder
    finally:
        os.spawnvp(os.P_WAIT, "umount", ["umount", "-l", "/srv"])


@pytest.mark.parametrize("identity", [None, *Identity])
def test_it_is_where_the_command_is_and_may_what_the_command_may(ours, identity):
    """The same text from the job's own command and from one that has entered. None: root's job, private."""
    more = {"submitter": ADA, "isolation": Isolation(identity=identity)} if identity else {}
    os.chown(ours, *(ADA.uid, ADA.gid) if identity else (0, 0))
    script = f"{STATUS}; {WHERE}"
    plan = make_plan(ours, script=f"({script}) > own; touch ready; sleep 60", **more)

    async def both(launcher, pid):
        while not (ours / "ready").exists():
            await trio.sleep(0.01)
        return await enter(launcher, plan, "/bin/sh", "-c", script)

    text, left = beside(plan, both)
    assert (left.exit_code, left.signal) == (0, None)
    assert text == (ours / "own").read_text()
    assert "NoNewPrivs:\t1\nSeccomp:\t2" in text


def test_its_end_is_told_and_the_job_goes_on(folder):
    plan = sleeping(folder)

    async def ends(launcher, pid):
        found = [(await enter(launcher, plan, "/bin/sh", "-c", script))[1] for script in ("exit 7", "kill -9 $$")]
        assert Path(f"/proc/{pid}").exists()
        return [(left.exit_code, left.signal) for left in found]

    assert beside(plan, ends) == [(7, None), (None, 9)]


def test_environment_folder_and_descriptors(folder):
    plan = sleeping(folder, env={"BOTH": "a"})

    async def look(launcher, pid):
        (folder / "sub").mkdir()
        script = "echo $MINE $BOTH; pwd; ls /proc/self/fd | wc -l"
        env = {"MINE": "new", "BOTH": "b"}
        return await enter(launcher, plan, "/bin/sh", "-c", script, env=env, cwd=f"{folder}/sub")

    text, _ = beside(plan, look)
    assert text == f"new b\n{folder}/sub\n4\n"  # three, and the one that ls lists them with


@pytest.mark.parametrize("submitter", [None, ADA])
def test_a_terminal_of_the_jobs_own_controls_it(ours, submitter):
    """Its name is inside, it can be opened by that, its size is told and changes, and ^C is a signal."""
    os.chown(ours, *(ADA.uid, ADA.gid) if submitter else (0, 0))
    plan = sleeping(ours, **({"submitter": ADA} if submitter else {}))

    async def talk(launcher, pid):
        program = (
            "trap 'stty size' WINCH; tty; stty size; echo again > $(tty); : < /dev/tty && echo ready; "
            "while true; do sleep 0.05; done"
        )
        entered = await launcher.enter(plan.attempt, ("/bin/sh", "-c", program), size=(33, 99))
        os.set_blocking(entered.terminal, False)
        seen = b""

        async def until(what: bytes) -> None:
            nonlocal seen
            with trio.fail_after(10):
                while what not in seen:
                    await trio.lowlevel.wait_readable(entered.terminal)
                    seen += os.read(entered.terminal, 1000)

        await until(b"ready")
        entered.resize(44, 111)
        await until(b"44 111")
        os.write(entered.terminal, b"\x03")
        left = await entered.wait()
        os.close(entered.terminal)
        return seen.decode(), left

    text, left = beside(plan, talk)
    assert text.splitlines()[0].startswith("/dev/pts/")
    assert text.splitlines()[1:3] == ["33 99", "again"]
    assert left.signal == signal.SIGINT


def test_the_enterer_is_not_in_reach_of_the_job(folder):
    """It is not in the job's PID namespace, so nobody inside sees, signals or traces it."""
    plan = sleeping(folder)

    async def look(launcher, pid):
        return (await enter(launcher, plan, "/bin/sh", "-c", "cat /proc/[0-9]*/comm; exec cat /proc/self/stat"))[0]

    text = beside(plan, look)
    assert "batchns-enter" not in text
    assert text.splitlines()[-1].split()[3] == "0", "its parent is outside"


def test_the_end_of_the_job_is_its_end(folder):
    plan = sleeping(folder)

    async def work(launcher):
        await start(launcher, plan)
        entered = await begin(launcher, plan, "/bin/sh", "-c", "trap '' TERM HUP INT; (sleep 60 &); sleep 60")
        await launcher.signal(plan.attempt, signal.SIGKILL)
        ended = await launcher.wait(plan.attempt)
        left = await entered.wait()
        return ended.left, left.exit_code, Path(f"/proc/{entered.pid}").exists()

    assert in_launcher(work) == ((), None, False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_signals_reach_it_and_its_group(folder, number):
    plan = sleeping(folder)

    async def work(launcher, pid):
        script = "sleep 60 & echo $! > child; exec sleep 60"
        entered = await begin(launcher, plan, "/bin/sh", "-c", script)
        await until(lambda: (folder / "child").exists() and (folder / "child").read_text())
        await entered.signal(number)
        assert (await entered.wait()).signal == number
        child = (folder / "child").read_text().strip()
        told, _ = await enter(launcher, plan, "/bin/sh", "-c", f"grep State /proc/{child}/status || echo gone")
        return told, Path(f"/proc/{pid}").exists()

    told, goes_on = beside(plan, work)
    assert "gone" in told or "Z (zombie)" in told
    assert goes_on


def test_one_that_is_stopped_goes_on_when_it_is_told_to(folder):
    plan = sleeping(folder)

    async def work(launcher, pid):
        entered = await begin(launcher, plan, "sleep", "60")
        for number, state in ((signal.SIGSTOP, "T"), (signal.SIGCONT, "S")):
            await entered.signal(number)
            await until(lambda state=state: state_of(entered.pid) == state)
        await entered.signal(signal.SIGTERM)
        return (await entered.wait()).signal

    assert beside(plan, work) == signal.SIGTERM


@pytest.mark.parametrize("stopped", [False, True])
def test_one_that_is_hung_up_may_put_its_things_in_order(folder, stopped):
    plan = sleeping(folder)

    async def work(launcher, pid):
        script = "trap 'exit 5' HUP; touch in; while :; do sleep 0.05; done"
        entered = await begin(launcher, plan, "/bin/sh", "-c", script)
        await until((folder / "in").exists)
        if stopped:
            await entered.signal(signal.SIGSTOP)
            await until(lambda: state_of(entered.pid) == "T")
        await entered.hang_up()
        return (await entered.wait()).exit_code

    assert beside(plan, work) == 5


def test_one_that_does_not_heed_it_is_killed_with_its_group_and_the_job_goes_on(folder):
    plan = sleeping(folder)

    async def work(launcher, pid):
        script = "trap '' HUP; sleep 60 & echo $! > child; touch in; wait; sleep 60"
        entered = await begin(launcher, plan, "/bin/sh", "-c", script)
        await until((folder / "in").exists)
        began = time.monotonic()
        for _ in range(3):
            await entered.hang_up()
        assert (await entered.wait()).signal == signal.SIGKILL
        took = time.monotonic() - began
        child = (folder / "child").read_text().strip()
        told, _ = await enter(launcher, plan, "/bin/sh", "-c", f"grep State /proc/{child}/status || echo gone")
        await entered.hang_up()  # it has ended: no error
        return took, told, Path(f"/proc/{pid}").exists()

    took, told, goes_on = beside(plan, work)
    assert HANG_UP <= took < HANG_UP + 2
    assert "gone" in told or "Z (zombie)" in told
    assert goes_on


@pytest.mark.parametrize("size", [None, (24, 80)])
def test_what_begins_after_whoever_asked_was_cancelled_is_hung_up(folder, size):
    plan = sleeping(folder)

    async def work(launcher, pid):
        (other,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        before = len(os.listdir("/proc/self/fd"))
        heard: list[str] = []
        hear = launcher._heard
        launcher._heard = lambda value, fds: (heard.append(value["event"]), hear(value, fds))
        os.kill(int(other), signal.SIGSTOP)
        try:
            with trio.move_on_after(0.2) as scope:
                if size is None:
                    await begin(launcher, plan, "sleep", "60")
                else:
                    await launcher.enter(plan.attempt, ("sleep", "60"), size=size)
            assert scope.cancelled_caught
        finally:
            os.kill(int(other), signal.SIGCONT)
        await until(lambda: heard == ["entered", "left"])
        return len(os.listdir("/proc/self/fd")) - before, Path(f"/proc/{pid}").exists()

    assert beside(plan, work) == (0, True)


def test_what_cannot_be_entered_is_told_and_the_job_goes_on(folder):
    plan = sleeping(folder)

    async def refused(launcher, plan, *argv, **more) -> str:
        with pytest.raises(StepError) as caught:
            await begin(launcher, plan, *argv, **more)
        return str(caught.value)

    async def work(launcher, pid):
        told = [
            await refused(launcher, plan._replace(attempt="none"), "true"),
            await refused(launcher, plan, "no-such-command"),
            await refused(launcher, plan, "true", cwd="/no/such/folder"),
        ]
        assert (await enter(launcher, plan, "true"))[1].exit_code == 0
        return told

    none, command, where = beside(plan, work)
    assert "does not run" in none
    assert "no such command" in command
    assert "/no/such/folder" in where


def test_fifty_of_them_leave_nothing(folder):
    plan = sleeping(folder)

    async def work(launcher, pid):
        (launcher_pid,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        before = len(os.listdir(f"/proc/{launcher_pid}/fd"))
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(enter, launcher, plan, "true")
        return len(os.listdir(f"/proc/{launcher_pid}/fd")) - before, names_below(launcher_pid)

    assert beside(plan, work) == (0, ["batchns-init", "batchns-zygote"])


@pytest.fixture
def driver(tmp_path):
    driver = open_driver(locks=str(tmp_path / "locks"))
    driver.prepare()
    yield driver
    driver.release()


def test_its_memory_is_the_jobs_and_a_frozen_job_is_not_entered(folder, driver):
    plan = sleeping(folder)
    plan = plan._replace(cgroup=driver.plan(plan.attempt, Limits(memory=64 << 20, pids=50)))

    async def work(launcher, pid):
        _, left = await enter(launcher, plan, "python3", "-c", "bytearray(200 << 20)")
        own = Path(f"/proc/{pid}/cgroup").read_text()
        assert driver.freeze(plan.attempt, 5)
        with pytest.raises(StepError, match="frozen"):
            await enter(launcher, plan, "true")
        assert driver.thaw(plan.attempt, 5)
        entered = await begin(launcher, plan, "sleep", "60")
        inside = Path(f"/proc/{entered.pid}/cgroup").read_text()
        began = time.monotonic()
        await trio.to_thread.run_sync(driver.kill, plan.attempt, 5)
        await entered.wait()
        return left, own == inside, time.monotonic() - began

    left, same, took = beside(plan, work)
    assert left.signal == signal.SIGKILL
    assert same
    assert took < 2
