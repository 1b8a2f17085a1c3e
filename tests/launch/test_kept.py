"""The launcher that outlives its client: what it knows, who may use it, and what goes on without it."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from batchns.errors import HostError, StepError
from batchns.kernel.cgroups import files
from batchns.launch import dial
from batchns.launch.entries import HANG_UP
from batchns.launch.keeper import Failed, Interrupted, Over, Running, keep_launcher
from batchns.launch.notes import Notes, boot_id
from batchns.launch.plan import to_wire

from .kept_world import EXIT_CODE, WAITS, World, kill_launcher, launcher_of, leftovers, with_launcher, world

pytestmark = pytest.mark.kernel


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


async def start(launcher, plan):
    null = os.open(os.devnull, os.O_RDWR)
    try:
        return await launcher.launch(plan, null, null, null)
    finally:
        os.close(null)


async def running(kept, plan):
    """Its command has begun."""
    while not kept.ran(plan.attempt):
        await trio.sleep(0.01)


async def finish(kept, launcher, plan):
    kept.go(plan.attempt)
    ended = await launcher.wait(plan.attempt)
    await launcher.forget(plan.attempt)
    return ended


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return
        except FileNotFoundError:
            return
        time.sleep(0.01)
    raise AssertionError(f"{pid} is still there")


def test_a_job_outlives_its_client_and_the_next_one_hears_of_its_end(kept):
    plan = kept.plan(WAITS)
    started = with_launcher(kept, lambda launcher: start(launcher, plan))
    pid = launcher_of(kept)

    async def again(launcher):
        assert launcher.known == {plan.attempt: Running(started)}
        assert launcher_of(kept) == pid, "it is the same launcher"
        await running(kept, plan)
        ended = await finish(kept, launcher, plan)
        assert launcher.known == {}
        return ended

    ended = with_launcher(kept, again)
    assert (ended.exit_code, ended.unread) == (EXIT_CODE, "")
    assert ended.network is not None
    assert kept.ran(plan.attempt) == 1
    assert leftovers(kept) == []


def test_a_job_outlives_its_launcher_and_whoever_waits_does_not_notice(kept):
    plan = kept.plan(WAITS)

    async def work(launcher):
        started = await start(launcher, plan)
        first = launcher_of(kept)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running, kept, plan)
        os.kill(first, signal.SIGKILL)
        wait_until_gone(first)
        await launcher.signal(plan.attempt, signal.SIGWINCH)
        assert launcher_of(kept) not in (0, first)
        assert launcher.known == {plan.attempt: Running(started)}
        return await finish(kept, launcher, plan)

    ended = with_launcher(kept, work)
    assert (ended.exit_code, ended.unread, ended.left) == (EXIT_CODE, "", ())
    assert ended.network is not None
    assert kept.driver.usage(ended.cgroup_texts).cpu_seconds is not None
    assert leftovers(kept) == []


@pytest.mark.parametrize("network", ["private", "none", "host"])
def test_what_ends_while_there_is_no_launcher_has_its_exit_code_usage_and_traffic(kept, network):
    """Its cgroups are still there, and init has counted what went over its link."""
    plan = kept.plan(WAITS, network=network)
    if network == "host" and not plan.cgroup.into:
        pytest.skip("no cgroup v2 here")
    started = with_launcher(kept, lambda launcher: start(launcher, plan))
    pid = launcher_of(kept)
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    kept.go(plan.attempt)
    wait_until_gone(started.pid)

    async def again(launcher):
        known = launcher.known[plan.attempt]
        await launcher.forget(plan.attempt)
        return known

    known = with_launcher(kept, again)
    assert isinstance(known, Over)
    assert known.started == started
    assert (known.ended.exit_code, known.ended.unread, known.ended.left) == (EXIT_CODE, "", ())
    assert (kept.driver.usage(known.ended.cgroup_texts).cpu_seconds or 0) > 0
    assert (known.ended.network is None) == (network == "none")
    assert leftovers(kept) == []


def test_an_attempt_is_launched_once_whoever_asks_and_however_often(kept):
    plan = kept.plan(WAITS)
    fails = kept.plan()._replace(command=kept.plan().command._replace(argv=("no-such-program",)))

    async def work(launcher):
        started = await start(launcher, plan)
        assert await start(launcher, plan) == started
        with pytest.raises(StepError) as error:
            await start(launcher, fails)
        return started, str(error.value)

    first = with_launcher(kept, work)
    assert with_launcher(kept, work) == first
    kill_launcher(kept)

    async def last(launcher):
        assert await work(launcher) == first
        await launcher.forget(fails.attempt)
        assert (await finish(kept, launcher, plan)).exit_code == EXIT_CODE
        await launcher.forget(plan.attempt)

    with_launcher(kept, last)
    assert kept.ran(plan.attempt) == 1
    assert leftovers(kept) == []


def test_the_launcher_itself_launches_an_attempt_once(kept):
    """Whatever its client knows: the same message again is answered, and not acted on."""
    plan, over = kept.plan(WAITS), kept.plan()

    async def work(launcher):
        null = os.open(os.devnull, os.O_RDWR)
        await kept.run(launcher, over, forget=False)
        await start(launcher, plan)
        for again in (plan, over) * 2:
            fds = array.array("i", (null,) * 3)
            await launcher._send(b"L" + to_wire(again), [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        os.close(null)
        assert (await finish(kept, launcher, plan)).exit_code == EXIT_CODE
        await launcher.forget(over.attempt)

    with_launcher(kept, work)
    assert (kept.ran(plan.attempt), kept.ran(over.attempt)) == (1, 1)
    assert leftovers(kept) == []


def test_an_end_stays_known_until_it_is_forgotten(kept):
    plan = kept.plan()

    async def first(launcher):
        await start(launcher, plan)
        ended = await launcher.wait(plan.attempt)
        assert await launcher.wait(plan.attempt) == ended, "as often as one likes"
        await launcher.stop()
        return ended

    ended = with_launcher(kept, first)
    assert launcher_of(kept) == 0

    async def second(launcher):
        known = launcher.known[plan.attempt]
        await launcher.forget(plan.attempt)
        await launcher.stop()
        return known

    known = with_launcher(kept, second)
    assert isinstance(known, Over)
    assert known.ended == ended

    async def third(launcher):
        return launcher.known

    assert with_launcher(kept, third) == {}


def test_signals_reach_a_job_that_was_adopted(kept):
    plan = kept.plan(f"trap 'exit {EXIT_CODE}' TERM; echo ran >> ran-$ATTEMPT; while :; do sleep 0.01; done")

    async def work(launcher):
        await start(launcher, plan)
        await running(kept, plan)
        kill_launcher(kept)
        await launcher.signal(plan.attempt, signal.SIGTERM)
        return await finish(kept, launcher, plan)

    assert with_launcher(kept, work).exit_code == EXIT_CODE


def test_a_process_that_has_entered_is_lost_with_the_launcher_and_another_can_enter_the_adopted_job(kept):
    plan = kept.plan(WAITS)

    async def work(launcher):
        null = os.open(os.devnull, os.O_RDWR)
        await start(launcher, plan)
        entered = await launcher.enter(plan.attempt, ("sleep", "60"), descriptors=(null, null, null))
        kill_launcher(kept)
        with pytest.raises(HostError, match="launcher process is gone"):
            await entered.wait()
        await launcher.signal(plan.attempt, signal.SIGWINCH)
        other = await launcher.enter(plan.attempt, ("sh", "-c", "exit 5"), descriptors=(null, null, null))
        assert (await other.wait()).exit_code == 5
        os.close(null)
        return await finish(kept, launcher, plan)

    ended = with_launcher(kept, work)
    assert (ended.exit_code, ended.left) == (EXIT_CODE, ())


def test_a_process_that_has_entered_is_hung_up_when_the_client_goes(kept):
    plan = kept.plan(WAITS)
    hung_up = kept.folder / "hung-up"

    async def first(launcher):
        null = os.open(os.devnull, os.O_RDWR)
        await start(launcher, plan)
        script = f"trap 'touch {hung_up}; exit' HUP; touch {kept.folder}/in; while :; do sleep 0.01; done"
        await launcher.enter(plan.attempt, ("sh", "-c", script), descriptors=(null, null, null))
        os.close(null)
        while not (kept.folder / "in").exists():
            await trio.sleep(0.01)

    with_launcher(kept, first)
    end = time.monotonic() + 10
    while not hung_up.exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert hung_up.exists()
    assert with_launcher(kept, lambda launcher: finish(kept, launcher, plan)).exit_code == EXIT_CODE


def test_one_that_does_not_heed_that_is_killed_and_its_job_goes_on(kept):
    plan = kept.plan(WAITS)

    async def first(launcher):
        null = os.open(os.devnull, os.O_RDWR)
        await start(launcher, plan)
        script = f"trap '' HUP; touch {kept.folder}/in; while :; do sleep 0.01; done"
        entered = await launcher.enter(plan.attempt, ("sh", "-c", script), descriptors=(null, null, null))
        os.close(null)
        while not (kept.folder / "in").exists():
            await trio.sleep(0.01)
        return entered.pid

    pid = with_launcher(kept, first)
    end = time.monotonic() + HANG_UP + 2
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{pid}")
    assert with_launcher(kept, lambda launcher: finish(kept, launcher, plan)).exit_code == EXIT_CODE


def test_only_a_launcher_without_jobs_is_ended(kept):
    plan = kept.plan(WAITS)

    async def work(launcher):
        await start(launcher, plan)
        with pytest.raises(HostError, match="has jobs that run"):
            await launcher.stop()
        assert (await finish(kept, launcher, plan)).exit_code == EXIT_CODE
        await launcher.stop()
        with pytest.raises(HostError, match="has been ended"):
            await start(launcher, kept.plan())

    with_launcher(kept, work)
    assert launcher_of(kept) == 0
    assert sorted(os.listdir(kept.launcher)) == ["attempts", "lock", "log"]
    assert (kept.launcher / "log").read_text() == ""


def test_a_second_client_is_refused_while_the_first_one_lives(kept):
    async def work(launcher):
        with pytest.raises(HostError, match="another batchns uses this launcher"):
            async with keep_launcher(kept.launcher):
                pass
        await kept.run(launcher, kept.plan())

    with_launcher(kept, work)
    kept.check()


def test_of_many_that_start_at_the_same_time_one_starts_the_launcher(kept):
    code = (
        "import sys, trio\nfrom batchns.launch.keeper import keep_launcher\n"
        "async def main():\n"
        "    async with keep_launcher(sys.argv[1]):\n"
        "        print('served', flush=True); sys.stdin.readline()\n"
        "trio.run(main)\n"
    )
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(kept.launcher)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(5)
    ]
    refused = 0
    while refused < 4:
        for client in clients:
            if client.poll() is not None and client.stdout is not None:
                refused += 1
                out, told = client.communicate()
                assert (out, "another batchns uses this launcher" in told) == ("", True)
        clients = [client for client in clients if client.returncode is None]
        time.sleep(0.02)
    (last,) = clients
    out, _ = last.communicate("\n")
    assert (out, last.returncode) == ("served\n", 0)
    assert launcher_of(kept)


def test_it_is_out_of_reach_of_whatever_ends_its_client(kept):
    """A session of its own, and nothing of the client's in its hands."""

    async def work(launcher):
        return launcher_of(kept)

    pid = with_launcher(kept, work)
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert (int(stat[2]), int(stat[3])) == (pid, pid), "group and session are its own"
    outputs = [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)]
    assert outputs == ["/dev/null", str(kept.launcher / "log"), str(kept.launcher / "log")]
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


@pytest.mark.parametrize("killed", ["client", "launcher"])
def test_prepared_sandboxes_go_with_the_client_and_with_the_launcher(kept, killed):
    plans = [kept.plan() for _ in range(3)]

    async def prepare(launcher):
        for plan in plans:
            await launcher.prepare(plan.attempt, plan.base, plan.cgroup.into)
        while not all(os.path.exists(plan.cgroup.into) for plan in plans):
            await trio.sleep(0.01)
        if killed == "launcher":
            kill_launcher(kept)
            await launcher.stop()

    if not plans[0].cgroup.into:
        pytest.skip("no cgroup v2 here")
    with_launcher(kept, prepare)
    assert leftovers(kept) == []


def test_what_a_killed_launcher_left_of_a_sandbox_is_in_no_later_jobs_way(kept):
    """It is removed when another launcher starts, but may be busy then: on a machine with much to do."""
    plan = kept.plan(f"exit {EXIT_CODE}")
    into = Path(plan.cgroup.into)
    if not plan.cgroup.into:
        pytest.skip("no cgroup v2 here")
    into.mkdir()
    left = subprocess.Popen(["sleep", "60"])
    (into / "cgroup.procs").write_text(f"{left.pid}")

    async def work(launcher):
        await start(launcher, plan)
        return await launcher.wait(plan.attempt)

    try:
        assert with_launcher(kept, work).exit_code == EXIT_CODE
        assert left.wait(5) == -signal.SIGKILL
    finally:
        left.kill()
        left.wait()


@pytest.mark.parametrize("change", [{"boot": "another"}, {"start": 1}], ids=["boot", "start time"])
def test_a_pid_of_another_process_is_not_adopted(kept, change):
    """A process with this pid runs, and it is not the one that was noted: it is let alone, and the job is over."""
    plan = kept.plan(WAITS)
    with_launcher(kept, lambda launcher: start(launcher, plan))
    kill_launcher(kept)
    path = kept.launcher / "attempts" / f"{plan.attempt}.born"
    born = json.loads(path.read_text())
    _, started, boot = born["identity"]
    innocent = subprocess.Popen(["sleep", "60"])
    born["identity"] = [innocent.pid, change.get("start", started), change.get("boot", boot)]
    path.write_text(json.dumps(born))

    async def again(launcher):
        known = launcher.known[plan.attempt]
        await launcher.forget(plan.attempt)
        return known

    known = with_launcher(kept, again)
    assert isinstance(known, Over)
    assert (known.ended.exit_code, known.ended.signal) == (None, None)
    assert innocent.poll() is None
    innocent.kill()
    innocent.wait()
    assert leftovers(kept) == [], "what was in its cgroups is gone"


def test_a_full_file_system_costs_no_exit_code(kept):
    """Neither the launcher's notes nor the records have any room when the job ends; and then the launcher is killed."""
    for folder in (kept.launcher, kept.base / "records"):
        folder.mkdir(mode=0o700, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "full", str(folder)], check=True)
    try:
        plan = kept.plan(WAITS)

        async def first(launcher):
            await start(launcher, plan)
            for folder in (kept.launcher, kept.base / "records"):
                with (folder / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
                    while True:
                        file.write(bytes(4096))
            kept.go(plan.attempt)
            ended = await launcher.wait(plan.attempt)
            with pytest.raises(StepError, match="No space left"):
                await start(launcher, kept.plan())
            return ended

        assert with_launcher(kept, first).exit_code == EXIT_CODE
        kill_launcher(kept)

        async def again(launcher):
            known = launcher.known[plan.attempt]
            await launcher.forget(plan.attempt)
            await launcher.stop()
            return known

        known = with_launcher(kept, again)
        assert isinstance(known, Over)
        assert known.ended.exit_code == EXIT_CODE
        for folder in (kept.launcher, kept.base / "records"):
            (folder / "filler").unlink()
        assert leftovers(kept) == []
    finally:
        for folder in (kept.launcher, kept.base / "records"):
            subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_launcher_that_never_serves_is_an_error_that_names_its_log(kept, monkeypatch):
    monkeypatch.setattr(dial, "_PROGRAM", "raise SystemExit('nothing works')")
    with pytest.raises(HostError, match=rf"no launcher can be started: 6 have ended at once - see {kept.launcher}/log"):
        with_launcher(kept, lambda launcher: start(launcher, kept.plan()))
    assert "nothing works" in (kept.launcher / "log").read_text()


def test_a_folder_that_others_can_read_is_refused(kept):
    kept.launcher.mkdir(mode=0o755)
    kept.launcher.chmod(0o755)
    with pytest.raises(HostError, match="others have access to it - chown root"):
        with_launcher(kept, lambda launcher: start(launcher, kept.plan()))


def test_a_launcher_holds_nothing_of_jobs_that_are_over(kept):
    async def work(launcher):
        await kept.run(launcher, kept.plan())
        pid = launcher_of(kept)
        before = len(os.listdir(f"/proc/{pid}/fd"))
        for _ in range(5):
            await kept.run(launcher, kept.plan())
        assert len(os.listdir(f"/proc/{pid}/fd")) == before

    with_launcher(kept, work)
    kept.check()


def test_a_job_that_was_adopted_is_frozen_and_killed_like_any_other(kept):
    plan = kept.plan(WAITS)

    async def work(launcher):
        await start(launcher, plan)
        await running(kept, plan)
        assert kept.driver.freeze(plan.attempt, 5)
        kill_launcher(kept)
        await launcher.signal(plan.attempt, signal.SIGWINCH)
        assert isinstance(launcher.known[plan.attempt], Running)
        assert kept.driver.kill(plan.attempt, 5)
        ended = await launcher.wait(plan.attempt)
        await launcher.forget(plan.attempt)
        return ended

    ended = with_launcher(kept, work)
    assert (ended.exit_code, ended.signal, ended.left) == (None, None, ())
    assert leftovers(kept) == []


def test_what_is_half_written_or_half_removed_counts_for_nothing(tmp_path):
    notes = Notes(str(tmp_path))
    for attempt in ("a-1", "a-2"):
        notes.begin(attempt, b"{}")
        notes.add(attempt, "born", {"pid": 1})
    with pytest.raises(FileExistsError):
        notes.begin("a-1", b"other")
    (tmp_path / "attempts/a-1.started.new").write_text('{"half')
    (tmp_path / "attempts/a-2.plan").unlink()
    found = Notes(str(tmp_path)).read()
    assert found.keys() == {"a-1"}
    assert (found["a-1"].plan, found["a-1"].born, found["a-1"].started) == (b"{}", {"pid": 1}, None)
    assert sorted(os.listdir(tmp_path / "attempts")) == ["a-1.born", "a-1.plan"]


def test_an_init_that_was_never_sent_its_plan_is_an_interrupted_launch_that_did_not_run(kept):
    plan = kept.plan()
    kept.launcher.mkdir(mode=0o700)
    Notes(str(kept.launcher)).begin(plan.attempt, to_wire(plan))

    async def work(launcher):
        known = launcher.known[plan.attempt]
        assert isinstance(known, Failed)
        assert isinstance(known.error, Interrupted)
        assert not known.error.may_have_run
        with pytest.raises(Interrupted, match="its command did not run"):
            await start(launcher, plan)
        await launcher.forget(plan.attempt)
        await launcher.stop()

    with_launcher(kept, work)
    assert leftovers(kept) == []
    assert files.listing(str(kept.launcher / "attempts")) == []


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (None, False),
        (b"", False),
        (b"S", True),
        (b"R", (None, None)),
        (b'{"exit_code": 3, "signal": null}\n', (3, None)),
        (b"F", "mount bind"),
    ],
    ids=["no record", "not started", "about to start", "runs", "ended", "failed"],
)
def test_of_an_init_that_is_gone_the_record_says_how_far_it_came(kept, record, expected):
    """`expected`: whether an interrupted launch may have run; exit code and signal; or the step that failed."""
    plan = kept.plan()
    kept.launcher.mkdir(mode=0o700)
    notes = Notes(str(kept.launcher))
    notes.begin(plan.attempt, to_wire(plan))
    notes.add(plan.attempt, "born", {"identity": [os.getpid(), 1, boot_id()], "values": {"limit": "1"}, "asked": 0.0})
    if record is not None:
        told: object = ["mount bind", "/x", 2, ""] if record == b"F" else {"phases": {"exec": 1.0}, "shapers": {}}
        after = json.dumps(told).encode() + b"\n" if len(record) > 1 or record in (b"R", b"F") else b""
        Path(plan.record).write_bytes((record.ljust(64, b"\0") + after).ljust(4096, b"\0"))

    async def work(launcher):
        known = launcher.known[plan.attempt]
        await launcher.forget(plan.attempt)
        return known

    known = with_launcher(kept, work)
    if isinstance(known, Over):
        assert (known.ended.exit_code, known.ended.signal) == expected
        assert (known.started.phases["exec"], known.started.cgroup_values["limit"]) == (1.0, "1")
    elif isinstance(known.error, Interrupted):
        assert known.error.may_have_run == expected
    else:
        assert (known.error.step, known.error.path, known.error.errno) == (expected, "/x", 2)
    assert leftovers(kept) == []


def test_what_a_client_asked_for_last_is_done_although_it_left_an_answer_unread(kept):
    """A socket that is closed with something unread in it is reset: the launcher reads on behind that."""
    plans = [kept.plan() for _ in range(3)]

    async def work(launcher):
        for plan in plans:
            await kept.run(launcher, plan, forget=False)
        return launcher_of(kept)

    pid = with_launcher(kept, work)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client, dial._short(kept.launcher) as near:
        client.connect(f"{near}/socket")
        client.recv(1, socket.MSG_PEEK)  # it is being told what is known
        os.kill(pid, signal.SIGSTOP)
        for plan in plans:
            client.send(b"D" + json.dumps([plan.attempt]).encode())
    os.kill(pid, signal.SIGCONT)
    assert leftovers(kept) == []
