"""The commands of the command line, with tools that are scripts."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from batchns.cli.connect import engine_name
from batchns.cli.main import cli
from batchns.errors import UserError
from batchns.model.job import JobSpec
from batchns.model.submitter import Submitter
from tests.slurm.fake import FakeSlurm, jobs

Run = Callable[..., Result]


@pytest.fixture
def run(fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> Run:
    alice = Submitter(name="alice", uid=1000, gid=1000)
    monkeypatch.setattr("batchns.supervise.users.current", lambda: alice)
    monkeypatch.setenv("PATH", fake.path)
    monkeypatch.setenv("HOME", str(fake.folder))
    monkeypatch.delenv("BATCHNS_CONFIG", raising=False)

    def run(*words: str) -> Result:
        return CliRunner().invoke(cli, words)

    return run


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "jobs.toml"
    path.write_text(jobs("a", "b", b='array = "0-3"'))
    return str(path)


def test_a_file_is_submitted_and_looked_at(run: Run, file: str, fake: FakeSlurm) -> None:
    assert run("submit", "--to", "slurm", file).output == "submitted job 101 (a)\nsubmitted job 102 (b): 4 tasks\n"
    fake.queue(
        {"id": "101", "name": "a", "state": "FAILED", "ended": "1500"},
        {"id": "102_0", "name": "b", "state": "PENDING", "reason": "Resources"},
    )
    fake_state = Path(fake.folder, ".local/state/batchns/slurm")
    (fake_state / "queue.json").unlink(missing_ok=True)
    key = json.loads(next((fake_state / "submissions").glob("*.json")).read_text())["key"]
    fake.put("squeue.says", (fake.bin / "squeue.says").read_text().replace("batchns:k:0", f"batchns:{key}:0"))
    listed = run("ps", "--to", "slurm", "-a").output
    assert "101" in listed and "FAILED" in listed and "for room on the cluster" in listed
    assert "waits for room on the cluster" in run("why", "--to", "slurm", "102_0").output
    shown = run("show", "--to", "slurm", "101").output
    assert shown.startswith("101 a: FAILED") and "command    true" in shown
    assert run("cancel", "--to", "slurm", "102_0").output == "102_0 cancelled\n"
    assert fake.calls("scancel") == [["scancel", "102_0"]]


def test_what_the_cluster_lacks_is_named_and_has_to_be_agreed_to(run: Run, tmp_path: Path, fake: FakeSlurm) -> None:
    path = tmp_path / "jobs.toml"
    path.write_text(jobs("a", a="resources.pids = 5"))
    checked = run("check", "--to", "slurm", str(path))
    assert checked.exit_code == 2 and "resources.pids: Slurm bounds no number" in checked.output
    refused = run("submit", "--to", "slurm", str(path))
    assert refused.exit_code != 0 and fake.submissions() == []
    assert run("submit", "--to", "slurm", "--allow-degraded", "--parsable", str(path)).output == "101\n"


def test_a_plain_job_has_nothing_to_be_agreed_to(run: Run, file: str) -> None:
    assert run("check", "--to", "slurm", file).output == "the cluster can do all that is asked for\n"


def test_where_jobs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "batchns.toml"
    settings.write_text('[engine]\ndefault = "slurm"\n')
    nowhere = str(tmp_path / "nowhere")
    assert engine_name({}, nowhere) == "local"
    assert engine_name({}, str(settings)) == "slurm"
    assert engine_name({"BATCHNS_CONFIG": str(settings)}, nowhere) == "slurm"
    assert engine_name({"BATCHNS_ENGINE": "local"}, str(settings)) == "local"


def test_users_and_clusters_do_not_mix(run: Run, file: str) -> None:
    assert "Slurm knows who you are" in run("run", "--to", "slurm", "--user", "bob", file).output


def test_a_key_submits_once(run: Run, file: str, fake: FakeSlurm) -> None:
    for _ in range(2):
        assert run("submit", "--to", "slurm", "--key", "mine", "--parsable", file).output == "101\n102\n"
    assert len(fake.submissions()) == 2


def test_the_engine_that_is_usual_is_that_of_run_and_check(
    run: Run, file: str, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHNS_ENGINE", "slurm")
    assert run("check", file).output == "the cluster can do all that is asked for\n"
    assert "Slurm knows who you are" in run("run", "--user", "bob", file).output
    assert "do not mix" in run("check", "--plan", file).output


def test_an_engine_that_is_none_is_refused(run: Run, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHNS_ENGINE", "Slurm")
    refused = run("submit", file)
    assert isinstance(refused.exception, UserError) and "write local or slurm" in str(refused.exception)


def test_what_a_cluster_lacks_as_json(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "jobs.toml"
    path.write_text(jobs("a", a="resources.pids = 5"))
    checked = run("check", "--to", "slurm", "--json", str(path))
    (problem,) = map(json.loads, checked.output.splitlines())
    assert (checked.exit_code, problem["path"], problem["fatal"]) == (2, "resources.pids", False)
    path.write_text("nonsense = 1\n")
    assert json.loads(run("check", "--to", "slurm", "--json", str(path)).output.splitlines()[0])["file"]


def test_what_a_user_cannot_have_is_said_before_anything_is_submitted(
    run: Run, file: str, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared(spec: JobSpec, scratch: int) -> None:
        if spec.name == "b":
            raise UserError("not for you", "another one")

    monkeypatch.setattr("batchns.supervise.batch.prepare.prepared", prepared)
    checked = run("check", "--to", "slurm", file)
    assert checked.exit_code == 2 and "not for you" in checked.output and "it cannot run there" in checked.output
    assert isinstance(run("submit", "--to", "slurm", file).exception, UserError)
    assert fake.submissions() == []


def test_an_interrupted_run_of_files_cancels_its_jobs(
    run: Run, file: str, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(*words: object, **more: object) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 10
        while not fake.calls("scancel") and time.monotonic() < deadline:
            time.sleep(0.05)
        return 1

    monkeypatch.setattr("batchns.cli.wait.wait_and_tell", wait)
    assert run("run", "--to", "slurm", file).exit_code == 130
    assert fake.calls("scancel") == [["scancel", "101", "102"]]
