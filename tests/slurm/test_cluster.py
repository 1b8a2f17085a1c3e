"""On a real Slurm: three nodes as namespaces of this machine, jobs of an ordinary user, nothing installed on the nodes.

What is in `make test` shares one cluster and takes less than a minute; what is slow is for `make test-slurm`.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from tests.people import way_for_all
from tests.slurm import cluster
from tests.slurm.cluster import Cluster, running

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not cluster.installed(), reason="Slurm is not installed: make test-slurm"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
USER = "nobody"
LOOP = "i=0; while [ $i -lt 600 ]; do i=$((i+1)); echo $i; sleep 0.1; done"


@define
class Client:
    """An ordinary user on the controller's host. `folder`: seen from all nodes. `config`: a batchns.toml."""

    cluster: Cluster
    folder: Path
    config: str = ""

    def batchns(self, *words: str, code: int | None = 0) -> str:
        """What `batchns WORDS` prints."""
        env = {"HOME": str(self.folder), "BATCHNS_ENGINE": "slurm", "BATCHNS_CONFIG": self.config}
        command = self.cluster.command(sys.executable, "-m", "batchns", *words, user=USER, env=env)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd="/")
        assert code in (None, done.returncode), f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + (done.stderr if code else "")

    def submit(self, text: str, *words: str) -> list[str]:
        file = self.folder / "jobs.toml"
        file.write_text(text)
        return self.batchns("submit", "--parsable", *words, str(file)).split()

    def rows(self, *select: str) -> dict[str, dict[str, Any]]:
        text = self.batchns("ps", "--all", "--json", *select)
        return {row["id"]: row for row in map(json.loads, text.splitlines())}

    def state(self, job_id: str) -> str:
        return str(self.rows(job_id)[job_id]["state"])

    def lines(self, job_id: str, name: str = "loop") -> int:
        path = self.folder / f"{name}-{job_id}.out"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def slurm(self, job_id: str, field: str = "%T") -> str:
        return self.cluster.run("squeue", "-h", "--states=all", "--array", "-j", job_id, "-o", field)


def until(done: Callable[[], object], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def client_of(lab: Cluster, folder: Path) -> Client:
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    return Client(lab, folder)


@pytest.fixture(scope="module")
def reachable() -> Iterator[None]:
    with way_for_all():
        yield


@pytest.fixture(scope="module")
def lab(reachable: None) -> Iterator[Cluster]:
    """Not below pytest's own folders, which are root's alone."""
    with tempfolder() as folder, running(Cluster(folder=folder / "lab")) as made:
        yield made


@pytest.fixture
def client(lab: Cluster, request: pytest.FixtureRequest) -> Client:
    return client_of(lab, lab.folder.parent / request.node.name.partition("[")[0])


def tempfolder() -> Any:
    return cluster.open_folder()


def loops(client: Client, more: str = "", *words: str) -> str:
    """A job that writes ten lines a second, and has begun to."""
    (job_id,) = client.submit(f'name = "loop"\nscript = "{LOOP}"\n{more}', *words)
    until(lambda: client.lines(job_id) > 2, "it has begun")
    return job_id


def stands(client: Client, job_id: str) -> bool:
    before = client.lines(job_id)
    time.sleep(0.5)
    return client.lines(job_id) == before


def nothing_is_left(lab: Cluster) -> bool:
    return not lab.of_jobs(pwd.getpwnam(USER).pw_uid)


@pytest.mark.slow
def test_fifty_jobs_with_an_array_and_a_pipeline(client: Client) -> None:
    plain = "".join(f'[[job]]\nname = "p{number}"\ncommand = ["true"]\n' for number in range(27))
    text = f"""{plain}
[[job]]
name = "prep"
script = "echo 1 > {client.folder}/prep"
[[job]]
name = "sweep"
script = "echo $BATCHNS_ARRAY_TASK_ID >> {client.folder}/sweep; cat {client.folder}/prep"
array = "1-20%10"
dependency = ["afterok:prep"]
[[job]]
name = "sum"
script = "wc -l < {client.folder}/sweep"
dependency = ["afterok:sweep"]
[[job]]
name = "fails"
command = ["sh", "-c", "exit 3"]
dependency = ["afterany:sweep"]
[[job]]
name = "never"
command = ["true"]
dependency = ["afterok:fails"]
"""
    ids = client.submit(text)
    told = client.batchns("wait", *ids, code=1)
    assert "51 jobs: 49 completed, 1 failed, 1 cancelled" in told, told
    by_name = {row["name"]: row for row in client.rows(*ids).values()}
    assert (by_name["fails"]["state"], by_name["fails"]["exit_code"]) == ("FAILED", 3)
    assert by_name["never"]["started"] is None
    assert client.batchns("logs", "sum").strip() == "20"
    over = [json.loads(line)["id"] for line in client.batchns("history", "--json").splitlines()]
    assert len(over) == 51


def test_a_job_is_alone(client: Client) -> None:
    script = (
        "echo pids $(ls /proc | grep -c '^[0-9]'); echo links $(ls /proc/self/net/dev_snmp6 | tr '\\n' ' ');"
        " echo host $(hostname); touch /etc/x 2>&1 | grep -o Read-only; grep Seccomp: /proc/self/status;"
        " grep CapEff /proc/self/status; cat /etc/shadow && echo root; touch here && echo written"
    )
    (job_id,) = client.submit(f"name = \"alone\"\nscript = '''{script}'''")
    client.batchns("wait", "-q", job_id)
    said = client.batchns("logs", job_id).split("\n")
    assert int(said[0].split()[1]) <= 8
    assert said[1].split() == ["links", "lo"]
    assert "host alone" in said
    assert "Read-only" in said
    assert "Seccomp:\t2" in said
    assert "CapEff:\t0000000000000000" in said
    assert "written" in said and "root" not in said


def test_a_command_on_this_terminal(client: Client) -> None:
    said = client.batchns(
        "run", "--cwd", str(client.folder), "--", "sh", "-c", "echo out; echo err >&2; exit 7", code=7
    )
    assert "out\n" in said and "err\n" in said


def test_freeze_thaw_and_the_cancel_of_a_frozen_job(client: Client, lab: Cluster) -> None:
    job_id = loops(client)
    client.batchns("freeze", job_id)
    assert stands(client, job_id)
    assert client.state(job_id) == "SUSPENDED"
    client.batchns("thaw", job_id)
    assert not stands(client, job_id)
    client.batchns("freeze", job_id)
    client.batchns("cancel", job_id)
    client.batchns("wait", "-q", job_id, code=1)
    assert client.state(job_id) == "CANCELLED"
    until(lambda: nothing_is_left(lab), "it has left nothing")


def test_a_dependency_on_a_job_that_is_over(client: Client) -> None:
    """Decided at submission: what Slurm has forgotten it takes for satisfied."""
    bad, good = client.submit('[[job]]\nname = "bad"\ncommand = ["false"]\n[[job]]\nname = "good"\ncommand = ["true"]')
    client.batchns("wait", "-q", bad, good, code=1)
    one = 'name = "next"\ncommand = ["true"]\ndependency = ["{}"]\n'
    (client.folder / "no.toml").write_text(one.format("afterok:bad"))
    assert f"{bad} has ended as FAILED" in client.batchns("submit", str(client.folder / "no.toml"), code=2)
    (job_id,) = client.submit(one.format("afterok:good"))
    client.batchns("wait", "-q", job_id)


def test_output_is_followed_until_the_end(client: Client) -> None:
    (job_id,) = client.submit('name = "writes"\nscript = "for i in 1 2 3; do echo $i; sleep 0.5; done"')
    assert client.batchns("logs", "-f", job_id) == "1\n2\n3\n"


def test_a_signal_is_the_commands(client: Client) -> None:
    script = "trap 'echo got it; exit 0' USR1; echo ready; while :; do sleep 0.1; done"
    (job_id,) = client.submit(f'name = "traps"\nscript = "{script}"')
    until(lambda: client.lines(job_id, "traps"), "it listens")
    client.batchns("cancel", "--signal", "USR1", job_id)
    client.batchns("wait", "-q", job_id)
    assert client.batchns("logs", job_id) == "ready\ngot it\n"


@pytest.mark.slow
def test_a_time_limit_holds_to_the_second_and_stands_still_while_frozen(client: Client) -> None:
    job_id = loops(client, 'time_limit = "3s"\n')
    client.batchns("freeze", job_id)
    time.sleep(3)
    assert client.state(job_id) == "SUSPENDED"
    client.batchns("thaw", job_id)
    client.batchns("wait", "-q", job_id, code=1)
    row = client.rows(job_id)[job_id]
    assert (row["state"], row["reason"]) == ("TIMEOUT", "time limit 3s reached")
    assert 2.9 <= row["running_seconds"] < 4


def test_what_fails_is_tried_again(client: Client) -> None:
    script = f"echo x >> {client.folder}/tries; test $(wc -l < {client.folder}/tries) -eq 3"
    (job_id,) = client.submit(f'name = "again"\nscript = "{script}"\nmax_retries = 3')
    client.batchns("wait", "-q", job_id)
    assert client.rows(job_id)[job_id]["attempt"] == 3


def test_slurms_own_suspension_stops_everything(client: Client, lab: Cluster) -> None:
    job_id = loops(client)
    lab.run("scontrol", "suspend", job_id)
    until(lambda: stands(client, job_id), "it stands", 10)
    assert client.state(job_id) == "SUSPENDED"
    lab.run("scontrol", "resume", job_id)
    until(lambda: not stands(client, job_id), "it goes on", 10)
    lab.run("scontrol", "suspend", job_id)
    until(lambda: stands(client, job_id), "it stands again", 10)
    client.batchns("cancel", job_id)
    until(lambda: client.slurm(job_id) == "CANCELLED" and nothing_is_left(lab), "it has left nothing")


@pytest.mark.slow
def test_an_urgent_job_takes_the_place_of_others_and_they_go_on(client: Client, lab: Cluster) -> None:
    """A node's worth for each."""
    ids = [loops(client, "resources.cpus = 2\n", "--allow-degraded") for _ in lab.names]
    urgent = 'name = "urgent"\nscript = "sleep 3"\nqueue = "urgent"\nresources.cpus = 2\n'
    (first,) = client.submit(urgent, "--allow-degraded")
    until(lambda: client.slurm(first) == "RUNNING", "the urgent job runs")
    (stopped,) = [job_id for job_id in ids if client.slurm(job_id) == "SUSPENDED"]
    until(lambda: stands(client, stopped), "its payload stands still", 3)
    client.batchns("wait", "-q", first)
    until(lambda: not stands(client, stopped), "it goes on")
    client.batchns("cancel", *ids)
    until(lambda: nothing_is_left(lab), "they have left nothing")


@pytest.mark.slow
def test_jobs_of_a_node_that_dies_end_elsewhere_once(client: Client, lab: Cluster) -> None:
    script = f"echo $BATCHNS_JOB_ID begins on $SLURMD_NODENAME; sleep 8; echo $BATCHNS_JOB_ID >> {client.folder}/done"
    ids = client.submit(
        "".join(f'[[job]]\nname = "n{number}"\nscript = "{script}"\nmax_retries = 1\n' for number in range(6))
    )
    until(lambda: all(client.slurm(job_id) == "RUNNING" for job_id in ids), "all run")
    here = [job_id for job_id in ids if client.slurm(job_id, "%N") == "n2"]
    assert here
    try:
        lab.crash_node("n2")
        lab.run("scontrol", "update", "nodename=n2", "state=down", "reason=test")
        until(lambda: all(client.slurm(job_id) == "PENDING" for job_id in here), "they are queued again")
        for job_id in here:  # Slurm waits two minutes, until no credential of the first run is good any more
            lab.run("scontrol", "update", f"jobid={job_id}", "StartTime=now")
        client.batchns("wait", "-q", *ids)
    finally:
        lab.start_node("n2")
        lab.run("scontrol", "update", "nodename=n2", "state=resume", check=False)
    assert sorted((client.folder / "done").read_text().split()) == sorted(ids)
    assert {client.slurm(job_id, "%N") for job_id in here} <= {"n1", "n3"}


@pytest.mark.slow
@pytest.mark.parametrize("proctrack", ["cgroup", "pgid"])
def test_other_ways_of_tracking_processes(reachable: None, proctrack: str) -> None:
    """With Slurm's cgroups memory is held, and is read back; with process groups a suspension reaches all the same."""
    with tempfolder() as folder, running(Cluster(folder=folder / "lab", nodes=1, proctrack=proctrack)) as lab:
        client = client_of(lab, folder / "user")
        job_id = loops(client)
        lab.run("scontrol", "suspend", job_id)
        until(lambda: stands(client, job_id), "it stands", 10)
        lab.run("scontrol", "resume", job_id)
        until(lambda: not stands(client, job_id), "it goes on", 10)
        client.batchns("freeze", job_id)
        assert stands(client, job_id)
        client.batchns("cancel", job_id)
        until(lambda: client.slurm(job_id) == "CANCELLED" and nothing_is_left(lab), "it has left nothing")
        if proctrack == "cgroup":
            script = "head -c 200M /dev/zero | tail -c 190M | wc -c"
            text = f'name = "eats"\nscript = "{script}"\nresources.memory = "50MiB"\n'
            (job_id,) = client.submit(text)
            client.batchns("wait", "-q", job_id, code=1)
            assert client.state(job_id) == "OUT_OF_MEMORY"
            (shown,) = map(json.loads, client.batchns("show", "--json", job_id).splitlines())
            assert 50 << 20 <= shown["limits"]["memory"]["value"] <= 120 << 20


SPREAD = 'name = "spread"\nscript = "{}"\nnetwork.mode = "host"\nslurm.nodes = 2\n'


def test_a_job_of_two_nodes_runs_on_both_and_has_one_result(client: Client, lab: Cluster) -> None:
    script = "echo $BATCHNS_NODE_RANK of $BATCHNS_NODE_COUNT on $SLURMD_NODENAME; grep Seccomp: /proc/self/status"
    (job_id,) = client.submit(SPREAD.format(script))
    client.batchns("wait", "-q", job_id)
    said = [(client.folder / f"spread-{job_id}.out{end}").read_text().split() for end in ("", ".1")]
    assert [words[:4] for words in said] == [["0", "of", "2", "on"], ["1", "of", "2", "on"]]
    assert said[0][4] != said[1][4]
    assert {words[-1] for words in said} == {"2"}
    assert [(client.folder / f"spread-{job_id}.err{end}").read_text() for end in ("", ".1")] == ["", ""]
    (shown,) = map(json.loads, client.batchns("show", "--json", job_id).splitlines())
    assert [one["event"] for one in shown["happened"]] == ["submitted", "started", "completed"]
    until(lambda: nothing_is_left(lab), "it has left nothing")


def test_the_nodes_of_a_job_reach_each_other(client: Client) -> None:
    """By the name that Slurm has for the first."""
    script = """
exec python3 -c '
import os, socket, sys, time
if os.environ["BATCHNS_NODE_RANK"] == "0":
    print(socket.create_server(("", 5000)).accept()[0].recv(100).decode())
else:
    while True:
        try:
            socket.create_connection((sys.argv[1], 5000)).sendall(b"from node 1")
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
' "$BATCHNS_NODE_FIRST"
"""
    quotes = "'" * 3
    (job_id,) = client.submit(
        f'name = "talks"\nscript = {quotes}{script}{quotes}\nnetwork.mode = "host"\nslurm.nodes = 2\n'
    )
    client.batchns("wait", "-q", job_id)
    assert client.batchns("logs", job_id) == "from node 1\n"


def test_a_job_of_two_nodes_fails_as_one_and_the_other_is_ended(client: Client, lab: Cluster) -> None:
    script = "[ $BATCHNS_NODE_RANK = 0 ] && exec sleep 600; sleep 1; exit 7"
    (job_id,) = client.submit(SPREAD.format(script))
    client.batchns("wait", "-q", job_id, code=1)
    row = client.rows(job_id)[job_id]
    assert (row["state"], row["exit_code"]) == ("FAILED", 7)
    assert row["reason"].startswith("node 1 (n") and row["reason"].endswith("exit code 7")
    until(lambda: nothing_is_left(lab), "it has left nothing")


def test_a_job_of_two_nodes_is_frozen_and_cancelled_on_both(client: Client, lab: Cluster) -> None:
    (job_id,) = client.submit(SPREAD.format(LOOP))
    files = [client.folder / f"spread-{job_id}.out{end}" for end in ("", ".1")]

    def lines() -> list[int]:
        return [len(file.read_text().splitlines()) if file.exists() else 0 for file in files]

    def stand(seconds: float = 0.5) -> list[bool]:
        before = lines()
        time.sleep(seconds)
        return [one == other for one, other in zip(before, lines(), strict=True)]

    until(lambda: min(lines()) > 2, "both have begun")
    until(lambda: client.state(job_id) == "RUNNING", "it is said")
    client.batchns("freeze", job_id)
    assert stand() == [True, True]
    assert client.state(job_id) == "SUSPENDED"
    client.batchns("thaw", job_id)
    assert stand() == [False, False]
    client.batchns("freeze", job_id)
    client.batchns("cancel", job_id)
    client.batchns("wait", "-q", job_id, code=1)
    assert client.state(job_id) == "CANCELLED"
    until(lambda: nothing_is_left(lab), "it has left nothing")


def test_a_job_of_two_nodes_ends_when_one_of_them_is_killed(client: Client, lab: Cluster) -> None:
    (job_id,) = client.submit(SPREAD.format(LOOP))
    until(lambda: client.state(job_id) == "RUNNING" and client.lines(job_id, "spread") > 2, "it runs")

    for pid in lab.of_jobs(pwd.getpwnam(USER).pw_uid):
        with suppress(OSError):  # it has ended, with the one before or by itself
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            second = b"\0SLURM_NODEID=1\0" in Path(f"/proc/{pid}/environ").read_bytes()
            if second and words[-2:] == [b"-", b""]:
                os.kill(pid, signal.SIGKILL)
    client.batchns("wait", "-q", job_id, code=1)
    row = client.rows(job_id)[job_id]
    assert row["state"] == "FAILED"
    assert "nothing is known of its end on node" in row["reason"]
    until(lambda: nothing_is_left(lab), "it has left nothing")


@pytest.mark.slow
def test_a_job_of_two_nodes_is_tried_again_stands_still_for_slurm_and_has_a_time_limit(
    client: Client, lab: Cluster
) -> None:
    script = f"[ $BATCHNS_ATTEMPT = 1 ] && exit $BATCHNS_NODE_RANK; {LOOP}"
    more = 'time_limit = "4s"\nmax_retries = 1\n'
    (job_id,) = client.submit(more + SPREAD.format(script))
    other = client.folder / f"spread-{job_id}.out.1"
    until(lambda: other.exists() and len(other.read_text().splitlines()) > 2, "the second attempt runs on both")
    lab.run("scontrol", "suspend", job_id)

    def stands() -> bool:
        before = other.read_text()
        time.sleep(0.5)
        return other.read_text() == before

    until(stands, "it stands", 10)
    lab.run("scontrol", "resume", job_id)
    until(lambda: not stands(), "it goes on", 10)
    client.batchns("wait", "-q", job_id, code=1)
    row = client.rows(job_id)[job_id]
    assert (row["state"], row["attempt"]) == ("TIMEOUT", 2)
    assert "time limit 4s reached" in row["reason"]
    until(lambda: nothing_is_left(lab), "it has left nothing")


def metrics(lab: Cluster, node: str, folder: Path) -> dict[str, float]:
    """As HealthCheckProgram runs it there."""
    env = [f"SLURM_CONF={lab.conf}", f"SLURMD_NODENAME={node}"]
    script = Path(__file__).parents[2] / "packaging" / "slurm" / "metrics.py"
    subprocess.run(lab.on_node(node, "env", *env, sys.executable, str(script), str(folder)), check=True)
    lines = (folder / "batchns.prom").read_text().splitlines()
    return {name.partition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if (name := line)[0] != "#"}


@pytest.mark.slow
def test_a_node_tells_what_its_jobs_use(reachable: None) -> None:
    with tempfolder() as folder, running(Cluster(folder=folder / "lab", nodes=1, proctrack="cgroup")) as lab:
        client = client_of(lab, folder / "user")
        script = "x=$(head -c 20M /dev/zero | tr '\\0' x); while :; do :; done"
        (job_id,) = client.submit(f"name = \"burns\"\nscript = '''{script}'''\nresources.memory = \"200MiB\"\n")
        until(lambda: client.state(job_id) == "RUNNING", "it runs")
        own = f'{{job_id="{job_id}"}}'
        peak = f"batchns_job_memory_peak_bytes{own}"
        until(lambda: metrics(lab, "n1", folder).get(peak, 0) > 20 << 20, "what it holds is seen", 30)
        time.sleep(1)
        found = metrics(lab, "n1", folder)
        first = found[f'batchns_job_cpu_seconds_total{{job_id="{job_id}",mode="user"}}']
        assert first > 0.5
        assert 200 << 20 <= found[f"batchns_job_memory_limit_bytes{own}"] <= 300 << 20
        assert found[f"batchns_job_frozen{own}"] == 0
        client.batchns("freeze", job_id)
        assert metrics(lab, "n1", folder)[f"batchns_job_frozen{own}"] == 1
        client.batchns("cancel", job_id)
        until(lambda: client.slurm(job_id) == "CANCELLED", "it is over")
        assert metrics(lab, "n1", folder) == {}


@pytest.mark.slow
@pytest.mark.parametrize("proctrack", ["cgroup", "pgid"])
def test_a_job_of_two_nodes_with_other_ways_of_tracking_processes(reachable: None, proctrack: str) -> None:
    with tempfolder() as folder, running(Cluster(folder=folder / "lab", nodes=2, proctrack=proctrack)) as lab:
        client = client_of(lab, folder / "user")
        (job_id,) = client.submit(SPREAD.format(LOOP) + 'resources.memory = "50MiB"\n', "--allow-degraded")
        files = [client.folder / f"spread-{job_id}.out{end}" for end in ("", ".1")]
        until(lambda: all(file.exists() and file.read_text() for file in files), "both have begun")
        until(lambda: client.state(job_id) == "RUNNING", "it is said")
        client.batchns("freeze", job_id)
        before = [file.read_text() for file in files]
        time.sleep(0.5)
        assert [file.read_text() for file in files] == before
        if proctrack == "cgroup":
            (shown,) = map(json.loads, client.batchns("show", "--json", job_id).splitlines())
            assert 50 << 20 <= shown["limits"]["memory"]["value"] <= 120 << 20
        client.batchns("cancel", job_id)
        until(lambda: client.slurm(job_id) == "CANCELLED" and nothing_is_left(lab), "it has left nothing")
