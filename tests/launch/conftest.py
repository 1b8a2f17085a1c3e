"""A real launcher and real sandboxes, without cgroups and without a network of their own."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import secrets
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve, frozen

from batchns.kernel.cgroups.interface import CgroupPlan
from batchns.kernel.network.types import NetworkPlan
from batchns.kernel.seccomp.compile import compiled
from batchns.kernel.seccomp.profile import default
from batchns.launch import build, client
from batchns.launch.plan import Plan
from batchns.model.job import JobSpec
from batchns.model.submitter import ROOT, Submitter

ID_START = 1_900_000_000
_serial = itertools.count()
_run = secrets.token_hex(2)


@frozen(kw_only=True)
class Outcome:
    """How one sandboxed command went."""

    exit_code: int | None
    signal: int | None
    output: str
    plan: Plan


@functools.cache
def _filter() -> str:
    """The path of the default filter, compiled once for all tests."""
    path = Path(tempfile.mkdtemp(prefix="batchns-test-")) / "seccomp.bpf"
    path.write_bytes(compiled(default()))
    atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    return str(path)


def make_plan(
    folder: Path,
    *,
    change: Callable[[Plan], Plan] = lambda plan: plan,
    submitter: Submitter = ROOT,
    **spec: Any,
) -> Plan:
    """A plan for a job in `folder`; keyword arguments are JobSpec's, `change` edits the finished plan."""
    name = f"t{_run}-{next(_serial)}"
    records = folder.parent / "records"
    records.mkdir(exist_ok=True)
    job = JobSpec(**{"name": "test", "cwd": str(folder), **spec})
    attempt = build.Attempt(
        name=name,
        job_id="1",
        spec=job,
        submitter=submitter,
        slot=build.Slot(number=0, id_start=ID_START, address=""),
        cgroup=CgroupPlan(),
        network=NetworkPlan("none"),
        record=str(records / name),
        scratch=1 << 20,
        usual_scratch=1 << 30,
        seccomp=_filter(),
    )
    return change(build.build(attempt, host_paths=build.host_paths()))


def inits() -> list[str]:
    """The pids of the inits of this process's launcher: its children without the zygote."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    # The youngest: an earlier test may have left this process one that is about to end.
    launcher = children[-1]
    pids = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [pid for pid in pids if _name(pid) == "batchns-init"]


def _name(pid: str) -> str | None:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None


def in_launcher(work: Callable[[client.Launcher], Awaitable[Any]], timeout: float = 60) -> Any:
    """Run `work` with a launcher, within a bound of `timeout` seconds."""

    async def bounded() -> Any:
        with trio.fail_after(timeout):
            async with client.open_launcher() as launcher:
                return await work(launcher)

    return trio.run(bounded)


async def run_plan(launcher: client.Launcher, plan: Plan) -> Outcome:
    """Launch, wait, and read what the command printed."""
    output = os.memfd_create("output")
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        await launcher.launch(plan, null, output, output)
        ended = await launcher.wait(plan.attempt)
        assert ended.left == ()
        text = os.pread(output, 1 << 20, 0).decode(errors="replace")
        return Outcome(exit_code=ended.exit_code, signal=ended.signal, output=text, plan=plan)
    finally:
        os.close(null)
        os.close(output)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder of host root, closed to everybody else."""
    path = tmp_path / "work"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def run(folder: Path) -> Callable[..., Outcome]:
    """Run one sandboxed command or script to its end: `run(script=...)` or `run("prog", "arg", ...)`."""

    def call(*command: str, **spec: Any) -> Outcome:
        if command:
            spec["command"] = command
        plan = make_plan(folder, **spec)
        outcome: Outcome = in_launcher(lambda launcher: run_plan(launcher, plan))
        assert not os.path.exists(plan.record), "the exit record is left behind"
        return outcome

    return call


__all__ = ["ID_START", "Outcome", "evolve", "folder", "in_launcher", "make_plan", "run", "run_plan"]
