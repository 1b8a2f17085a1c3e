"""A job gets nothing of batchns's own run and state folders, however it asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve
from supervise_fakes import bench, spec

from batchns.errors import UserError
from batchns.model.config import Config, Paths
from batchns.model.job import Bind, Isolation, JobSpec
from batchns.model.lifecycle import State
from batchns.supervise import own


def binding(one: JobSpec, source: str, *, read_only: bool = False) -> JobSpec:
    return evolve(one, isolation=Isolation(binds=(Bind(source, "/tmp/x", read_only),)))


def rooted(one: JobSpec, root: str) -> JobSpec:
    return evolve(one, isolation=Isolation(rootfs=root))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda one, top: rooted(one, f"{top}/run"), "isolation.rootfs: TOP/run: batchns keeps its own files in TOP/"),
        (lambda one, top: rooted(one, str(top)), "isolation.rootfs: TOP: batchns keeps its own files in TOP/"),
        (lambda one, top: evolve(one, cwd=f"{top}/state"), "cwd: TOP/state: batchns keeps its own files in TOP/state"),
        (lambda one, top: evolve(one, cwd=f"{top}/state/x"), "cwd: TOP/state/x: "),
        (lambda one, top: evolve(one, cwd=f"{top}"), "cwd: TOP: "),
        (lambda one, top: binding(one, f"{top}/run"), "isolation.binds: TOP/run: "),
        (lambda one, top: binding(one, f"{top}/run/run-abcde"), "isolation.binds: TOP/run/run-abcde: "),
        (lambda one, top: binding(one, f"{top}/jobs/../run"), "isolation.binds: TOP/jobs/../run: "),
        (lambda one, top: binding(one, "/", read_only=True), "isolation.binds: /: "),
        (lambda one, top: binding(one, "/run/user/1000"), "isolation.binds: /run/user/1000: services of users' "),
        (lambda one, top: binding(one, "/run"), "isolation.binds: /run: services of users' sessions listen in "),
        (lambda one, top: evolve(one, stdout=f"{top}/run/log"), "stdout: TOP/run/log: batchns keeps its own files"),
        (lambda one, top: evolve(one, stderr=f"{top}/jobs/../state/next_job_id"), "stderr: TOP/jobs/../state/next_jo"),
    ],
)
def test_a_job_that_asks_for_batchnss_own_folders_is_refused(tmp_path: Path, ask, message: str) -> None:
    """By cwd, bind, root or output, in it or around it; other jobs run."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    config = Config(paths=Paths(run=f"{tmp_path}/run", state=f"{tmp_path}/state"))
    here = bench(tmp_path, config=config)
    results = here.run([ask(spec(jobs), tmp_path), spec(jobs, "runtime"), binding(spec(jobs, "b"), f"{tmp_path}/runs")])
    assert results["7"].state is State.FAILED
    assert results["7"].reason.startswith(message.replace("TOP", str(tmp_path)))
    assert [results["8"].state, results["9"].state] == [State.COMPLETED] * 2
    assert here.runs.taken == []
    assert [path.name for path in tmp_path.iterdir()] == ["jobs"]


def test_a_folder_that_is_reached_through_a_link_is_batchnss_own_all_the_same(tmp_path: Path) -> None:
    """/var/run is one on most machines."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    config = Config(paths=Paths(run=f"{tmp_path}/link/run", state=f"{tmp_path}/link/state"))
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    results = bench(tmp_path, config=config).run([binding(spec(jobs), f"{tmp_path}/real/run")])
    assert results["7"].reason.startswith(f"isolation.binds: {tmp_path}/real/run: batchns keeps its own files")


def test_the_root_as_working_folder_is_no_bind_and_no_trouble(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    assert bench(tmp_path).run([evolve(spec(jobs), cwd="/")])["7"].state is State.COMPLETED


@pytest.mark.parametrize("path", ["/srv/batchns.sock", "/home/b.sock", "/runner/b.sock", "/run/../srv/b.sock"])
def test_a_socket_that_jobs_could_connect_to_is_refused(path: str) -> None:
    with pytest.raises(UserError, match="is in reach of jobs"):
        own.check_hidden("daemon.socket", path)


@pytest.mark.parametrize("path", ["/run/batchns/batchns.sock", "/tmp/trial/run/b.sock", "/dev/shm/b.sock"])
def test_a_socket_that_the_sandbox_hides_is_not(path: str) -> None:
    own.check_hidden("daemon.socket", path)
