"""A launcher, a cgroup driver and a run folder without a kernel, on a clock that jumps instead of sleeping."""

from __future__ import annotations

import errno
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import trio
import trio.testing
from attrs import define, evolve, field

from batchns.core.node import NodeCapacity
from batchns.errors import HostError, StepError
from batchns.kernel.cgroups.interface import CgroupPlan, Limits, Squeezed
from batchns.kernel.network.types import Counters
from batchns.launch.build import Slot
from batchns.launch.client import Ended, Started
from batchns.launch.plan import Plan
from batchns.model.config import Config
from batchns.model.job import Array, Condition, Dependency, JobSpec, Resources
from batchns.model.lifecycle import State
from batchns.model.result import JobResult, LimitReading, Usage
from batchns.supervise.supervisor import Supervisor
from batchns.supervise.view import JobView

T = TypeVar("T")
GIB = 1 << 30
NO_SUCH_PID = 1 << 30  # above the kernel's largest


@define
class Behaviour:
    """What a command does: run for `seconds` (while not frozen), then exit so."""

    seconds: float = 1.0
    exit_code: int | None = 0
    signal: int | None = None
    oom_kills: int = 0
    launch_seconds: float = 0.0
    launch_error: HostError | None = None
    launch_ends: bool = False  # when it is killed meanwhile
    ignores_sigterm: bool = False
    dies: bool = True  # when it is killed
    reported: bool = True  # the launcher tells of its end
    left: tuple[str, ...] = ()
    unread: str = ""

    def killed_in_launch(self) -> Behaviour:
        """The same, with an init that can be killed."""
        return evolve(self, launch_ends=True)


@define(eq=False)
class Process:
    """One running attempt."""

    behaviour: Behaviour
    frozen: bool = False
    end: Ended | None = None
    changed: trio.Event = field(factory=trio.Event)
    asked: bool = False

    def change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


@define(eq=False)
class Host:
    """The fake kernel that launcher and driver share. `scripts`: job name to behaviour, one per attempt."""

    scripts: Mapping[str, Sequence[Behaviour]]
    processes: dict[str, Process] = field(factory=dict)
    launched: list[tuple[float, str, str]] = field(factory=list)  # (when, job id, attempt)
    signals: list[tuple[float, str, int]] = field(factory=list)
    kills: list[tuple[float, str]] = field(factory=list)
    removed: list[str] = field(factory=list)
    plans: dict[str, Plan] = field(factory=dict)
    dead: trio.Event = field(factory=trio.Event)
    attempts: dict[str, int] = field(factory=dict)
    addresses: list[str] = field(factory=list)  # of launches
    taken: set[str] = field(factory=set)  # addresses that something else has
    killed: dict[str, trio.Event] = field(factory=dict)  # by attempt: killed while it is launched


@define(eq=False)
class FakeLauncher:
    host: Host

    async def launch(self, plan: Plan, stdin: int, stdout: int, stderr: int) -> Started:
        env = dict(plan.command.env)
        name, job_id = env["BATCHNS_JOB_NAME"], env["BATCHNS_JOB_ID"]
        number = self.host.attempts.get(job_id, 0)
        self.host.attempts[job_id] = number + 1
        scripts = self.host.scripts.get(name, [Behaviour()])
        behaviour = scripts[min(number, len(scripts) - 1)]
        self.host.plans[plan.attempt] = plan
        self.host.addresses.append(plan.network.job_address)
        if plan.network.job_address in self.host.taken:
            raise StepError("network: add the route", plan.network.job_address, errno.EEXIST)
        self.host.launched.append((trio.current_time(), job_id, plan.attempt))
        killed = self.host.killed.setdefault(plan.attempt, trio.Event())
        ready = trio.current_time() + behaviour.launch_seconds
        with trio.move_on_at(ready):
            await killed.wait()
        if killed.is_set() and behaviour.launch_ends:
            raise StepError("init", "ended before the command ran", 0)
        await trio.sleep_until(ready)
        if behaviour.launch_error is not None:
            raise behaviour.launch_error
        self.host.processes[plan.attempt] = Process(behaviour)
        return Started(
            attempt=plan.attempt,
            pid=NO_SUCH_PID,
            shapers={"egress": plan.network.egress, "ingress": plan.network.ingress},
        )

    async def wait(self, attempt: str) -> Ended:
        process = self.host.processes[attempt]
        left = process.behaviour.seconds
        while process.end is None and not self.host.dead.is_set():
            begun, stood_still = trio.current_time(), process.frozen
            with trio.move_on_after(float("inf") if stood_still else left) as scope:
                await process.changed.wait()
            left -= 0 if stood_still else trio.current_time() - begun
            if scope.cancelled_caught and process.end is None:
                process.end = self._ended(attempt, process.behaviour.exit_code, process.behaviour.signal)
        if process.end is None:
            raise HostError("the launcher process is gone")
        return process.end

    async def signal(self, attempt: str, signum: int) -> None:
        self.host.signals.append((trio.current_time(), attempt, signum))
        process = self.host.processes[attempt]
        process.asked = True
        obey(self, attempt)

    def _ended(self, attempt: str, exit_code: int | None, signum: int | None) -> Ended:
        behaviour = self.host.processes[attempt].behaviour
        return Ended(
            attempt=attempt,
            exit_code=exit_code,
            signal=signum,
            cgroup_texts={"oom": str(behaviour.oom_kills)},
            network=Counters(11, 22),
            unread=behaviour.unread,
            left=behaviour.left,
        )


def obey(launcher: FakeLauncher, attempt: str) -> None:
    """A process that was asked to end does so once it runs."""
    process = launcher.host.processes[attempt]
    if process.asked and not process.frozen and not process.behaviour.ignores_sigterm:
        process.end = launcher._ended(attempt, None, signal.SIGTERM)
    process.change()


@define(eq=False)
class FakeDriver:
    host: Host
    launcher: FakeLauncher
    mode: str = "v2"
    unavailable: tuple[tuple[str, str], ...] = ()
    not_in_force: tuple[str, ...] = ()  # found only when it runs
    freezes: bool = True
    thaw_failures: int = 0
    move_failures: int = 0  # the CPUs are not to be had
    thawed_on: list[tuple[str, str]] = field(factory=list)  # (attempt, the CPUs that it was moved to before)
    vanished: bool = False  # the cgroups are gone when someone freezes them
    squeezes: bool = True
    squeezed_to: int = GIB
    moves: list[tuple[str, str, str]] = field(factory=list)  # (attempt, CPUs, nodes)
    squeezed: dict[str, int | None] = field(factory=dict)  # by attempt: the limit in force now, where it was changed
    thawed_with: list[int | None] = field(factory=list)  # the limits that squeezed jobs had when they were thawed
    cpu_seconds: float | None = 0.0  # of all jobs

    def prepare(self) -> None: ...

    def bound(self, pids: int) -> None: ...

    def release(self) -> None: ...

    def plan(self, name: str, limits: Limits) -> CgroupPlan:
        return CgroupPlan(directories=(f"/cg/{name}",), unavailable=self.unavailable)

    def readings(self, limits: Limits, plan: CgroupPlan, values: Mapping[str, str | int]) -> dict[str, LimitReading]:
        lost = {**dict.fromkeys(self.not_in_force, "the kernel refused it"), **dict(plan.unavailable)}
        asked = {limit: value for limit, value in limits._asdict().items() if value is not None}
        return {
            limit: LimitReading(None, why=lost[limit]) if limit in lost else LimitReading(value, limit)
            for limit, value in asked.items()
        }

    def usage(self, texts: Mapping[str, str]) -> Usage:
        return Usage(cpu_seconds=0.5, oom_kills=int(texts["oom"]))

    def read_usage(self, name: str) -> Usage:
        raise FileNotFoundError(name)

    def pids(self, name: str) -> list[int]:
        return []

    def freeze(self, name: str, timeout: float) -> bool:
        if self.vanished:
            raise FileNotFoundError(errno.ENOENT, name)
        if self.freezes:
            self.host.processes[name].frozen = True
            self.host.processes[name].change()
        return self.freezes

    def thaw(self, name: str, timeout: float) -> bool:
        if self.thaw_failures:
            self.thaw_failures -= 1
            return False
        self.thawed_on.append((name, next((cpus for moved, cpus, _ in self.moves[::-1] if moved == name), "its own")))
        if name in self.squeezed:
            self.thawed_with.append(self.squeezed[name])
        self.host.processes[name].frozen = False
        obey(self.launcher, name)
        return True

    def kill(self, name: str, timeout: float) -> bool:
        self.host.kills.append((trio.current_time(), name))
        process = self.host.processes.get(name)
        if process is None:
            self.host.killed.setdefault(name, trio.Event()).set()
            return True
        if process.behaviour.dies and process.behaviour.reported and process.end is None:
            process.end = self.launcher._ended(name, None, None)
            process.change()
        return process.behaviour.dies

    def set_cpus(self, name: str, cpus: str, mems: str) -> LimitReading:
        if self.move_failures:
            self.move_failures -= 1
            raise OSError(errno.ENOSPC, "No space left on device", "cpuset.cpus")
        self.moves.append((name, cpus, mems))
        return LimitReading(cpus, "cpuset.cpus")

    def squeeze(self, name: str, timeout: float) -> Squeezed:
        if not (self.squeezes and self.host.processes[name].frozen):
            return Squeezed(None, "the host cannot")
        self.squeezed[name] = self.squeezed_to
        return Squeezed(self.squeezed_to)

    def unsqueeze(self, name: str, memory: int | None) -> None:
        self.squeezed[name] = memory

    def jobs_cpu_seconds(self) -> float | None:
        return self.cpu_seconds

    def remove(self, name: str) -> None:
        self.host.removed.append(name)

    def names(self) -> list[str]:
        return []


@define(eq=False)
class FakeRuns:
    """Slots are counted: after a run, as many must be back as were taken."""

    taken: list[Slot] = field(factory=list)
    most: int = 0
    _next: int = 0

    def job_ids(self, count: int) -> int:
        return 7

    def acquire_slot(self) -> Slot:
        slot = Slot(number=self._next, id_start=1 << 20, address=f"10.213.0.{self._next % 250 + 1}")
        self._next += 1
        self.taken.append(slot)
        self.most = max(self.most, len(self.taken))
        return slot

    def release_slot(self, slot: Slot) -> None:
        self.taken.remove(slot)

    def record_path(self, attempt_name: str) -> str:
        return f"/records/{attempt_name}"

    def attempt_name(self, serial: int) -> str:
        return f"abcde-{serial}"


@define(eq=False)
class Watcher:
    """Remembers every view, with when it came."""

    views: list[tuple[float, JobView]] = field(factory=list)

    def job_changed(self, view: JobView) -> None:
        self.views.append((trio.current_time(), view))

    def states(self, job_id: str) -> list[State]:
        """The job's states in order, repetitions left out."""
        states = [view.state for _, view in self.views if view.job_id == job_id]
        return [state for number, state in enumerate(states) if number == 0 or states[number - 1] is not state]


async def inline(function: Callable[[], T], *, late: Callable[[T], None] | None = None) -> T:
    """A blocking call without a thread: the mock clock cannot see threads at work.

    One that might hang does not even let others run, so that launches of the same moment keep their order.
    """
    if late is None:
        await trio.lowlevel.checkpoint()
    return function()


@define(eq=False)
class Bench:
    """A supervisor among fakes."""

    folder: Path
    host: Host
    driver: FakeDriver
    runs: FakeRuns
    watcher: Watcher
    supervisor: Supervisor

    def run(
        self,
        specs: Sequence[JobSpec],
        meanwhile: Callable[[Bench], Awaitable[None]] | None = None,
    ) -> dict[str, JobResult]:
        """Run to the end, while `meanwhile` interferes; results by job id. Time begins at 0 and never sleeps."""
        results: list[JobResult] = []

        async def main() -> None:
            if meanwhile is None:
                results.extend(await self.supervisor.run(specs))
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(meanwhile, self)
                results.extend(await self.supervisor.run(specs))

        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(main, clock=clock)
        return {result.job_id: result for result in results}


def bench(
    folder: Path,
    scripts: Mapping[str, Sequence[Behaviour] | Behaviour] | None = None,
    *,
    cpus: int = 4,
    config: Config | None = None,
    **driver: Any,
) -> Bench:
    """`scripts`: job name to what its attempts do."""
    host = Host({name: [one] if isinstance(one, Behaviour) else one for name, one in (scripts or {}).items()})
    launcher = FakeLauncher(host)
    fake = FakeDriver(host, launcher, **driver)
    runs, watcher = FakeRuns(), Watcher()
    supervisor = Supervisor(
        config=config or Config(),
        capacity=NodeCapacity(cpus=tuple(range(cpus)), memory=cpus * GIB),
        driver=fake,
        launcher=launcher,
        runs=runs,
        observer=watcher,
        blocking=inline,
    )
    return Bench(folder, host, fake, runs, watcher, supervisor)


def spec(folder: Path, name: str = "job", *, after: Sequence[str] = (), tasks: int = 0, **more: Any) -> JobSpec:
    """A job of the file `folder`/jobs.toml; keywords of `Resources` and `JobSpec` alike."""
    fields = {attribute.name for attribute in Resources.__attrs_attrs__}
    resources = Resources(**{key: more.pop(key) for key in list(more) if key in fields})
    edges = tuple(Dependency(Condition(text.partition(":")[0]), text.partition(":")[2]) for text in after)
    return JobSpec(
        name=name,
        command=("true",),
        cwd=str(folder),
        resources=resources,
        dependency=edges,
        array=Array(tuple(range(tasks))) if tasks else None,
        source=f"{folder}/jobs.toml:1",
        **more,
    )
