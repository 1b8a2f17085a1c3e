"""`batchns run FILE...`: queue, dependencies, arrays, retries, outputs, results."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from .conftest import batchns, start, until

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]


def job(name: str, script: str, *lines: str, tables: str = "") -> str:
    """One [[job]] of a job file."""
    head = "\n".join(("[[job]]", f'name = "{name}"', f"script = '''\n{script}\n'''", *lines))
    return f"{head}\n{tables}\n"


def run_jobs(folder: Path, *jobs: str, options: tuple[str, ...] = ()):
    (folder / "jobs.toml").write_text("\n".join(jobs))
    return batchns("run", "--json", *options, "jobs.toml", cwd=folder)


def test_outputs_are_beside_the_job_file_with_the_job_id_in_their_names(folder):
    ran = run_jobs(folder, job("hello", "echo out; echo err >&2"))
    result = ran.jobs["hello"]
    assert (ran.code, result["state"]) == (0, "COMPLETED")
    assert result["stdout"] == str(folder / f"hello-{result['job_id']}.out")
    assert Path(result["stdout"]).read_text() == "out\n"
    assert Path(result["stderr"]).read_text() == "err\n"


def test_two_runs_never_write_to_the_same_output(folder):
    first = run_jobs(folder, job("hello", "echo 1")).jobs["hello"]
    second = run_jobs(folder, job("hello", "echo 2")).jobs["hello"]
    assert first["stdout"] != second["stdout"]
    assert Path(first["stdout"]).read_text() == "1\n"


def test_an_output_that_is_a_symbolic_link_is_refused_and_its_target_untouched(folder):
    victim = folder / "victim"
    victim.write_text("precious")
    (folder / "log").symlink_to(victim)
    ran = run_jobs(folder, job("hello", "echo overwritten", 'stdout = "log"'))
    assert ran.jobs["hello"]["state"] == "FAILED"
    assert "log" in ran.jobs["hello"]["reason"]
    assert victim.read_text() == "precious"


def test_an_output_with_a_second_name_is_refused(folder):
    """A hard link to somebody else's file is as good as a symbolic one."""
    victim = folder / "victim"
    victim.write_text("precious")
    os.link(victim, folder / "log")
    ran = run_jobs(folder, job("hello", "echo overwritten", 'stdout = "log"'))
    assert ran.jobs["hello"]["state"] == "FAILED"
    assert victim.read_text() == "precious"


def test_dependencies_order_the_jobs_and_what_can_never_run_is_cancelled(folder):
    ran = run_jobs(
        folder,
        job("last", "cat made && echo last >> order", 'dependency = ["afterok:first"]'),
        job("first", "sleep 0.3; echo made > made; echo first >> order"),
        job("fails", "exit 9"),
        job("never", "echo never >> order", 'dependency = ["afterok:fails"]'),
        job("cleanup", "echo cleanup >> order", 'dependency = ["afternotok:fails"]'),
    )
    states = {name: result["state"] for name, result in ran.jobs.items()}
    assert states == {
        "last": "COMPLETED",
        "first": "COMPLETED",
        "fails": "FAILED",
        "never": "CANCELLED",
        "cleanup": "COMPLETED",
    }
    assert ran.jobs["fails"]["exit_code"] == 9
    order = (folder / "order").read_text().split()
    assert order.index("first") < order.index("last")
    assert "never" not in order
    assert ran.code == 1


def test_array_tasks_know_their_index_and_their_number_at_a_time_is_bounded(folder):
    script = (
        "task=$BATCHNS_ARRAY_TASK_ID\n"
        "mkdir slot-$task; ls -d slot-* | wc -l >> seen; sleep 0.2; rmdir slot-$task; echo $task >> done"
    )
    ran = run_jobs(folder, job("sweep", script, 'array = "1-6%2"', tables="[job.resources]\ncpus = 0.1"))
    assert len(ran.jobs) == 6
    assert {result["state"] for result in ran.jobs.values()} == {"COMPLETED"}
    assert sorted(map(int, (folder / "done").read_text().split())) == [1, 2, 3, 4, 5, 6]
    assert max(map(int, (folder / "seen").read_text().split())) == 2


def test_a_failing_job_is_tried_again_and_each_attempt_has_its_own_log(folder):
    script = "echo attempt $BATCHNS_ATTEMPT; test -e marker && exit 0; touch marker; exit 5"
    ran = run_jobs(folder, job("retry", script, "max_retries = 2"))
    result = ran.jobs["retry"]
    assert (ran.code, result["state"], result["exit_code"]) == (0, "COMPLETED", 0)
    logs = sorted(path.read_text() for path in folder.glob("retry-*.out"))
    assert logs == ["attempt 1\n", "attempt 2\n"]


def test_jobs_of_larger_priority_go_first(folder):
    jobs = [
        job(f"p{priority}", f"echo {priority} >> order", f"priority = {priority}", tables='[job.resources]\ncpuset="0"')
        for priority in (10, 90, 50)
    ]
    assert run_jobs(folder, *jobs).code == 0
    assert (folder / "order").read_text().split() == ["90", "50", "10"]


def test_the_time_limit_ends_a_job_that_ignores_it(folder):
    ran = run_jobs(
        folder,
        job(
            "stubborn",
            "trap '' TERM; while :; do sleep 0.1; done",
            'time_limit = "500ms"',
            tables='[job.preempt]\nmode = "off"\ngrace_time = "500ms"',
        ),
    )
    result = ran.jobs["stubborn"]
    assert (result["state"], result["signal"]) == ("TIMEOUT", "SIGKILL")
    assert 0.9 < result["running_seconds"] < 3


def test_more_than_the_machine_has_is_refused_before_anything_starts(folder):
    ran = run_jobs(
        folder, job("fits", "touch started"), job("huge", "true", tables='[job.resources]\nmemory = "900TiB"')
    )
    assert ran.code == 2
    assert "memory" in ran.stderr
    assert not (folder / "started").exists()


def test_all_mistakes_of_all_files_are_told_at_once_and_nothing_starts(folder):
    (folder / "good.toml").write_text('name = "good"\nscript = "touch started"\n')
    (folder / "bad.toml").write_text('name = "a/b"\ncommand = ["true"]\n[resources]\nmemory = 64\ncpu = 1\n')
    ran = batchns("run", str(folder), cwd=folder)
    assert ran.code == 2
    lines = ran.stderr.splitlines()
    assert [line.split(": ")[0].rpartition(":")[2] for line in lines] == ["1", "4", "5"]
    assert all(" - " in line for line in lines)
    assert not (folder / "started").exists()


def test_a_strict_job_is_refused_where_a_limit_cannot_be_enforced(folder):
    """Without strict the same job runs, and its result says that the limit is not in force and why."""
    table = "[job.resources]\nblkio_weight = 100\nstrict = {}\n"
    strict = run_jobs(folder, job("weighted", "true", tables=table.format("true"))).jobs["weighted"]
    loose = run_jobs(folder, job("weighted", "true", tables=table.format("false"))).jobs["weighted"]
    reading = loose["limits"]["blkio_weight"]
    if reading["value"] is None:
        assert "bfq" in reading["why"]
        assert strict["state"] == "FAILED"
        assert "blkio_weight" in strict["reason"]
    else:
        assert strict["state"] == "COMPLETED"
    assert loose["state"] == "COMPLETED"


def test_an_interrupt_ends_what_runs_and_cancels_what_waits(folder):
    long = 'trap "exit 0" TERM; touch ready; sleep 60'
    (folder / "jobs.toml").write_text(job("long", long) + job("later", "true", 'dependency = ["afterok:long"]'))
    process = start("run", "--json", "jobs.toml", cwd=folder)
    until((folder / "ready").exists)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out.count('"state": "CANCELLED"') == 2
    assert "Traceback" not in err
