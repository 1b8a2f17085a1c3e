"""The common parents under concurrency, freezes that fail, and the launcher's operations: in plain folders."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cgroup_fakes import FakeHost

from batchns.errors import HostError, StepError
from batchns.kernel.cgroups import actions, files
from batchns.kernel.cgroups.common import Common
from batchns.kernel.cgroups.interface import CgroupPlan, Limits, Write


def test_a_held_group_survives_the_release_of_another_run(tmp_path: Path) -> None:
    first, second = Common(str(tmp_path), f"{tmp_path}/locks"), Common(str(tmp_path), f"{tmp_path}/locks")
    first.hold()
    second.hold()
    second.release()
    assert Path(first.path).is_dir()
    first.release()
    assert not Path(first.path).exists()
    first.release()


def test_holding_again_makes_a_removed_group_again(tmp_path: Path) -> None:
    group = Common(str(tmp_path), f"{tmp_path}/locks")
    group.hold()
    os.rmdir(group.path)
    group.hold()
    assert Path(group.path).is_dir()
    group.release()


def test_a_group_with_jobs_is_not_removed(tmp_path: Path) -> None:
    group = Common(str(tmp_path), f"{tmp_path}/locks")
    group.hold()
    Path(group.path, "j1").mkdir()
    group.release()
    assert group.names() == {"j1"}


def test_runs_that_come_and_go_never_take_a_group_from_each_other(tmp_path: Path) -> None:
    """Whatever the interleaving: while one holds the group, it can make a job in it."""
    failures: list[OSError] = []

    def come_and_go(number: int) -> None:
        for _ in range(200):
            group = Common(str(tmp_path), f"{tmp_path}/locks")
            group.hold()
            try:
                Path(group.path, f"j{number}").mkdir()
                Path(group.path, f"j{number}").rmdir()
            except OSError as error:
                failures.append(error)
            group.release()

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not Path(tmp_path, "batchns").exists()


def test_a_group_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No such file or directory - its parent does not exist"):
        Common(str(tmp_path / "nowhere"), f"{tmp_path}/locks").hold()


def test_a_v2_freeze_that_is_not_confirmed_is_rolled_back(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    job = host.unified() / "batchns" / "j1"
    job.mkdir(parents=True)
    (job / "cgroup.freeze").write_text("0")
    (job / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    start = time.monotonic()
    assert host.driver().freeze("j1", 0.2) is False
    assert 0.2 <= time.monotonic() - start < 1
    assert (job / "cgroup.freeze").read_text() == "0"


def test_a_v1_freeze_that_is_not_confirmed_is_rolled_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for again and again, since tasks forked while FREEZING may have missed it; then it is thawed."""
    host = FakeHost(tmp_path)
    host.mount("freezer", "freezer")
    driver = host.driver()
    asked: list[str] = []
    monkeypatch.setattr(files, "write", lambda path, value: asked.append(value))
    monkeypatch.setattr(files, "read", lambda path: "THAWED\n" if asked[-1] == "THAWED" else "FREEZING\n")
    assert driver.freeze("j1", 0.1) is False
    assert asked.count("FROZEN") > 3
    assert asked[-1] == "THAWED"


def test_freezing_a_job_that_is_not_there_says_so(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.unified()
    with pytest.raises(FileNotFoundError):
        host.driver().freeze("none", 0.1)


def test_apply_reads_back_limits_and_notes_optional_failures(tmp_path: Path) -> None:
    job = tmp_path / "j1"
    limit, plumbing = tmp_path / "pids.max", tmp_path / "plumbing"
    limit.touch()
    plumbing.touch()
    plan = CgroupPlan(
        directories=(str(job),),
        writes=(
            Write(str(limit), "64", "pids"),
            Write(str(plumbing), "0"),
            Write(str(tmp_path / "absent"), "1", "memory", required=False),
        ),
        final_reads=(str(limit), str(tmp_path / "absent")),
    )
    assert actions.apply(plan) == {str(limit): "64", str(tmp_path / "absent"): 2}
    assert plumbing.read_text() == "0"
    assert actions.read_final(plan) == {str(limit): "64"}
    assert actions.remove(plan) == []
    assert actions.remove(plan) == []


def test_apply_undoes_what_it_made_and_names_the_step(tmp_path: Path) -> None:
    first = tmp_path / "j1"
    plan = CgroupPlan(directories=(str(first),), writes=(Write(str(tmp_path / "absent"), "64", "pids"),))
    with pytest.raises(StepError, match=r"cgroup: .*/absent: No such file.* - the value was '64', for pids"):
        actions.apply(plan)
    assert not first.exists()


def test_apply_below_a_removed_parent_says_so(tmp_path: Path) -> None:
    plan = CgroupPlan(directories=(str(tmp_path / "batchns" / "j1"),))
    with pytest.raises(StepError, match="batchns was removed while batchns was running"):
        actions.apply(plan)


def test_a_driver_that_cannot_be_prepared_holds_nothing(tmp_path: Path) -> None:
    """One hierarchy of two lacks its parent: the other one's group is gone again."""
    host = FakeHost(tmp_path)
    host.mount("cpu", "cpu")
    lost = host.mount("pids", "pids", own="/was/here")
    driver = host.driver()
    lost.rmdir()
    with pytest.raises(HostError, match="its parent does not exist"):
        driver.prepare()
    assert not (host.root / "cpu" / "batchns").exists()


def test_the_launchers_part_imports_little() -> None:
    """It is forked for every job."""
    code = "import sys, batchns.kernel.cgroups.actions as a; print('attr' in sys.modules or 'attrs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_a_plan_is_the_same_each_time(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.unified()
    driver = host.driver()
    assert driver.plan("j1", Limits(pids=1)) == driver.plan("j1", Limits(pids=1))


def test_kept_open_files_are_bounded_and_follow_the_file(tmp_path: Path) -> None:
    kept = files.KeptOpen(limit=2)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        path = tmp_path / str(number)
        path.write_text(f"{number}\n")
        assert kept.read(str(path)) == f"{number}\n"
        path.write_text("again\n")
        assert kept.read(str(path)) == "again\n"
    assert len(os.listdir("/proc/self/fd")) - before == 2
    assert kept.read(str(tmp_path / "absent")) is None
    kept.forget("")
    assert len(os.listdir("/proc/self/fd")) == before
