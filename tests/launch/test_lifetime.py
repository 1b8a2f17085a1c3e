"""How jobs end: by their command, by a signal, and with whoever started them."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
import trio

from batchns.errors import HostError
from batchns.launch import client, zygote
from batchns.launch.launcher import Launcher
from batchns.launch.plan import Base

from .conftest import in_launcher, make_plan, run_plan

pytestmark = pytest.mark.kernel

BEATS = "while :; do date +%N >> alive; sleep 0.02; done"


def alive(pid: int) -> bool:
    """Whether `pid` is a process that still runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone_within(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while alive(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def test_signals_are_forwarded_to_the_command_and_its_group(folder):
    """A script that waits for a child is not reached otherwise: the child gets the signal, too."""
    plan = make_plan(folder, script="trap 'exit 42' TERM; (touch ready; exec sleep 60); exit 1")

    async def work(launcher):
        async with trio.open_nursery() as nursery:
            outcome = []

            async def job():
                outcome.append(await run_plan(launcher, plan))

            nursery.start_soon(job)
            while not (folder / "ready").exists():
                await trio.sleep(0.01)
            await launcher.signal(plan.attempt, signal.SIGTERM)
        return outcome[0]

    assert in_launcher(work).exit_code == 42


def test_a_killed_job_leaves_no_record_and_ends(folder):
    plan = make_plan(folder, script="trap '' TERM INT HUP; touch ready; sleep 60")

    async def work(launcher):
        null = os.open("/dev/null", os.O_RDWR)
        await launcher.launch(plan, null, null, null)
        os.close(null)
        await launcher.signal(plan.attempt, signal.SIGKILL)
        return await launcher.wait(plan.attempt)

    ended = in_launcher(work)
    assert (ended.exit_code, ended.signal) == (None, None)


def test_jobs_run_side_by_side(folder):
    """Ten jobs that sleep for half a second each take less than the five seconds of one after the other."""
    plans = [make_plan(folder, command=("sleep", "0.5")) for _ in range(10)]

    async def work(launcher):
        async with trio.open_nursery() as nursery:
            for plan in plans:
                nursery.start_soon(run_plan, launcher, plan)

    began = time.monotonic()
    in_launcher(work)
    assert time.monotonic() - began < 4


def test_an_attempt_is_launched_once_however_often_it_is_asked_for(folder):
    """The second request for a name that runs is not acted on."""
    plan = make_plan(folder, script="echo run >> count; sleep 0.3")

    async def work(launcher):
        null = os.open("/dev/null", os.O_RDWR)
        await launcher.launch(plan, null, null, null)
        with trio.move_on_after(0.1):
            await launcher.launch(plan, null, null, null)
        os.close(null)

    in_launcher(work)
    assert (folder / "count").read_text() == "run\n"


async def _start(launcher: client.Launcher, plan) -> int:
    null = os.open("/dev/null", os.O_RDWR)
    try:
        return (await launcher.launch(plan, null, null, null)).pid
    finally:
        os.close(null)


def test_jobs_end_with_the_client(folder):
    """When the client's socket closes, the launcher kills what it started and ends."""
    pids: list[int] = []

    async def work(launcher):
        pids.append(await _start(launcher, make_plan(folder, script=BEATS)))
        pids.append(int(Path(f"/proc/{pids[0]}/status").read_text().split("PPid:")[1].split()[0]))

    in_launcher(work)
    assert gone_within(pids[0], 2)
    assert gone_within(pids[1], 2), "the launcher is still there"


def test_jobs_end_with_the_launcher_and_the_client_is_told(folder):
    """SIGKILL of the launcher: the kernel ends every init, and so every job; waiters get an error."""

    async def work(launcher):
        plan = make_plan(folder, script=BEATS)
        pid = await _start(launcher, plan)
        command = only_child(pid)
        launcher_pid = int(Path(f"/proc/{pid}/status").read_text().split("PPid:")[1].split()[0])
        os.kill(launcher_pid, signal.SIGKILL)
        with pytest.raises(HostError, match="launcher process is gone"):
            await launcher.wait(plan.attempt)
        with pytest.raises(HostError, match="launcher process is gone"):
            await launcher.launch(make_plan(folder, script="true"), 0, 0, 0)
        return pid, command

    pid, command = in_launcher(work)
    assert gone_within(pid, 2)
    assert gone_within(command, 2)


def test_a_killed_zygote_costs_no_running_job_and_is_replaced(folder):
    """Once while nothing is asked of it, once while a sandbox is."""

    async def work(launcher):
        plan = make_plan(folder, script="until test -e go; do sleep 0.01; done; exit 7")
        pid = await _start(launcher, plan)
        launcher_pid = int(Path(f"/proc/{pid}/status").read_text().split("PPid:")[1].split()[0])
        for number in range(2):
            (child,) = [child for child in children(launcher_pid) if comm(child) == zygote.NAME]
            os.kill(child, signal.SIGSTOP if number else signal.SIGKILL)
            if number:
                await launcher.prepare("never-born", plan.base, "")
                os.kill(child, signal.SIGKILL)
            await trio.sleep(0.1)
            assert (await run_plan(launcher, make_plan(folder, script="exit 3"))).exit_code == 3
        (folder / "go").touch()
        return (await launcher.wait(plan.attempt)).exit_code

    assert in_launcher(work) == 7


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_init_keeps_nothing_of_the_launcher_but_its_exit_record(folder):
    """Not the sockets, records and namespaces of other jobs: a job that lives on would keep another one's link."""
    first, second = (make_plan(folder, command=("sleep", "5")) for _ in range(2))

    async def work(launcher):
        await _start(launcher, first)
        pid = await _start(launcher, second)
        await trio.sleep(0.2)  # it closes its socket just after it has told that the command runs
        return [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]

    nulls = ("/dev/null", "/null")  # by the second name where /dev, seen from here, is mounted no more
    assert {target for target in in_launcher(work) if target not in nulls} == {second.record}


def test_the_launcher_is_small_and_its_inits_share_its_memory(folder):
    """Private memory of an idle init stays small; nothing that is not needed is imported."""

    async def work(launcher):
        pid = await _start(launcher, make_plan(folder, command=("sleep", "5")))
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))

    assert in_launcher(work) <= 2048  # KiB: 1920 on Python 3.11


def test_no_sandbox_is_prepared_for_a_client_that_is_gone(monkeypatch):
    """A job that starts just as the client goes asks for its successor's: nobody would ever end that one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr("batchns.launch.zygote.start", lambda **_: (ours, 0))
    with ours, theirs:
        launcher = Launcher(theirs)
        born = []
        monkeypatch.setattr(launcher, "_bear", lambda *arguments: born.append(arguments))
        launcher._watch(theirs.fileno(), launcher._request)
        launcher._prepare("abcde-1", Base(), "")
        launcher._client_gone()
        launcher._prepare("abcde-2", Base(), "")
    assert born == [("abcde-1", Base(), "")]
