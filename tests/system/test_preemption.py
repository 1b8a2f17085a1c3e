"""Preemption in sandboxes: who is frozen makes no tick, comes back, loses nothing; and what else makes room."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import batchns, start, until
from .test_run_files import job

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]

URGENT = '[queues.urgent]\npriority = 90\npreempts = ["normal"]\n'
ONE = '[job.resources]\ncpus = 1\nmemory = "48MiB"\n'

# Counts, and remembers each step longer than 20 ms; its sum is right only if nothing of it was lost.
VICTIM = """\
#!/usr/bin/python3
import os, pathlib, time
pathlib.Path(f"ready-{os.environ['BATCHNS_JOB_NAME']}").touch()
last, total, gaps = time.monotonic(), 0, []
for step in range(%d):
    time.sleep(0.001)
    total += step
    now = time.monotonic()
    if now - last > 0.02: gaps.append([last, now])
    last = now
import json
print(json.dumps({"total": total, "gaps": gaps, "cpus": sorted(os.sched_getaffinity(0))}))
"""
HOT = """\
#!/usr/bin/python3
import json, os, time
begin, wall = time.monotonic(), time.time()
while time.monotonic() - begin < %s: pass
print(json.dumps({"begin": begin, "end": time.monotonic(), "wall": wall, "cpus": sorted(os.sched_getaffinity(0))}))
"""


def run_with(folder: Path, config: str, *jobs: str):
    (folder / "batchns.toml").write_text(config)
    (folder / "jobs.toml").write_text("\n".join(jobs))
    return batchns("run", "--config", "batchns.toml", "--json", "jobs.toml", cwd=folder)


def said(result: dict) -> dict:
    return json.loads(Path(result["stdout"]).read_text())


def frozen_within(gaps: list[list[float]], begin: float, end: float) -> bool:
    """Whether one gap covers all of it."""
    return any(first <= begin and end <= last for first, last in gaps)


def test_an_urgent_job_freezes_the_victim_which_makes_no_tick_and_then_ends_right(folder):
    ran = run_with(
        folder,
        f'[node]\ncpus = "0"\n{URGENT}',
        job("victim", VICTIM % 2500, tables=ONE),
        job("hot", HOT % 1.0, 'queue = "urgent"', 'begin = "+700ms"', tables=ONE),
    )
    assert ran.code == 0, ran.stderr
    victim, hot = ran.jobs["victim"], ran.jobs["hot"]
    seen, window = said(victim), said(hot)
    assert seen["total"] == sum(range(2500))
    assert frozen_within(seen["gaps"], window["begin"], window["end"]), (seen["gaps"], window)
    assert "SUSPENDED  makes room for" in ran.stderr
    # The ledger: what the job itself saw, and nothing missing or counted twice.
    lasted = window["end"] - window["begin"]
    assert lasted <= victim["frozen_seconds"] < lasted + 0.5
    assert victim["queued_seconds"] < 0.5
    assert 2.5 <= victim["running_seconds"] < 6
    assert hot["frozen_seconds"] == 0


@pytest.mark.slow  # a figure of real machines: elsewhere a fork alone may take longer
def test_it_starts_within_50_ms_of_its_turn(folder):
    """From the moment at which it may begin, to its first instruction: decision, freeze, launch. Median of five."""
    jobs = [job("victim", VICTIM % 4000, tables=ONE)]
    for number in range(5):
        begin = f'begin = "+{700 + 700 * number}ms"'
        jobs.append(job(f"hot{number}", HOT % 0.2, 'queue = "urgent"', begin, tables=ONE))
    ran = run_with(folder, f'[node]\ncpus = "0"\n{URGENT}\n[schedule]\nmax_freezes = 50\n', *jobs)
    assert ran.code == 0, ran.stderr
    history = Path("/var/lib/batchns/history.jsonl").read_text().splitlines()
    records = {record["job_id"]: record for record in map(json.loads, history)}
    late = []
    for number in range(5):
        result = ran.jobs[f"hot{number}"]
        due = records[result["job_id"]]["submitted"] + 0.7 + 0.7 * number
        late.append(said(result)["wall"] - due)
    assert statistics.median(late) < 0.05, late  # the start of the job's own interpreter included
    assert ran.jobs["victim"]["frozen_seconds"] > 0.9


def test_a_frozen_job_goes_on_on_whichever_cpu_is_free_first(folder):
    ran = run_with(
        folder,
        f'[node]\ncpus = "0-1"\n{URGENT}',
        job("short", HOT % 1.6, "priority = 60", tables=ONE),
        job("victim", VICTIM % 2500, tables=ONE),
        job("hot", HOT % 2.5, 'queue = "urgent"', 'begin = "+700ms"', tables=ONE),
    )
    assert ran.code == 0, ran.stderr
    victim, short, hot = (ran.jobs[name] for name in ("victim", "short", "hot"))
    seen = said(victim)
    assert seen["cpus"] == said(short)["cpus"] != said(hot)["cpus"], "it went on where the short job had been"
    assert seen["total"] == sum(range(2500))
    assert victim["frozen_seconds"] < 2.0, "it did not wait for the CPU that it had had"
    assert victim["limits"]["cpuset_cpus"]["value"] == str(seen["cpus"][0])


def test_memory_that_a_frozen_job_can_do_without_is_lent_too(disk):
    """Page cache goes, what the victim computes with stays, and it ends right, within its own limit."""
    script = """\
#!/usr/bin/python3
import hashlib, os, pathlib, time
held = os.urandom(20 << 20)
was = hashlib.sha256(held).hexdigest()
block = bytes(1 << 20)
with open("cache", "wb") as file:
    for _ in range(90): file.write(block)
    file.flush(); os.fsync(file.fileno())
pathlib.Path("ready").touch()
end = time.monotonic() + 2.5
while time.monotonic() < end: time.sleep(0.01)
more = bytearray(60 << 20)
for at in range(0, len(more), 4096): more[at] = 1
print("same" if hashlib.sha256(held).hexdigest() == was else "lost")
"""
    hot = '[job.resources]\ncpus = 1\nmemory = "%dMiB"\n'
    ran = run_with(
        disk,
        f'[node]\ncpus = "0-1"\nmemory = "260MiB"\n{URGENT}\n[schedule]\nfrozen_memory = "200MiB"\n',
        job("victim", script, tables='[job.resources]\ncpus = 2\nmemory = "150MiB"\n'),
        job("hot", HOT % 2, 'queue = "urgent"', 'begin = "+2s"', tables=hot % 64),
        job("more", HOT % 0.5, 'queue = "urgent"', 'begin = "+2300ms"', tables=hot % 96),
    )
    assert ran.code == 0, ran.stderr
    assert ran.jobs["more"]["queued_seconds"] < 3.3, "it did not wait for the end of the first one"
    assert Path(ran.jobs["victim"]["stdout"]).read_text() == "same\n"
    assert ran.jobs["victim"]["frozen_seconds"] > 0.4


def test_a_job_that_says_requeue_makes_room_for_memory_and_begins_anew(folder):
    big = '[job.resources]\ncpus = 1\nmemory = "150MiB"\n[job.preempt]\nmode = "requeue"\ngrace_time = "1s"\n'
    ran = run_with(
        folder,
        f'[node]\ncpus = "0-1"\nmemory = "200MiB"\n{URGENT}',
        job("victim", "echo attempt $BATCHNS_ATTEMPT; sleep 1.5", 'stdout = "v-%r.out"', tables=big),
        job("hot", "sleep 0.3", 'queue = "urgent"', 'begin = "+500ms"', tables=big.replace("requeue", "off")),
    )
    assert ran.code == 0, ran.stderr
    assert ran.jobs["victim"]["attempts"] == 2
    assert (folder / "v-1.out").read_text() == "attempt 1\n"
    assert (folder / "v-2.out").read_text() == "attempt 2\n"
    assert ran.jobs["hot"]["queued_seconds"] < 2.5


def test_nobody_is_frozen_where_that_would_not_help(folder):
    """The urgent job lacks memory, which a freeze does not free: the other one runs on."""
    ran = run_with(
        folder,
        f'[node]\ncpus = "0-1"\nmemory = "200MiB"\n{URGENT}',
        job("other", VICTIM % 1500, tables='[job.resources]\ncpus = 1\nmemory = "150MiB"\n'),
        job("hot", "true", 'queue = "urgent"', 'begin = "+500ms"', tables='[job.resources]\ncpus=1\nmemory = "96MiB"'),
    )
    assert ran.code == 0, ran.stderr
    assert ran.jobs["other"]["frozen_seconds"] == 0
    assert ran.jobs["hot"]["queued_seconds"] > 1


def test_equals_take_turns_where_there_are_time_slices(folder):
    ran = run_with(
        folder,
        '[node]\ncpus = "0"\n[schedule]\ntime_slice = "400ms"\n',
        job("one", VICTIM % 1200, tables=ONE),
        job("two", VICTIM % 1200, tables=ONE),
    )
    assert ran.code == 0, ran.stderr
    for name in ("one", "two"):
        assert said(ran.jobs[name])["total"] == sum(range(1200))
    assert ran.jobs["one"]["frozen_seconds"] > 0.3
    assert ran.jobs["two"]["queued_seconds"] < 1.2, "it did not wait for the first one's end"


@pytest.mark.slow
def test_jobs_of_a_queue_that_yields_stand_still_while_the_machine_is_busy_with_other_things(folder):
    (folder / "batchns.toml").write_text(
        '[queues.idle]\nyield = true\n[neighbour]\nfreeze_above = 0.7\nthaw_below = 0.45\nfor = "2s"\n'
    )
    (folder / "jobs.toml").write_text(job("polite", VICTIM % 3000, 'queue = "idle"', tables=ONE))
    run = start("run", "--config", "batchns.toml", "--json", "jobs.toml", cwd=folder)
    until((folder / "ready-polite").exists)
    hogs = [subprocess.Popen(["/usr/bin/python3", "-c", "while True: pass"]) for _ in range(2)]
    try:
        time.sleep(7)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    stdout, stderr = run.communicate(timeout=60)
    result = json.loads(stdout)
    assert run.returncode == 0, stderr
    assert "SUSPENDED  the machine is busy with other things" in stderr
    assert result["frozen_seconds"] > 2
    assert said(result)["total"] == sum(range(3000))


def test_a_run_that_ends_while_a_job_is_frozen_leaves_nothing(folder):
    (folder / "batchns.toml").write_text(f'[node]\ncpus = "0"\n{URGENT}')
    (folder / "jobs.toml").write_text(
        job("victim", "sleep 60", tables=ONE + '[job.preempt]\ngrace_time = "1s"\n')
        + job("hot", "touch running; sleep 60", 'queue = "urgent"', 'begin = "+500ms"', tables=ONE)
    )
    run = start("run", "--config", "batchns.toml", "--json", "jobs.toml", cwd=folder)
    until((folder / "running").exists)
    run.send_signal(2)
    stdout, _ = run.communicate(timeout=30)
    assert {json.loads(line)["state"] for line in stdout.splitlines()} == {"CANCELLED"}
