"""A job of several nodes without a Slurm: what nodes tell the first one, and the one result that it makes of that."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchns.slurm.lint import lacks
from batchns.slurm.mapping import order
from batchns.supervise.batch import member, nodes, single
from batchns.supervise.batch.main import main
from batchns.supervise.batch.member import Heard, Orders, say
from batchns.supervise.batch.results import Result
from batchns.supervise.batch.wanted import wanted
from tests.slurm.fake import FakeSlurm, jobs, request
from tests.slurm.test_mapping import ALL, job, target

# srun, and all nodes in one: the job comes by stdin, `tell` says something of a node, `told` is what came since.
SRUN = """
import json, signal, sys
from batchns.supervise.batch.member import say
signal.alarm(5)  # no order comes
job = json.loads(sys.stdin.readline())
def tell(rank, state, **more):
    say(1, rank, {"state": state, "host": f"n{rank}", "happened": [], **more})
def over(rank, state, **more):
    tell(rank, state, over=True, **more)
def told():
    return sys.stdin.readline().strip()
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[int, dict[str, Any]]]]:
    """Runs a job of two nodes, which do what the text says: its exit code, and its result."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals() - {9, 19}}
    monkeypatch.setattr(single.os, "geteuid", lambda: 1000)
    (tmp_path / "results").mkdir()

    def run(text: str, retries: int = 0) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr(nodes.Coordination, "_words", lambda self: [sys.executable, "-c", SRUN + text])
        environ = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURMD_NODENAME": "n1", **os.environ}
        spec = {"name": "a", "max_retries": retries}
        result = Result.of_job(str(tmp_path), "7", "k", "n[1-2]")
        code = nodes.Coordination(wanted(spec), {"spec": spec}, "7", result, environ).run()
        return code, json.loads((tmp_path / "results" / "7.json").read_text())

    yield run
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        if handler is not None:
            signal.signal(number, handler)


def events(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["event"], one["detail"]) for one in result["happened"]]


def test_what_nodes_say_is_put_together_though_lines_are_mixed() -> None:
    """srun passes lines on as a whole when they are shorter than 1 KiB."""
    reading, writing = os.pipe()
    long = {"text": "x" * 5000, "n": 1}
    say(writing, 3, long)
    say(writing, 11, {"n": 2})
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        lines = file.read().splitlines(keepends=True)
    assert max(map(len, lines)) < 1024
    mixed = b"".join([lines[-1], b"srun: a word of its own\n", *lines[:-1]])
    heard = Heard()
    found = [message for at in range(0, len(mixed), 7) for message in heard.messages(mixed[at : at + 7])]
    assert found == [(11, {"n": 2}), (3, long)]


def test_it_has_completed_when_it_has_on_all(made: Any) -> None:
    code, result = made("""
for rank in (1, 0): tell(rank, "RUNNING", limits={"memory": {"value": rank}})
over(0, "COMPLETED", running_seconds=2.0, usage={"cpu_seconds": 1.5, "memory_peak_bytes": 10})
over(1, "COMPLETED", running_seconds=3.0, usage={"cpu_seconds": 1.0, "memory_peak_bytes": 20})
""")
    assert (code, result["state"], result["exit_code"], result["host"]) == (0, "COMPLETED", 0, "n[1-2]")
    assert result["usage"] == {"cpu_seconds": 2.5, "memory_peak_bytes": 30}
    assert (result["running_seconds"], result["limits"]) == (3.0, {"memory": {"value": 0}})
    assert events(result) == [("started", "on 2 nodes"), ("completed", "")]


def test_the_first_node_that_fails_says_how_it_ended_and_the_other_is_asked_to_end(made: Any) -> None:
    code, result = made("""
for rank in (0, 1): tell(rank, "RUNNING")
over(1, "FAILED", exit_code=7, reason="exit code 7")
over(0, "CANCELLED", signal="SIGTERM", usage={"cpu_seconds": int(told())})
""")
    assert result["usage"] == {"cpu_seconds": 15}
    assert (code, result["state"], result["exit_code"]) == (7, "FAILED", 7)
    assert result["reason"] == "node 1 (n1): exit code 7"


def test_it_is_frozen_when_it_is_on_all(made: Any) -> None:
    _, result = made("""
for rank in (0, 1): tell(rank, "RUNNING")
tell(0, "SUSPENDED", running_seconds=1.0)
tell(0, "RUNNING")
for rank in (0, 1): tell(rank, "SUSPENDED", running_seconds=2.0)
tell(1, "RUNNING")
tell(0, "RUNNING")
for rank in (0, 1): over(rank, "COMPLETED")
""")
    assert [event for event, _ in events(result)] == ["started", "frozen", "thawed", "completed"]


def test_signals_go_on_to_all_nodes_and_a_cancelled_job_is_one(made: Any) -> None:
    code, result = made("""
import os, signal
for rank in (0, 1): tell(rank, "RUNNING")
for number in (35, 36, 12, 15): os.kill(os.getppid(), number); assert told() == str(number), number
for rank in (0, 1): over(rank, "CANCELLED", signal="SIGTERM", reason="of this node")
""")
    assert (code, result["state"]) == (143, "CANCELLED")
    assert result["reason"].startswith("ended by Slurm")


def test_all_of_it_is_tried_again(made: Any) -> None:
    code, result = made(
        """
assert (job["spec"]["max_retries"], job["first"]) == (0, "n1")
for rank in (0, 1): tell(rank, "RUNNING")
over(0, "FAILED" if job["attempt"] == 1 else "COMPLETED", running_seconds=1.0)
over(1, "COMPLETED", running_seconds=1.0)
""",
        retries=2,
    )
    assert (code, result["state"], result["attempts"], result["running_seconds"]) == (0, "COMPLETED", 2, 2.0)


@pytest.mark.parametrize("text", ["", 'over(0, "COMPLETED")', 'over(0, "CANCELLED")', "sys.exit(1)"])
def test_a_node_that_says_nothing_has_not_completed(made: Any, text: str) -> None:
    code, result = made(text)
    assert (code, result["state"]) == (1, "FAILED")
    assert "nothing is known of its end on node " in result["reason"]


def test_a_host_without_srun_says_so(tmp_path: Path, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*words: Any, **more: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(nodes.subprocess, "Popen", missing)
    with pytest.raises(Exception, match="srun: No such file"):
        made("")


def test_the_end_of_the_first_node_is_an_order_to_end_and_heard_once() -> None:
    reading, writing = os.pipe()
    orders = Orders(reading)
    os.write(writing, b'{"a": 1}\n35\n3')
    assert orders.first() == {"a": 1}
    assert orders.numbers() == [35]
    os.write(writing, b"6\n")
    assert orders.numbers() == [36]
    assert orders.numbers() == []
    os.close(writing)
    assert orders.numbers() == [signal.SIGTERM]
    assert orders.numbers() == []
    os.close(reading)


def test_a_node_has_files_of_its_own_beside_those_of_the_first(tmp_path: Path) -> None:
    """In a process of its own: standard streams are replaced."""
    text = """
import os
from batchns.supervise.batch.member import set_up
content, orders, told = set_up({"SLURM_NODEID": os.environ["RANK"], "SLURMD_NODENAME": "n9"})
os.write(1, b"out "); os.write(2, b"err ")
assert os.read(0, 1) == b""
told.end("COMPLETED")
"""
    job = {"attempt": 2, "outputs": [str(tmp_path / "o"), "/dev/null"]}
    heard = Heard()
    for rank in ("0", "3"):
        done = nodes.subprocess.run(
            [sys.executable, "-c", text],
            input=json.dumps(job).encode() + b"\n",
            stdout=-1,
            env={**os.environ, "RANK": rank},
            check=True,
        )
        ((who, values),) = heard.messages(done.stdout)
        assert (str(who), values["state"], values["over"], values["host"]) == (rank, "COMPLETED", True, "n9")
        assert values["attempts"] == 1
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["o", "o.3"]


def test_a_node_that_cannot_write_its_files_says_so(tmp_path: Path) -> None:
    text = 'from batchns.supervise.batch.member import set_up; set_up({"SLURM_NODEID": "1"})'
    job = {"attempt": 1, "outputs": [str(tmp_path / "no" / "o"), "/dev/null"]}
    done = nodes.subprocess.run(
        [sys.executable, "-c", text], input=json.dumps(job).encode() + b"\n", capture_output=True, check=False
    )
    ((_, values),) = Heard().messages(done.stdout)
    assert (values["state"], values["reason"]) == ("FAILED", f"{tmp_path}/no/o.1: No such file or directory")


def test_a_node_without_a_job_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(environ: Any) -> None:
        raise ValueError("no job has come from its first node")

    monkeypatch.setattr(member, "set_up", nothing)
    assert main("-", {}) == 125
    assert capsys.readouterr().err == "batchns: no job has come from its first node\n"


HOST = '[network]\nmode = "host"\n'


def test_as_many_nodes_are_asked_for_each_with_one_task() -> None:
    words = order(job(f"{HOST}[slurm]\nnodes = 3"), target(), "k", 0).words
    assert {"--nodes=3", "--ntasks=3", "--ntasks-per-node=1"} <= set(words)
    assert "--ntasks-per-node=1" not in order(job(""), target(), "k", 0).words


def test_nodes_with_a_network_of_their_own_each_do_not_reach_each_other() -> None:
    def named(text: str) -> list[tuple[str, bool]]:
        return [(one.path, one.fatal) for one in lacks(job(text), target(ALL), "alice")]

    assert named("[slurm]\nnodes = 2") == [("network.mode", True)]
    assert named(f"{HOST}[slurm]\nnodes = 2") == []
    assert named("[slurm]\nnodes = 1") == []


def test_what_the_nodes_have_is_added_up(fake: FakeSlurm) -> None:
    more = '[job.slurm]\nnodes = 3\n[job.network]\nmode = "none"\n[job.resources]\ncpus = 2\nmemory = "1GiB"'
    fake.engine().submit(request(jobs("a", a=more)))
    (row,) = fake.engine().jobs()
    assert (row.cpus, row.memory) == (6, 3 << 30)
