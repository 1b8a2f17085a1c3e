"""batchns's own launches, from a warm launcher: what a job in the queue waits for once it is its turn.

1. One call is one job: the plan is built, the launcher asked, the command executed, the exit record read and
   everything released. The launcher is warm and has a sandbox prepared, as it has for all but a run's first jobs.
2. `batchns, bare` is what bwrap does with the filter of every job (no limits, loopback only), `batchns, no filter`
   what bwrap does by itself; `batchns, all` has cgroups, limits, veth and shapers.
3. `batchns run` is the command as a user types it, interpreter start, sweep, firewall and launcher included.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import trio

from batchns.kernel.cgroups.detect import open_driver
from batchns.kernel.cgroups.interface import CgroupPlan, Limits
from batchns.kernel.network.addresses import network_plan
from batchns.kernel.network.firewall import Firewall
from batchns.launch import build
from batchns.launch.client import Launcher, open_launcher
from batchns.launch.plan import Plan
from batchns.model.config import Config
from batchns.model.job import JobSpec
from batchns.supervise.devices import BASE
from batchns.supervise.runfolder import RunFolder
from bench.peers import Competitor, PeerError, Run, default_filter, timed

LIMITS = Limits(cpu_shares=1024, cpuset_cpus="0-1", cpuset_mems="0", memory=64 << 20, pids=64, devices=BASE)
EGRESS = INGRESS = 100_000_000  # bit/s
MakePlan = Callable[[int], tuple[Plan, Callable[[], None]]]  # from a serial number; the second ends the job's claims


@contextmanager
def warm_launcher(make_plan: MakePlan) -> Iterator[Run]:
    """A launcher in a thread of its own event loop; a call is one job from its plan to its end, in seconds."""
    null = os.open(os.devnull, os.O_RDWR)
    ready = threading.Event()
    state: dict[str, object] = {}
    serial = iter(range(1 << 30))

    async def serve() -> None:
        async with open_launcher() as launcher:
            state["launcher"], state["token"] = launcher, trio.lowlevel.current_trio_token()
            state["stop"] = stop = trio.Event()
            ready.set()
            await stop.wait()

    async def one(launcher: Launcher) -> float:
        begin = time.perf_counter()
        plan, done = make_plan(next(serial))
        await launcher.launch(plan, null, null, null)
        ended = await launcher.wait(plan.attempt)
        done()
        took = time.perf_counter() - begin
        if ended.exit_code or ended.left:
            raise PeerError(f"batchns: exit code {ended.exit_code}, left {ended.left}")
        return took

    def ask(work: Callable[[], Awaitable[float]]) -> float:
        took: float = trio.from_thread.run(work, trio_token=state["token"])
        return took

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        ready.wait()
        yield lambda: ask(partial(one, state["launcher"]))
    finally:
        trio.from_thread.run_sync(state["stop"].set, trio_token=state["token"])
        thread.join()
        os.close(null)


@contextmanager
def bare(*, filtered: bool = True) -> Iterator[Run]:
    """Namespaces, mounts and identity, loopback only, without cgroups: what bwrap does."""
    paths = build.host_paths()
    with tempfile.TemporaryDirectory(prefix="batchns-bench-") as folder:

        def make_plan(serial: int) -> tuple[Plan, Callable[[], None]]:
            name = f"bench-{serial}"
            slot = build.Slot(number=0, id_start=1_990_000_000, address="")
            attempt = _attempt(name, f"bench-{serial + 1}", folder, slot, f"{folder}/{name}", CgroupPlan(), "none")
            plan = build.build(attempt, host_paths=paths)
            return plan if filtered else plan._replace(seccomp=""), lambda: None

        with warm_launcher(make_plan) as run:
            yield run


@contextmanager
def everything() -> Iterator[Run]:
    """All of it: cgroups and limits, private network with both shapers, an id range and an address of its own."""
    config = Config()
    paths = build.host_paths()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="batchns-bench-"))
        driver = open_driver()
        driver.prepare()
        stack.callback(driver.release)
        runs = stack.enter_context(RunFolder(config))
        stack.enter_context(Firewall(run_folder=config.paths.run, pool=config.network.pool, nat=True))

        def make_plan(serial: int) -> tuple[Plan, Callable[[], None]]:
            name = runs.attempt_name(serial)
            slot = runs.acquire_slot()
            cgroup = driver.plan(name, LIMITS)
            ahead = runs.attempt_name(serial + 1)
            attempt = _attempt(name, ahead, folder, slot, runs.record_path(name), cgroup, "private")
            return build.build(attempt, host_paths=paths), lambda: runs.release_slot(slot)

        yield stack.enter_context(warm_launcher(make_plan))


@contextmanager
def command() -> Iterator[Run]:
    """`batchns run -- true`, as typed."""
    yield lambda: timed([sys.executable, "-m", "batchns", "run", "--", "true"])


def _attempt(
    name: str, ahead: str, folder: str, slot: build.Slot, record: str, cgroup: CgroupPlan, mode: str
) -> build.Attempt:
    return build.Attempt(
        name=name,
        ahead=ahead,
        job_id="1",
        spec=JobSpec(name="bench", command=("/bin/true",), cwd=folder),
        slot=slot,
        cgroup=cgroup,
        network=network_plan(mode, name, slot.address, EGRESS, INGRESS, 1500),
        record=record,
        scratch=1 << 20,
        usual_scratch=1 << 20,
        seccomp=default_filter(folder),
    )


OURS: list[Competitor] = [
    ("batchns, no filter", partial(bare, filtered=False)),
    ("batchns, bare", bare),
    ("batchns, all", everything),
    ("batchns run, typed", command),
]
