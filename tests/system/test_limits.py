"""The limits that a job file asks for, measured by what the jobs get."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

import pytest

from .conftest import batchns
from .test_run_files import job, run_jobs

SLOW_KERNEL = "User Mode Linux" in Path("/proc/cpuinfo").read_text()  # a fork takes 24 ms there
pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]

# Counts its own CPU time while both spin: whoever ends first does not matter.
SPIN = """\
#!/usr/bin/python3
import os, pathlib, time
pathlib.Path("ready-" + os.environ["BATCHNS_JOB_NAME"]).touch()
while len(list(pathlib.Path(".").glob("ready-*"))) < 2: time.sleep(0.01)
time.sleep(0.2)
begin = time.monotonic(), time.process_time()
while time.monotonic() - begin[0] < 3: pass
print(time.process_time() - begin[1])
"""


def test_shares_of_3_to_1_give_cpu_time_3_to_1(folder):
    """Two spinning jobs on one CPU, within 5 %: the median of three runs, since the machine does other things, too."""
    ratios = []
    for attempt in range(3):
        place = folder / str(attempt)
        place.mkdir()
        table = '[job.resources]\ncpus = 0.4\ncpuset = "0"\ncpu_shares = {}\n'
        ran = run_jobs(
            place,
            job("heavy", SPIN, tables=table.format(3072)),
            job("light", SPIN, tables=table.format(1024)),
        )
        heavy, light = (float(Path(ran.jobs[name]["stdout"]).read_text()) for name in ("heavy", "light"))
        ratios.append(heavy / light)
        if 2.85 < statistics.median(ratios) < 3.15 and len(ratios) != 2:
            break
    assert 2.85 < statistics.median(ratios) < 3.15, ratios


def test_exclusive_cpus_are_exclusive_and_cpuset_jobs_run_nowhere_else(folder):
    last = os.cpu_count() - 1
    script = "taskset -cp $$ | sed 's/.*: //'; sleep 0.5"
    ran = run_jobs(
        folder,
        job("pinned", script, tables=f'[job.resources]\ncpuset = "{last}"'),
        job("one", script),
    )
    lists = {name: Path(ran.jobs[name]["stdout"]).read_text().strip() for name in ("pinned", "one")}
    assert lists["pinned"] == str(last)
    assert lists["one"] != lists["pinned"]


def test_the_memory_limit_ends_a_job_and_its_neighbour_is_untouched(folder):
    grow = "#!/usr/bin/python3\nblocks = []\nwhile True: blocks.append(bytearray(1 << 20))\n"
    hold = "#!/usr/bin/python3\nimport time\nx = bytearray(40 << 20)\ntime.sleep(2)\nprint(len(x))\n"
    table = '[job.resources]\nmemory = "64MiB"\ncpus = 0.5'
    ran = run_jobs(folder, job("grows", grow, tables=table), job("holds", hold, tables=table))
    grows, holds = ran.jobs["grows"], ran.jobs["holds"]
    assert (grows["state"], grows["signal"]) == ("OUT_OF_MEMORY", "SIGKILL")
    assert 60 << 20 < grows["memory_peak_bytes"] <= 64 << 20
    assert (holds["state"], holds["exit_code"]) == ("COMPLETED", 0)
    assert grows["limits"]["memory"]["value"] == 64 << 20


def test_the_pids_limit_holds_a_fork_bomb(folder):
    """The bomb meets EAGAIN, the job ends by its time limit, and nothing of it is left."""
    bomb = (
        "#!/usr/bin/python3\nimport os, time\nmost = refused = 0\nend = time.monotonic() + 20\n"
        "while refused < 10 and time.monotonic() < end:\n"
        "    try:\n        if os.fork() == 0:\n            time.sleep(30)\n        most += 1\n"
        "    except BlockingIOError:\n        refused += 1\n        time.sleep(0.05)\nprint(most)\n"
    )
    ran = run_jobs(folder, job("bomb", bomb, tables="[job.resources]\npids = 40"))
    assert ran.jobs["bomb"]["state"] == "COMPLETED"
    made = int(Path(ran.jobs["bomb"]["stdout"]).read_text())
    assert 30 <= made <= 40


def test_kill_ends_a_job_that_forks_on_and_ignores_signals(folder):
    storm = (
        "#!/usr/bin/python3\nimport os, signal, time\n"
        "for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)\n"
        "while True:\n    try:\n        if os.fork() == 0: os.setsid()\n        else: time.sleep(0.01)\n"
        "    except OSError: time.sleep(0.001)\n"
    )
    ran = run_jobs(
        folder,
        job(
            "storm",
            storm,
            'time_limit = "1s"',
            tables='[job.resources]\npids = 200\n[job.preempt]\nmode = "off"\ngrace_time = "500ms"',
        ),
    )
    result = ran.jobs["storm"]
    assert result["state"] == "TIMEOUT"
    assert result["running_seconds"] < 1.5 + (8 if SLOW_KERNEL else 2)


def test_usage_is_measured(folder):
    """CPU seconds of a spinning job, bytes written with O_SYNC, peak memory: each of the expected size."""
    work = (
        "#!/usr/bin/python3\nimport os, time\nend = time.process_time() + 1\nwhile time.process_time() < end: pass\n"
        "f = os.open('file', os.O_WRONLY | os.O_CREAT | os.O_SYNC)\nos.write(f, bytes(8 << 20))\n"
        "x = bytearray(64 << 20)\nprint(time.process_time())\n"
    )
    # On a disk, where the host has one that can be id-mapped: tmpfs does no block I/O, overlayfs takes no id map.
    disk = subprocess.run(["stat", "-fc", "%T", "/var/tmp"], capture_output=True, text=True, check=True).stdout.strip()
    place = Path(tempfile.mkdtemp(dir="/var/tmp" if disk in ("ext2/ext3", "xfs", "btrfs") else folder))
    try:
        used = run_jobs(place, job("work", work)).jobs["work"]
        burned = float(Path(used["stdout"]).read_text())
    finally:
        shutil.rmtree(place)
    assert 1.0 <= burned <= used["cpu_seconds"] < burned + (1.2 if SLOW_KERNEL else 0.4), (
        "more is only what starting and ending it takes"
    )
    assert 64 << 20 <= used["memory_peak_bytes"] < 160 << 20
    if disk == "ext2/ext3":
        assert used["io_write_bytes"] >= 8 << 20


def test_swap_does_not_widen_the_memory_limit(folder):
    """What does not fit is killed, not swapped: the job's pages that the host could swap count, too."""
    grow = "blocks = []\nfor _ in range(200): blocks.append(bytearray(1 << 20))"
    ran = batchns("run", "--memory", "64MiB", "--", "/usr/bin/python3", "-c", grow, cwd=folder)
    assert ran.code == 137
    assert "OUT_OF_MEMORY" in ran.stderr
