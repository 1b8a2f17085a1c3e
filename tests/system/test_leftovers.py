"""Nothing is left: after 200 jobs, and after the run itself was killed at any moment."""

from __future__ import annotations

import os
import random
import signal

import pytest

from ..campaign import VICTIMS, campaign, child_named
from .conftest import batchns, on_this_machine, start, until

pytestmark = pytest.mark.kernel


def test_two_hundred_jobs_leave_nothing(folder, nothing_left):
    (folder / "jobs.toml").write_text(
        'name = "many"\ncommand = ["true"]\narray = "1-200"\n[resources]\ncpus = 0.1\nmemory = "32MiB"\n'
    )
    ran = batchns("run", "--json", "jobs.toml", cwd=folder, timeout=110)
    assert ran.code == 0
    assert len(ran.jobs) == 200
    assert {job["state"] for job in ran.jobs.values()} == {"COMPLETED"}


def test_a_run_that_is_killed_leaves_no_process_and_the_next_start_sweeps_the_rest(folder, nothing_left):
    (folder / "jobs.toml").write_text(
        'name = "many"\nscript = "touch ready; (sleep 60 &) ; sleep 60"\narray = "1-8"\n[resources]\ncpus = 0.1\n'
        'memory = "32MiB"\n'
    )
    process = start("run", "jobs.toml", cwd=folder)
    until((folder / "ready").exists)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until(lambda: not on_this_machine()["processes"])
    assert batchns("run", "--", "true", cwd=folder).code == 0


def test_a_run_whose_launcher_is_killed_removes_what_only_the_launcher_knew_of(folder, nothing_left):
    """Sandboxes made ahead have cgroups, too. No next start helps: the run itself lives on and has to do it."""
    (folder / "jobs.toml").write_text(
        'name = "many"\nscript = "touch ready; sleep 60"\narray = "1-12"\n[resources]\ncpus = 1\nmemory = "32MiB"\n'
    )
    process = start("run", "jobs.toml", cwd=folder)
    until((folder / "ready").exists)
    os.kill(until(lambda: child_named(process.pid, "launcher")), signal.SIGKILL)
    _, told = process.communicate(timeout=30)
    assert "launcher process is gone" in told
    assert "left behind" not in told


@pytest.mark.slow
@pytest.mark.parametrize("victim", VICTIMS)
def test_kills_at_random_moments_leave_nothing_after_the_next_start(folder, nothing_left, victim):
    """In short what `make campaign` does."""
    seed = random.randrange(1 << 32)
    found = campaign(victim, 5, random.Random(seed), folder)
    assert {kind: count for kind, count in found.items() if kind != "kills" and count} == {}, f"seed {seed}"
