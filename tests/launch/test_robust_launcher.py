"""One job's misfortune is its own: nothing that a job file, a job or bad timing can do ends the launcher."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import trio

from batchns.errors import StepError
from batchns.kernel.cgroups.interface import Write
from batchns.launch.launcher import Launcher

from .conftest import in_launcher, inits, make_plan, run_plan

pytestmark = pytest.mark.kernel


@pytest.fixture
def neighbour(folder):
    """A job beside which something goes wrong, and which must end as if nothing had."""
    return make_plan(folder, script="sleep 0.5; exit 21")


def beside(neighbour, work):
    """Run `work` while the neighbour runs; returns what it returns."""

    async def both(launcher):
        async with trio.open_nursery() as nursery:
            outcomes = []

            async def live():
                outcomes.append(await run_plan(launcher, neighbour))

            nursery.start_soon(live)
            value = await work(launcher)
        assert outcomes[0].exit_code == 21
        return value

    return in_launcher(both)


def test_a_command_of_any_length_is_reported_in_a_message_of_bounded_length(folder, neighbour):
    plan = make_plan(folder, command=("\U0001f600" * 15500,))

    async def work(launcher):
        with pytest.raises(StepError) as caught:
            await run_plan(launcher, plan)
        return caught.value

    error = beside(neighbour, work)
    assert error.step == "exec"
    assert 100 < len(error.path) <= 1024


def test_a_large_plan_arrives(folder, neighbour):
    plan = make_plan(folder, script="true\n" + "# padding\n" * 60000, env={"A": "x" * 100_000})
    outcome = beside(neighbour, lambda launcher: run_plan(launcher, plan))
    assert outcome.exit_code == 0


def test_an_init_that_is_killed_while_it_starts_is_that_jobs_failure_alone(folder, neighbour):
    """At every moment of the start: twenty launches, each killed a little later."""
    plans = [make_plan(folder, command=("sleep", "0.2")) for _ in range(20)]

    async def kill_later(launcher, plan, delay):
        async with trio.open_nursery() as nursery:

            async def kill():
                await trio.sleep(delay)
                await launcher.signal(plan.attempt, signal.SIGKILL)

            nursery.start_soon(kill)
            try:
                await run_plan(launcher, plan)
            except StepError as error:
                assert error.step in ("init", "map ids")  # whichever it was at

    async def work(launcher):
        for number, plan in enumerate(plans):
            await kill_later(launcher, plan, number * 0.001)

    beside(neighbour, work)


def test_an_exit_record_that_is_swept_away_is_an_empty_one(folder, neighbour):
    plan = make_plan(folder, script="sleep 0.2; exit 3")

    async def work(launcher):
        null = os.open("/dev/null", os.O_RDWR)
        await launcher.launch(plan, null, null, null)
        os.close(null)
        os.unlink(plan.record)
        return await launcher.wait(plan.attempt)

    ended = beside(neighbour, work)
    assert (ended.exit_code, ended.signal) == (None, None)


def test_a_usage_file_that_cannot_be_read_is_named_and_the_exit_code_is_kept(folder, neighbour):
    def change(plan):
        return plan._replace(cgroup=plan.cgroup._replace(final_reads=("/proc/self/mem",)))  # reading it gives EIO

    plan = make_plan(folder, script="exit 7", change=change)

    async def work(launcher):
        null = os.open("/dev/null", os.O_RDWR)
        await launcher.launch(plan, null, null, null)
        os.close(null)
        return await launcher.wait(plan.attempt)

    ended = beside(neighbour, work)
    assert ended.exit_code == 7
    assert "Input/output error" in ended.unread
    assert ended.left == ()


def test_a_limit_that_the_kernel_refuses_is_that_jobs_failure(folder, tmp_path, neighbour):
    write = Write("/proc/sys/kernel/no-such-file", "1", "memory")
    plan = make_plan(folder, command=("true",), change=lambda p: p._replace(cgroup=p.cgroup._replace(writes=(write,))))

    async def work(launcher):
        with pytest.raises(StepError) as caught:
            await run_plan(launcher, plan)
        return caught.value

    error = beside(neighbour, work)
    assert (error.step, error.path) == ("cgroup", write.path)


def test_the_exit_record_has_its_space_before_the_command_runs(folder, tmp_path):
    """A full run folder costs no exit status: either the job does not start, or its record fits."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(small)], check=True)
    try:
        plan = make_plan(folder, script="sleep 0.3; exit 5", change=lambda p: p._replace(record=str(small / "record")))

        async def work(launcher):
            null = os.open("/dev/null", os.O_RDWR)
            await launcher.launch(plan, null, null, null)
            os.close(null)
            with pytest.raises(OSError, match="No space left"):
                (small / "filler").write_bytes(bytes(1 << 20))
            return await launcher.wait(plan.attempt)

        assert in_launcher(work).exit_code == 5
    finally:
        subprocess.run(["umount", str(small)], check=True)


async def waiting_inits(number):
    """The pids of the prepared sandboxes' inits, once there are so many."""
    while True:
        if len(pids := inits()) == number:
            return pids
        await trio.sleep(0.01)


def test_a_prepared_sandbox_is_used_and_one_that_does_not_fit_is_not(folder):
    """The job that finds its sandbox prepared is the same job; one with another base gets a new one."""
    fits, differs = make_plan(folder, script="exit 3"), make_plan(folder, script="ls /dev; exit 4")
    differs = differs._replace(base=differs.base._replace(mounts=differs.base.mounts[:-1]))

    async def work(launcher):
        await launcher.prepare(fits.attempt, fits.base, "")
        await launcher.prepare(differs.attempt, fits.base, "")
        await waiting_inits(2)
        return [(await run_plan(launcher, plan)).exit_code for plan in (fits, differs)]

    assert in_launcher(work) == [3, 4]


def test_a_file_system_that_is_mounted_later_is_there_for_the_next_job(folder):
    """Also where the host's mounts are private, and a sandbox had been prepared before."""
    plan = make_plan(folder, script="cat late/file")
    (folder / "late").mkdir()
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "--make-private", str(folder)], check=True)

        async def work(launcher):
            await launcher.prepare(plan.attempt, plan.base, "")
            await waiting_inits(1)
            await trio.sleep(0.2)  # it has built its root by now
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder / "late")], check=True)
            (folder / "late" / "file").write_text("here")
            await waiting_inits(0)
            return await run_plan(launcher, plan)

        assert in_launcher(work).output == "here"
    finally:
        subprocess.run(["umount", "-R", str(folder)], check=True)


def test_a_sandbox_that_nobody_uses_ends_with_the_launcher(folder):
    plan = make_plan(folder, command=("true",))

    async def work(launcher):
        await launcher.prepare(plan.attempt, plan.base, "")
        return await waiting_inits(1)

    (pid,) = in_launcher(work)
    assert not Path(f"/proc/{pid}").exists()


def test_the_callers_keys_are_not_the_jobs(folder):
    """A key of the caller's session keyring cannot be found from inside; from the caller's own process it can."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = {"x86_64": 248, "aarch64": 217}[os.uname().machine]  # add_key(2)
    assert libc.syscall(number, b"user", b"batchns-test", b"secret", 6, -3) > 0
    program = (
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "number = {'x86_64': 249, 'aarch64': 218}[os.uname().machine]\n"
        "print(libc.syscall(number, b'user', b'batchns-test', None, 0))"
    )
    outside = subprocess.run(["/usr/bin/python3", "-c", program], capture_output=True, text=True, check=True)
    assert int(outside.stdout) > 0
    plan = make_plan(folder, command=("/usr/bin/python3", "-c", program))
    outcome = in_launcher(lambda launcher: run_plan(launcher, plan))
    assert outcome.output == "-1\n"


def test_a_client_that_does_not_read_gets_every_answer_when_it_does(monkeypatch):
    """Answers wait when its socket is full, in their order, and nothing else of the launcher does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr("batchns.launch.zygote.start", lambda **_: (ours, 0))
    with ours, theirs:
        launcher = Launcher(theirs)
        launcher._watch(theirs.fileno(), launcher._request)
        for number in range(2000):
            launcher._answer("ended", f"abcde-{number}", text="x" * 1000)
        got = []
        while len(got) < 2000:
            got.append(json.loads(ours.recv(1 << 16))["attempt"])
            launcher._request()  # as the poll loop does when the socket is writable again
    assert got == [f"abcde-{number}" for number in range(2000)]
