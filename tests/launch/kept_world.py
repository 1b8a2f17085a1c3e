"""A kept launcher with real cgroups and links, which is killed; and what must hold for each attempt afterwards."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

from batchns.errors import StepError
from batchns.kernel import syscalls
from batchns.kernel.cgroups.detect import open_driver
from batchns.kernel.cgroups.interface import Driver, Limits
from batchns.kernel.network.addresses import network_plan
from batchns.launch.keeper import Interrupted, KeptLauncher, keep_launcher
from batchns.launch.plan import Plan
from batchns.supervise.devices import BASE

from .conftest import make_plan

EXIT_CODE = 7
RUNS_ONCE = f"echo ran >> ran-$ATTEMPT; exit {EXIT_CODE}"
OUTLASTS = f"echo ran >> ran-$ATTEMPT; sleep 0.3; exit {EXIT_CODE}"  # longer than it takes to start a launcher
WAITS = f"echo ran >> ran-$ATTEMPT; until test -e go-$ATTEMPT; do sleep 0.01; done; exit {EXIT_CODE}"
_PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h
_PATIENCE = 20.0  # seconds
_OF_A_LAUNCHER = ("batchns-init", "batchns-zygote", "batchns-enter")
_addresses = itertools.count()


@define(eq=False)
class World:
    """`folder`: the jobs' working folder. `base`: the launcher's, records, and whatever else a test has."""

    base: Path
    driver: Driver
    folder: Path = field(init=False)
    plans: dict[str, Plan] = field(factory=dict)
    outcomes: dict[str, object] = field(factory=dict)  # an exit code, or the error

    def __attrs_post_init__(self) -> None:
        self.folder = self.base / "work"
        self.folder.mkdir(mode=0o700)

    @property
    def launcher(self) -> Path:
        return self.base / "launcher"

    def plan(self, script: str = RUNS_ONCE, *, network: str = "private", **limits: Any) -> Plan:
        """With limits and a link of its own."""
        plan = make_plan(self.folder, script=f"ATTEMPT={{}}\n{script}")
        given = {"cpu_shares": 512, "memory": 64 << 20, "pids": 32, "devices": BASE, **limits}
        number = next(_addresses)
        address = f"10.213.{200 + number // 250 % 50}.{1 + number % 250}"
        plan = plan._replace(
            cgroup=self.driver.plan(plan.attempt, Limits(**given)),
            network=network_plan(network, plan.attempt, address, 50_000_000, 50_000_000, 1500),
            command=plan.command._replace(script=plan.command.script.replace("{}", plan.attempt)),
        )
        self.plans[plan.attempt] = plan
        return plan

    async def run(self, launcher: KeptLauncher, plan: Plan, *, forget: bool = True) -> None:
        """Launch it and wait for its end: one of `outcomes`."""
        null = os.open(os.devnull, os.O_RDWR)
        try:
            await launcher.launch(plan, null, null, null)
            ended = await launcher.wait(plan.attempt)
            self.outcomes[plan.attempt] = ended.exit_code
            assert ended.left == (), ended
        except (Interrupted, StepError) as error:
            self.outcomes[plan.attempt] = error
        finally:
            os.close(null)
        if forget:
            await launcher.forget(plan.attempt)

    def ran(self, attempt: str) -> int:
        """How often its command ran."""
        path = self.folder / f"ran-{attempt}"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def go(self, attempt: str) -> None:
        (self.folder / f"go-{attempt}").touch()

    def check(self) -> None:
        """Every attempt ran at most once, and its outcome says what was; nothing is left of any."""
        assert [complaint for attempt in self.plans if (complaint := self.complaint(attempt))] == []
        left = leftovers(self)
        assert left == [], left

    def complaint(self, attempt: str) -> str:
        ran, outcome = self.ran(attempt), self.outcomes.get(attempt)
        if ran > 1:
            return f"{attempt} ran {ran} times"
        if outcome == EXIT_CODE:
            return "" if ran else f"{attempt} has ended, and did not run"
        if isinstance(outcome, Interrupted):
            return "" if ran <= outcome.may_have_run else f"{attempt}: {outcome} - it did"
        return f"{attempt}: {outcome!r}, and it ran {ran} times"


def leftovers(world: World) -> list[str]:
    """Of all the plans of this world, once nothing runs; the kernel is given a moment for what it does by itself."""
    end = time.monotonic() + _PATIENCE
    while left := [
        *(path for plan in world.plans.values() for path in plan.cgroup.directories if os.path.exists(path)),
        *(f"link {name}" for name in _links() & {plan.network.host_name for plan in world.plans.values()}),
        *map(str, (world.launcher / "attempts").glob("*")),
        *map(str, (world.base / "records").glob("*")),
        *(f"process {pid}" for pid, name in _children() if name in _OF_A_LAUNCHER and _lives(pid)),
    ]:
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    return left


def _links() -> set[str]:
    return {line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]}


@contextlib.contextmanager
def world(base: Path) -> Iterator[World]:
    """Everything that was started in it is ended and reaped when it is left: orphans come to this process."""
    driver = open_driver()
    driver.prepare()
    syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    made = World(base, driver)
    try:
        yield made
    finally:
        end_all()
        syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 0)
        for name in made.plans:
            driver.kill(name, 5)
            driver.remove(name)
        driver.release()


def end_all() -> None:
    """Kill and reap launchers, and the inits that have come to this process; a launcher's zygote goes with it."""
    for _ in range(20):
        ours = [(pid, comm) for pid, comm in _children() if comm in ("batchns-launch", *_OF_A_LAUNCHER)]
        for pid, _ in ours:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        if not ours:
            return
        time.sleep(0.01)


def _children() -> list[tuple[int, str]]:
    found = []
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.append((int(pid), Path(f"/proc/{pid}/comm").read_text().strip()))
    return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def launcher_of(world: World) -> int:
    """The pid of the process that holds the lock, 0 for none. proc_locks(5) says who took it: the client."""
    lock = (world.launcher / "lock").resolve()
    for pid in Path("/proc").iterdir():
        if pid.name.isdecimal() and int(pid.name) != os.getpid():
            with contextlib.suppress(OSError):
                if (pid / "comm").read_text().strip() == "batchns-launch" and os.readlink(pid / "fd/3") == str(lock):
                    return int(pid.name)
    return 0


def kill_launcher(world: World) -> None:
    if pid := launcher_of(world):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def with_launcher(world: World, work: Callable[[KeptLauncher], Any], timeout: float = 60) -> Any:
    async def bounded() -> Any:
        with trio.fail_after(timeout):
            async with keep_launcher(world.launcher) as launcher:
                return await work(launcher)

    return trio.run(bounded)
