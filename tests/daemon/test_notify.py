"""The command that tells of jobs: whose rights it has, what it gets, and that it holds up nothing."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from batchns.daemon.notify import GRACE, QUEUED, Notifier, Telling, telling_of
from batchns.kernel.cgroups.detect import open_driver
from batchns.kernel.cgroups.interface import Driver
from batchns.model.config import NotifySettings
from batchns.model.job import JobSpec, Notice
from batchns.model.submitter import Submitter
from batchns.supervise.ports import Blocking, threads

pytestmark = pytest.mark.kernel
T = TypeVar("T")
ADA = Submitter(name="ada", uid=54321, gid=54322, groups=(54322, 54323), home="/home/ada")
BOB = Submitter(name="bob", uid=54331, gid=54332, groups=(54332,), home="/home/bob")
RUN = "zztst"
SPEC = JobSpec(name="x$(touch /tmp/pwned)", command=("true",), cwd="/")


@pytest.fixture
def driver() -> Iterator[Driver]:
    found = open_driver()
    found.prepare()
    yield found
    assert not [name for name in found.names() if name.startswith(RUN)]
    found.release()


@pytest.fixture
def box() -> Iterator[Path]:
    """A folder in which everybody may leave something."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o1777)
        yield Path(name)


def alive(pid: str | int, uid: int = ADA.uid) -> bool:
    """Whether it runs, as this user: not that its parent has yet to be told of its end."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return f"\nUid:\t{uid}\t" in status and "\nState:\tZ" not in status


def telling(script: str, owner: Submitter = ADA, *, limit: float = 10, row: bytes = b"{}") -> Telling:
    settings = NotifySettings(command=("/bin/sh", "-c", script), on=(Notice.ENDED,), time_limit=limit)
    found = telling_of(settings, Notice.FAILED, SPEC, owner, "7", row)
    assert found
    return found


def tell(driver: Driver | None, *tellings: Telling, blocking: Blocking | None = None) -> Notifier:
    """Post them, and wait until they were told."""
    notifier = Notifier(blocking or threads(), driver, RUN)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notifier.run)
            for one in tellings:
                notifier.post(one)
            with trio.fail_after(30):
                while notifier.done + notifier.dropped < len(tellings):
                    await trio.sleep(0.02)
            nursery.cancel_scope.cancel()

    trio.run(main)
    return notifier


@pytest.mark.parametrize("owner", [ADA, BOB], ids=["ada", "bob"])
def test_it_has_its_owners_rights_and_nothing_of_roots(driver: Driver, box: Path, owner: Submitter) -> None:
    script = f"""
    cat /proc/self/status > {box}/status
    tr '\\0' '\\n' < /proc/self/environ > {box}/environ
    cat > {box}/stdin
    ls -l /proc/self/fd > {box}/fds
    cat /proc/self/oom_score_adj > {box}/score
    cat /proc/self/limits > {box}/limits
    cat /proc/self/cgroup > {box}/cgroup
    pwd > {box}/pwd; umask >> {box}/pwd; cat /proc/self/stat >> {box}/pwd
    """
    os.environ["SECRET"] = "of the daemon's"
    left = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(left, True)
    try:
        assert tell(driver, telling(script, owner, row=b'{"id": "7"}')).failed == 0
    finally:
        os.close(left)
        del os.environ["SECRET"]
    status = dict(line.split(":\t", 1) for line in (box / "status").read_text().splitlines())
    assert status["Uid"].split() == [str(owner.uid)] * 4 and status["Gid"].split() == [str(owner.gid)] * 4
    assert [int(group) for group in status["Groups"].split()] == sorted(owner.groups)
    assert {status[f"Cap{which}"] for which in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
    environ = dict(line.split("=", 1) for line in (box / "environ").read_text().splitlines())
    for name in ("PWD", "OLDPWD", "SHLVL", "_"):  # a shell's own
        environ.pop(name, None)
    assert environ.pop("PATH").startswith("/usr/local/sbin:")
    assert environ == {
        "HOME": owner.home,
        "USER": owner.name,
        "LOGNAME": owner.name,
        "BATCHNS_JOB_ID": "7",
        "BATCHNS_EVENT": "failed",
        "BATCHNS_JOB_NAME": SPEC.name,
        "BATCHNS_QUEUE": "normal",
    }
    assert json.loads((box / "stdin").read_bytes()) == {"id": "7"}
    assert "passwd" not in (box / "fds").read_text() and (box / "score").read_text() == "500\n"
    assert "Max open files            1024                 1024" in (box / "limits").read_text()
    assert f"/{RUN}-h0000" in (box / "cgroup").read_text()
    where, mask, stat = (box / "pwd").read_text().splitlines()
    assert where == "/" and int(mask, 8) == 0o077
    session, own = stat.split()[5], os.getsid(0)
    assert int(session) != own and stat.split()[6] == "0"  # and no terminal
    assert not Path("/tmp/pwned").exists()


def test_it_has_no_key_of_roots(driver: Driver, box: Path) -> None:
    """A key of the daemon's session keyring is found by a process that has it, and not by the command."""
    libc = ctypes.CDLL(None, use_errno=True)
    add, request = {"x86_64": (248, 249), "aarch64": (217, 218)}[os.uname().machine]

    def add_key() -> int:  # to the session keyring of the calling thread
        return int(libc.syscall(add, b"user", b"batchns-test-key", b"secret", 6, -3))

    if add_key() < 0:
        pytest.skip("keys cannot be made here")
    program = f"import ctypes; print(ctypes.CDLL(None).syscall({request}, b'user', b'batchns-test-key', None, 0))"
    command = f'/usr/bin/python3 -c "{program}"'
    outside = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True)
    assert int(outside.stdout) > 0
    in_threads = threads()

    async def blocking(function: Callable[[], T], *, late: Callable[[T], None] | None = None) -> T:
        return await in_threads(lambda: (add_key(), function())[1], late=late)

    assert tell(driver, telling(f"{command} > {box}/found"), blocking=blocking).failed == 0
    assert int((box / "found").read_text()) == -1


def test_a_job_may_ask_for_less(box: Path) -> None:
    settings = NotifySettings(command=("/bin/true",), on=(Notice.ENDED, Notice.STARTED))
    for wanted, told in (
        (None, [Notice.STARTED, Notice.ENDED, Notice.FAILED]),
        ((Notice.FAILED, Notice.FROZEN), [Notice.FAILED]),
        ((), []),
    ):
        spec = JobSpec(name="x", command=("true",), cwd="/", notify=wanted)
        assert [one for one in Notice if telling_of(settings, one, spec, ADA, "7", b"")] == told
    assert telling_of(NotifySettings(), Notice.ENDED, SPEC, ADA, "7", b"") is None


def test_one_that_hangs_is_ended_and_so_is_what_it_has_forked(driver: Driver, box: Path) -> None:
    script = f"trap '' TERM; (setsid sh -c 'echo $$ > {box}/pid; sleep 100' &) ; sleep 0.3; cat {box}/pid; sleep 100"
    began = time.monotonic()
    notifier = tell(driver, telling(script, limit=1))
    assert 1 < time.monotonic() - began < 15
    assert notifier.failed == 1 and "did not end within 1s" in notifier.troubles()[0]
    assert not alive(int((box / "pid").read_text()))


def test_sigterm_comes_first_and_what_does_not_heed_it_is_killed(driver: Driver, box: Path) -> None:
    (box / "deaf").write_text("trap '' TERM; echo $$ > $1; while :; do sleep 0.1; done")
    script = f"""
    trap 'date +%s.%N > {box}/told' TERM
    sh {box}/deaf {box}/pid & setsid sh {box}/deaf {box}/other &
    while :; do sleep 0.1; done
    """
    began = time.time()
    notifier = tell(driver, telling(script, limit=1))
    ended = time.time()
    told = float((box / "told").read_text())
    assert 1 <= told - began < 2.5 and GRACE - 0.5 < ended - told < GRACE + 5
    assert notifier.failed == 1 and not notifier.stuck
    for name in ("pid", "other"):
        assert not alive(int((box / name).read_text()))


def test_one_that_heeds_sigterm_is_not_waited_for(driver: Driver, box: Path) -> None:
    began = time.monotonic()
    script = f"trap 'touch {box}/told; exit' TERM; while :; do sleep 0.1; done"
    assert tell(driver, telling(script, limit=1)).failed == 1
    assert time.monotonic() - began < 1 + GRACE and (box / "told").exists()


def test_one_that_ends_leaves_nothing_behind(driver: Driver, box: Path) -> None:
    script = f"(setsid sh -c 'echo $$ > {box}/pid; exec sleep 100' &); while ! [ -s {box}/pid ]; do :; done"
    assert tell(driver, telling(script)).failed == 0
    assert not alive(int((box / "pid").read_text()))


def test_a_fork_bomb_stays_in_its_cgroup(driver: Driver, box: Path) -> None:
    most = 0

    async def main() -> None:
        nonlocal most
        notifier = Notifier(threads(), driver, RUN)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notifier.run)
            notifier.post(telling("(while :; do sleep 100 & done); while :; do :; done", limit=2))
            while not notifier.done:
                most = max(most, sum(map(alive, os.listdir("/proc"))))
                await trio.sleep(0.05)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert 10 < most <= 64
    assert not [pid for pid in os.listdir("/proc") if alive(pid)]


def test_a_flood_is_bounded_and_another_user_is_told_all_the_same(driver: Driver, box: Path) -> None:
    notifier = Notifier(threads(), driver, RUN)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notifier.run)
            began = time.perf_counter()
            for number in range(10_000):
                notifier.post(telling(f"echo {number} >> {box}/flood"))
            notifier.post(telling(f"touch {box}/bob", BOB))
            assert time.perf_counter() - began < 5
            assert notifier.dropped == 10_000 - QUEUED
            slowest = 0.0
            while notifier.done <= QUEUED:
                before = time.perf_counter()
                await trio.sleep(0.01)
                slowest = max(slowest, time.perf_counter() - before)
                if notifier.done >= 10:
                    assert (box / "bob").exists()
            assert slowest < 5
            nursery.cancel_scope.cancel()

    trio.run(main)
    told = sorted(int(line) for line in (box / "flood").read_text().split())
    assert told == list(range(10_000 - QUEUED, 10_000))
    assert "9900 events were not told" in notifier.troubles()[0]


@pytest.mark.long
def test_one_users_that_hang_leave_room_for_anothers(driver: Driver, box: Path) -> None:
    hanging = [telling("sleep 100", limit=5) for _ in range(4)]
    began = time.monotonic()
    tell(driver, *hanging[:4], telling(f"cat /proc/uptime > {box}/bob", BOB))
    assert time.monotonic() - began > 9  # two at a time
    told = float((box / "bob").read_text().split()[0])
    assert time.clock_gettime(time.CLOCK_BOOTTIME) - told > 6


def test_one_that_cannot_be_run_is_told_of(driver: Driver) -> None:
    settings = NotifySettings(command=("/nowhere/tell",))
    one = telling_of(settings, Notice.ENDED, SPEC, ADA, "7", b"")
    assert one
    assert "job 7: /nowhere/tell ended with 127" in tell(driver, one).troubles()[0]


def test_what_a_killed_daemon_left_is_ended_by_the_next(driver: Driver, box: Path) -> None:
    from batchns.kernel.cgroups import actions
    from batchns.kernel.cgroups.interface import Limits

    plan = driver.plan(f"{RUN}-h0007", Limits(pids=5))
    actions.apply(plan)
    with subprocess.Popen(("/bin/sh", "-c", "trap '' TERM HUP; while :; do sleep 1; done")) as left:
        for directory in plan.directories:
            Path(directory, "cgroup.procs").write_text(str(left.pid))
        assert f"{RUN}-h0007" in driver.names()
        assert tell(driver, telling("true")).troubles() == ()
        assert f"{RUN}-h0007" not in driver.names()
        assert left.wait(5) == -signal.SIGKILL


class Failing:
    """A driver of which one method fails."""

    def __init__(self, driver: Driver, method: str, error: OSError | None) -> None:
        self._driver = driver
        self._method = method
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return self._fail if name == self._method else getattr(self._driver, name)

    def _fail(self, *arguments: Any) -> bool:
        if self._error is not None:
            raise self._error
        self._driver.kill(*arguments)
        return False


@pytest.mark.parametrize(
    ("method", "error", "text"),
    [
        ("kill", None, "it was not empty within 5s"),
        ("kill", OSError(errno.EIO, "Input/output error"), "Input/output error"),
        ("remove", OSError(errno.EBUSY, "Device or resource busy"), "Device or resource busy"),
        ("names", OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
    ],
)
def test_a_cgroup_that_is_left_is_told_of_and_the_next_command_runs(
    driver: Driver, box: Path, method: str, error: OSError | None, text: str
) -> None:
    failing: Any = Failing(driver, method, error)
    notifier = tell(failing, telling("true"), telling(f"touch {box}/next"))
    assert (notifier.failed, (box / "next").exists()) == (0, True)
    (trouble,) = notifier.troubles()
    assert trouble.startswith("notify: cgroups were left") and text in trouble
    for name in driver.names():
        if name.startswith(RUN):
            driver.remove(name)


def test_one_that_cannot_be_watched_is_not_run_and_another_is(
    driver: Driver, box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.pidfd_open

    def none_left(pid: int) -> int:
        monkeypatch.setattr(os, "pidfd_open", opened)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", none_left)
    notifier = tell(driver, telling(f"touch {box}/first"), telling(f"touch {box}/next"))
    assert "the command failed 1 times" in notifier.troubles()[0] and "Too many open files" in notifier.troubles()[0]
    assert len(os.listdir(box)) == 1  # they were run side by side


def test_without_cgroups_its_process_group_is_what_ends(box: Path) -> None:
    notifier = tell(None, telling(f"sleep 100 & echo $! > {box}/pid; wait", limit=0.5))
    assert notifier.failed == 1
    assert not alive(int((box / "pid").read_text()))
