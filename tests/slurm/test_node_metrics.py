"""Metrics of jobs on a cluster's node: from what the kernel counts, with the names that batchns has everywhere."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchns.metrics.contract import JOB
from tests.slurm.fake import FakeSlurm

SCRIPT = Path(__file__).parents[2] / "packaging" / "slurm" / "metrics.py"
OURS = runpy.run_path(str(SCRIPT))
ROW = ("15", "12_3", "alice", "batch", "1100", "4", "2", "batchns:k:0", "train")


def put(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def process(proc: Path, pid: int, state: str = "S", inside: int | None = None, seconds: int = 0) -> None:
    namespaces = f"{pid}" if inside is None else f"{pid}\t{inside}"
    ticks = " ".join([str(seconds * 100)] * 4)
    put(
        proc / str(pid),
        stat=f"{pid} (a ) b) {state} 1 1 1 0 -1 0 0 0 0 0 {ticks} 20 0",
        status=f"Name:\ta\nState:\t{state} (x)\nNSpid:\t{namespaces}\nThreads:\t2\n",
    )


def read(text: str) -> dict[str, float]:
    return {
        sample.name
        + "".join(f" {value}" for key, value in sorted(sample.labels.items()) if key != "job_id"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def rendered(tmp_path: Path, *rows: Any) -> dict[str, float]:
    lines = "".join("\x1f".join(row) + "\n" for row in rows or (ROW,))
    return read(OURS["render"](OURS["jobs"](lines), str(tmp_path / "cg"), str(tmp_path / "proc")))


@pytest.mark.parametrize("name", sorted(OURS["METRICS"]))
def test_it_is_a_metric_of_the_contract(name: str) -> None:
    kind, meaning = OURS["METRICS"][name]
    (metric,) = (one for one in JOB if one.name == name)
    assert (metric.help, metric.type.value.replace("info", "gauge")) == (meaning, kind)


def test_cgroups_of_version_1(tmp_path: Path) -> None:
    for controller in ("memory", "freezer", "cpuacct"):
        folder = tmp_path / "cg" / controller / "slurm_n1" / "uid_7" / "job_15"
        put(folder / "step_batch" / "task_0", cgroup__procs="40\n41\n")
        put(folder, memory__usage_in_bytes="500\n", memory__max_usage_in_bytes="900\n", freezer__state="THAWED\n")
        put(folder, memory__limit_in_bytes="1000\n", memory__oom_control="under_oom 0\noom_kill 3\n")
        put(folder, cpuacct__stat="user 250\nsystem 50\n")
    process(tmp_path / "proc", 40)
    process(tmp_path / "proc", 41, inside=2)
    assert rendered(tmp_path) == {
        "batchns_job_info train batch alice": 1,
        "batchns_job_start_time_seconds": 1100,
        "batchns_job_cpus": 2,
        "batchns_job_cpu_seconds_total user": 2.5,
        "batchns_job_cpu_seconds_total system": 0.5,
        "batchns_job_memory_usage_bytes": 500,
        "batchns_job_memory_peak_bytes": 900,
        "batchns_job_memory_limit_bytes": 1000,
        "batchns_job_oom_kills_total": 3,
        "batchns_job_tasks": 4,
        "batchns_job_frozen": 0,
    }


def test_cgroups_of_version_2(tmp_path: Path) -> None:
    folder = tmp_path / "cg" / "system.slice" / "n1_slurmstepd.scope" / "job_15"
    put(folder / "step_0" / "user" / "task_0", cgroup__procs="40\n")
    put(folder, memory__current="500\n", memory__max="max\n", memory__events="oom 1\noom_kill 2\n")
    put(folder, cpu__stat="usage_usec 3\nuser_usec 1500000\nsystem_usec 500000\n", cgroup__events="frozen 1\n")
    process(tmp_path / "proc", 40)
    found = rendered(tmp_path)
    assert found["batchns_job_cpu_seconds_total user"] == 1.5
    assert found["batchns_job_oom_kills_total"] == 2
    assert found["batchns_job_frozen"] == 1
    assert "batchns_job_memory_limit_bytes" not in found
    assert "batchns_job_memory_peak_bytes" not in found


def test_without_counting_cgroups_the_processes_are_asked(tmp_path: Path) -> None:
    put(tmp_path / "cg" / "freezer" / "slurm" / "uid_7" / "job_15" / "step_batch", cgroup__procs="40\n41\n99\n")
    process(tmp_path / "proc", 40, seconds=1)
    process(tmp_path / "proc", 41, seconds=2)
    found = rendered(tmp_path)
    assert found["batchns_job_cpu_seconds_total user"] == 6
    assert not [name for name in found if "memory" in name]


@pytest.mark.parametrize(("state", "frozen"), [("T", 1), ("S", 0), ("R", 0)])
def test_it_is_frozen_when_all_below_its_init_stand_still(tmp_path: Path, state: str, frozen: int) -> None:
    put(tmp_path / "cg" / "freezer" / "slurm" / "uid_7" / "job_15", cgroup__procs="40 41 42 43")
    process(tmp_path / "proc", 40)  # its supervisor
    process(tmp_path / "proc", 41, inside=1)
    process(tmp_path / "proc", 42, "T", inside=2)
    process(tmp_path / "proc", 43, state, inside=3)
    assert rendered(tmp_path)["batchns_job_frozen"] == frozen


def test_other_jobs_and_lines_that_are_none_are_left_out(tmp_path: Path) -> None:
    assert rendered(tmp_path, (*ROW[:7], "theirs", "x"), ("a", "b"), ("x", *ROW[1:]), ("1", "1 2", *ROW[2:])) == {}


def test_a_name_can_claim_nothing(tmp_path: Path) -> None:
    found = rendered(tmp_path, (*ROW[:8], 'a"} 1\\'))
    assert found['batchns_job_info a"} 1\\ batch alice'] == 1


def test_the_file_is_replaced_as_a_whole_and_goes_when_slurm_does_not_answer(tmp_path: Path) -> None:
    fake = FakeSlurm(tmp_path / "fake")
    fake.put("squeue.says", "\x1f".join(ROW) + "\n")
    folder = put(tmp_path / "textfile", batchns__prom="old")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": fake.path, "SLURMD_NODENAME": "n1"}
        return subprocess.run(
            [sys.executable, "-I", SCRIPT, *words], env=env, capture_output=True, text=True, check=False
        )

    assert run(str(folder)).returncode == 0
    assert "--nodelist=n1" in fake.calls("squeue")[0]
    assert read((folder / "batchns.prom").read_text())["batchns_job_cpus"] == 2
    assert (folder / "batchns.prom").stat().st_mode & 0o777 == 0o644
    fake.put("squeue.error", "Unable to contact slurm controller")
    done = run(str(folder))
    assert (done.returncode, done.stderr.partition(": ")[0]) == (1, "batchns")
    assert list(folder.iterdir()) == []
    assert "is no folder" in run(str(tmp_path / "nowhere")).stderr
