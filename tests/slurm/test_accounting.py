"""A cluster with accounting: slurmdbd and sacctmgr, sacct for what the controller has forgotten, accounts enforced."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest

from tests.people import way_for_all
from tests.slurm import cluster
from tests.slurm.cluster import Cluster, running
from tests.slurm.test_cluster import USER, Client, client_of, tempfolder, until
from tests.slurm.test_cluster import pytestmark as on_a_cluster

pytestmark = [
    *on_a_cluster,
    pytest.mark.skipif(not cluster.accounts_installed(), reason="slurmdbd is not installed: make test-slurm"),
]
RECORDS = ".local/state/batchns/slurm"
JOB = '[[job]]\nname = "NAME"\ncommand = ["sh", "-c", "COMMAND"]\nstdout = "/dev/null"\nslurm.account = "physics"\n'


@pytest.fixture(scope="module")
def lab() -> Iterator[Cluster]:
    with (
        way_for_all(),
        tempfolder() as folder,
        running(Cluster(folder=folder / "lab", nodes=1, accounts={"physics": [USER], "biology": []})) as made,
    ):
        yield made


@pytest.fixture
def client(lab: Cluster, request: pytest.FixtureRequest) -> Client:
    return client_of(lab, lab.folder.parent / request.node.name)


def job(name: str, command: str, account: str = "physics") -> str:
    return JOB.replace("NAME", name).replace("COMMAND", command).replace("physics", account)


def accounted(client: Client, job_id: str) -> str:
    """Account, state and comment."""
    return client.cluster.run("sacct", "-nXP", "--format=Account,State,Comment", f"--jobs={job_id}")


def test_an_account_that_the_user_has_not_is_refused_before_anything_is_submitted(client: Client) -> None:
    (client.folder / "jobs.toml").write_text(job("wrong", "true", "biology"))
    said = client.batchns("check", "--to", "slurm", str(client.folder / "jobs.toml"), code=2)
    assert "slurm.account" in said and "physics" in said
    said = client.batchns("submit", str(client.folder / "jobs.toml"), code=2)
    assert "slurm.account" in said
    assert client.rows() == {}


def test_what_the_controller_has_forgotten_is_told_from_accounting(client: Client) -> None:
    fine, failed = client.submit(job("fine", "true") + job("failed", "exit 7"))
    (array,) = client.submit(job("many", "exit $BATCHNS_ARRAY_TASK_ID") + 'array = "0-2"\n')
    tasks = [f"{array}_{index}" for index in range(3)]
    until(lambda: all(row["ended"] for row in client.rows().values()), "jobs are over")
    for one in (fine, failed, *tasks):
        until(lambda one=one: "batchns:" in accounted(client, one), f"{one} is accounted")
    assert accounted(client, fine).startswith("physics|COMPLETED|batchns:")
    before = {name: row for name, row in client.rows().items() if row["ended"]}

    client.cluster.forget_jobs()
    states = {fine: "COMPLETED", failed: "FAILED", tasks[0]: "COMPLETED", tasks[1]: "FAILED", tasks[2]: "FAILED"}
    for elsewhere in (False, True):  # where nothing is known of it but what sacct says
        if elsewhere:
            shutil.rmtree(client.folder / RECORDS)
        told = {row["id"]: row for row in map(json.loads, client.batchns("history", "--json").splitlines())}
        assert {name: told[name]["state"] for name in states} == states
        assert [told[one]["exit_code"] for one in (failed, tasks[2])] == [7, 2]
        assert abs(told[failed]["ended"] - before[failed]["ended"]) < 5
        shown = json.loads(client.batchns("show", "--json", failed))
        assert (shown["row"]["state"], shown["row"]["name"], shown["row"]["exit_code"]) == ("FAILED", "failed", 7)


def test_a_submission_whose_answer_was_lost_is_found_again_there(client: Client) -> None:
    (client.folder / "jobs.toml").write_text(job("once", "true"))
    words = ("submit", "--parsable", "--key", "lost", str(client.folder / "jobs.toml"))
    first = client.batchns(*words).strip()
    until(lambda: "COMPLETED|batchns:lost:0" in accounted(client, first), "it is accounted")
    client.cluster.forget_jobs()
    path = client.folder / RECORDS / "submissions" / "lost.json"
    table = json.loads(path.read_text())
    del table["jobs"][0]["id"]
    path.write_text(json.dumps(table))
    assert client.batchns(*words).strip() == first
    assert client.cluster.run("squeue", "-h", "--states=all") == ""
