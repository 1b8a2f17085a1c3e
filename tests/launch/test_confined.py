"""Jobs under an AppArmor profile. On a kernel that runs AppArmor, with apparmor_parser and securityfs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from batchns.errors import StepError
from batchns.kernel import lsm
from batchns.kernel.lsm import APPARMOR, SELINUX
from batchns.launch.plan import Plan
from batchns.model.submitter import Submitter

from .conftest import in_launcher, make_plan, run_plan
from .test_enter import enter, start

pytestmark = pytest.mark.kernel

ALICE = Submitter(uid=12345, gid=12345, name="alice", home="/", shell="/bin/sh", groups=(12345,))
POLICY = Path("/sys/kernel/security/apparmor")
TIGHT, MUTE = "batchns-test-tight", "batchns-test-mute"
RULES = f"""\
profile {TIGHT} flags=(attach_disconnected) {{
  file,
  network,
  signal (receive) peer=unconfined,
  deny /**/secret rw,
}}
profile {MUTE} flags=(attach_disconnected) {{
  file,
  deny signal,
}}
"""
LOOK = "cat secret 2>&1; cat /proc/self/attr/apparmor/current"


@pytest.fixture(autouse=True)
def _loaded(tmp_path: Path) -> Iterator[None]:
    if APPARMOR not in lsm.running() or not POLICY.exists() or shutil.which("apparmor_parser") is None:
        pytest.skip("AppArmor does not run here")
    rules = tmp_path / "rules"
    rules.write_text(RULES)
    subprocess.run(["apparmor_parser", "-r", rules], check=True)
    yield
    subprocess.run(["apparmor_parser", "-R", rules], check=True)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder that alice's job may enter and write to."""
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    path = tmp_path / "work"
    path.mkdir()
    path.chmod(0o777)
    return path


def under(module: str, name: str, plan: Plan) -> Plan:
    return plan._replace(command=plan.command._replace(confined=((module, name),)))


def outcome(plan: Plan) -> list[str]:
    return in_launcher(lambda launcher: run_plan(launcher, plan)).output.splitlines()


@pytest.mark.parametrize("submitter", [ALICE, None])
def test_a_job_reads_what_its_profile_lets_it_read(work: Path, submitter: Submitter | None) -> None:
    (work / "secret").write_text("known\n")
    (work / "secret").chmod(0o644)
    who = {} if submitter is None else {"submitter": submitter}
    free = outcome(make_plan(work, script=LOOK, **who))
    assert free == ["known", "unconfined"]
    tight = outcome(make_plan(work, script=LOOK, change=partial(under, APPARMOR, TIGHT), **who))
    assert "Permission denied" in tight[0]
    assert tight[1] == f"{TIGHT} (enforce)"


def test_a_job_leaves_its_profile_by_nothing_that_it_writes(work: Path) -> None:
    script = f"""\
for file in apparmor/current apparmor/exec current exec; do
  for text in "changeprofile unconfined" "exec unconfined" "changeprofile {MUTE}" "exec {MUTE}"; do
    (echo "$text" > /proc/self/attr/$file) 2> /dev/null && echo "$file $text"
  done
done
cat /proc/self/attr/apparmor/current
"""
    assert outcome(make_plan(work, script=script, change=partial(under, APPARMOR, TIGHT))) == [f"{TIGHT} (enforce)"]


def test_a_process_that_enters_is_under_it_too_and_what_the_kernel_says_is_told(work: Path) -> None:
    plan = make_plan(work, script="sleep 100", change=partial(under, APPARMOR, TIGHT))

    async def look(launcher):
        null = os.open("/dev/null", os.O_RDWR)
        started = await launcher.launch(plan, null, null, null)
        os.close(null)
        printed, _ = await enter(launcher, plan, "/bin/cat", "/proc/self/attr/apparmor/current")
        await launcher.signal(plan.attempt, signal.SIGTERM)
        ended = await launcher.wait(plan.attempt)
        return started.confined, printed, ended.signal

    assert in_launcher(look) == ((f"{TIGHT} (enforce)",), f"{TIGHT} (enforce)\n", signal.SIGTERM)


def test_a_profile_that_keeps_signals_from_its_processes_does_not_keep_the_end_from_them(work: Path) -> None:
    plan = make_plan(work, script="sleep 100", change=partial(under, APPARMOR, MUTE))

    async def end(launcher):
        await start(launcher, plan)
        await launcher.signal(plan.attempt, signal.SIGTERM)
        await trio.sleep(0.5)
        began = time.monotonic()
        await launcher.signal(plan.attempt, signal.SIGKILL)
        ended = await launcher.wait(plan.attempt)
        return time.monotonic() - began, ended.left

    seconds, left = in_launcher(end)
    assert seconds < 5 and not left


@pytest.mark.parametrize(
    ("module", "name", "hint"),
    [(APPARMOR, "batchns-test-unknown", "apparmor_parser -r"), (SELINUX, "u:r:t:s0", "SELinux is off")],
)
def test_what_is_not_loaded_fails_the_launch_by_its_name(work: Path, module: str, name: str, hint: str) -> None:
    plan = make_plan(work, script="touch ran", change=partial(under, module, name))

    async def refused(launcher) -> StepError:
        with pytest.raises(StepError) as caught:
            await run_plan(launcher, plan)
        return caught.value

    error = in_launcher(refused)
    assert (error.step, error.path) == (module, name)
    assert hint in error.hint
    assert not (work / "ran").exists()
