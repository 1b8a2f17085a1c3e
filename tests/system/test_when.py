"""When jobs start, how they are warned, tried again and tied to each other: in sandboxes, by what the jobs see."""

from __future__ import annotations

from pathlib import Path

import pytest

from .test_preemption import ONE, run_with
from .test_run_files import job, run_jobs

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]


def test_a_job_is_warned_of_its_time_limit(folder):
    script = "trap 'echo warned; exit 0' USR1\nsleep 30 & wait"
    ran = run_jobs(folder, job("careful", script, 'time_limit = "2s"', 'warn_signal = "USR1@1500ms"'))
    result = ran.jobs["careful"]
    assert (result["state"], Path(result["stdout"]).read_text()) == ("COMPLETED", "warned\n")
    assert result["running_seconds"] < 1.8


def test_a_job_begins_no_earlier_than_it_wants(folder):
    ran = run_jobs(folder, job("later", "true", 'begin = "+1s"'), job("now", "true"))
    assert ran.jobs["later"]["queued_seconds"] >= 1
    assert ran.jobs["now"]["queued_seconds"] < 0.9


def test_a_job_that_cannot_be_over_by_its_deadline_is_cancelled(folder):
    ran = run_with(
        folder,
        '[node]\ncpus = "0"\n',
        job("long", "sleep 1.5", "priority = 60", tables=ONE),
        job("tight", "true", 'time_limit = "1s"', 'deadline = "+1800ms"', tables=ONE),
    )
    assert ran.jobs["tight"]["state"] == "CANCELLED"
    assert ran.jobs["tight"]["reason"] == "its deadline cannot be met"


def test_a_retry_waits_and_has_more_memory(folder):
    script = """\
#!/usr/bin/python3
block = bytearray(60 << 20)
for at in range(0, len(block), 4096): block[at] = 1
"""
    table = '[job.resources]\nmemory = "40MiB"\n'
    keys = ("max_retries = 2", 'retry_delay = "700ms"', "retry_memory = 2")
    result = run_jobs(folder, job("grows", script, *keys, tables=table)).jobs["grows"]
    assert (result["state"], result["attempts"]) == ("COMPLETED", 2)
    assert result["limits"]["memory"]["value"] == 80 << 20
    assert result["queued_seconds"] >= 0.7


def test_task_by_task_and_one_at_a_time(folder):
    """aftercorr: task 2 goes on though task 1 failed; singleton: tasks never overlap."""
    ran = run_jobs(
        folder,
        job("first", 'test "$BATCHNS_ARRAY_TASK_ID" != 1', 'array = "0-2"'),
        job("second", "true", 'array = "0-2"', 'dependency = ["aftercorr:first"]'),
        job(
            "alone",
            "mkdir here || exit 9; sleep 0.1; rmdir here",
            'array = "0-3"',
            'dependency = ["singleton"]',
            tables="[job.resources]\ncpus = 0.1\n",
        ),
    )
    states = {}
    for result in sorted(ran.jobs.values(), key=lambda result: result["job_id"]):
        states.setdefault(result["name"], []).append(result["state"])
    assert states["first"] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert states["second"] == ["COMPLETED", "CANCELLED", "COMPLETED"]
    assert states["alone"] == ["COMPLETED"] * 4


def test_a_short_job_fills_the_gap_before_a_wide_one_and_does_not_delay_it(folder):
    ran = run_with(
        folder,
        '[node]\ncpus = "0-1"\n',
        job("runs", "sleep 2", 'time_limit = "2500ms"', tables=ONE),
        job("wide", "date +%s.%N", 'time_limit = "1s"', tables=ONE.replace("cpus = 1", "cpus = 2")),
        job("long", "sleep 3", 'time_limit = "10s"', tables=ONE),
        job("short", "sleep 0.3", 'time_limit = "1s"', tables=ONE),
    )
    assert ran.code == 0, ran.stderr
    assert ran.jobs["short"]["queued_seconds"] < 0.5
    assert ran.jobs["wide"]["queued_seconds"] < 2.6
    assert ran.jobs["long"]["queued_seconds"] > ran.jobs["wide"]["queued_seconds"]


def test_a_job_that_can_never_be_is_refused_before_anything_starts(folder):
    ran = run_with(
        folder,
        '[queues.small]\nper_job.cpus = 1\n[queues.hers]\nusers = ["nobody-else"]\n',
        job("big", "true", 'queue = "small"', tables="[job.resources]\ncpus = 2\n"),
        job("ok", "touch started", tables=ONE),
    )
    assert ran.code == 2
    assert "cpus" in ran.stderr
    assert not (folder / "started").exists()


def test_limits_of_a_queue_hold_its_jobs_back(folder):
    ran = run_with(
        folder,
        "[queues.narrow]\nper_user.jobs = 1\n",
        job("one", "sleep 0.5", 'queue = "narrow"', 'array = "0-2"', tables="[job.resources]\ncpus = 0.1\n"),
    )
    assert ran.code == 0
    waited = sorted(result["queued_seconds"] for result in ran.jobs.values())
    assert waited[1] > 0.4
    assert waited[2] > 0.9


def test_a_held_job_is_refused_in_a_run(folder):
    ran = run_jobs(folder, job("held", "true", "hold = true"))
    assert ran.code == 2
    assert "hold: nobody can release it in a batchns run" in ran.stderr
