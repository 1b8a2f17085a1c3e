"""The daemon killed, and what must hold afterwards: a short version of `tests.campaign_daemon`."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

import pytest

from batchns.client.errors import Lost, NoDaemon
from batchns.client.sync import Client
from batchns.wire import types as wire

from ..images import image_in
from ..launch.kept_kills import has_strace
from . import calls, faults, kills, malformed, model
from .ground import Ground
from .ledger import OVER

pytestmark = pytest.mark.kernel
_DIES_AS_IT_KEEPS = """
import os, signal, sys
from batchns.supervise.runfolder import RunFolder
keep = RunFolder.keep
def die(self):
    keep(self)
    os.kill(os.getpid(), signal.SIGKILL)
RunFolder.keep = die
from batchns.cli.main import main
sys.argv = ["batchns", "daemon", "--config", sys.argv[1]]
main()
"""


_DIES_AS_IT_HEARS_OF_A_START = """
import os, signal, sys
from batchns.supervise.answers import Answers
Answers._on_started = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from batchns.cli.main import main
sys.argv = ["batchns", "daemon", "--config", sys.argv[1]]
main()
"""


@pytest.fixture
def on() -> Iterator[Ground]:
    with kills.ground() as made:
        yield made


@pytest.mark.parametrize("victims", [("daemon",), ("daemon", "launcher")])
def test_kills_at_random_moments_lose_nothing_and_start_nothing_twice(on: Ground, victims: tuple[str, ...]) -> None:
    found, counts = kills.at_random(on, victims=victims, kills=5, seed=f"{time.time_ns()}")
    assert found == []
    assert counts["acknowledged"] > 3 and counts["executions"] > 3


@pytest.mark.skipif(not has_strace(), reason="no strace that may trace")
def test_a_kill_before_a_call_loses_nothing(on: Ground) -> None:
    wanted = [("fdatasync", 2), ("sendmsg", 1)]
    found, counts = calls.at_every_call(on, launcher=True, choose=lambda points: wanted)
    assert found == []
    assert counts["kills"] == len(wanted)


def test_running_jobs_are_adopted_at_every_restart(on: Ground) -> None:
    found, counts = faults.restarts(on, 3, f"{time.time_ns()}", jobs=6)
    assert found == []
    assert counts["FAILED"] == 5 and counts["COMPLETED"] == 1


@pytest.mark.parametrize(
    "fault",
    [partial(faults.disk_full, restart=True), partial(faults.calls_fail, call="fdatasync", error="EIO")],
    ids=["disk full", "EIO"],
)
def test_while_nothing_can_be_recorded_jobs_run_on_and_none_is_taken_in(
    on: Ground, fault: partial[faults.Found]
) -> None:
    if fault.func is faults.calls_fail and not has_strace():
        pytest.skip("no strace that may trace")
    found, counts = fault(on)
    assert found == []
    assert counts["executions"] == 9


def test_a_job_goes_on_though_its_outputs_disk_is_full(on: Ground) -> None:
    assert faults.output_full(on)[0] == []


def test_a_job_goes_on_though_its_outputs_disk_is_broken(on: Ground) -> None:
    if not has_strace():
        pytest.skip("no strace that may trace")
    found, counts = faults.output_broken(on)
    assert found == []
    assert counts["executions"] == 1


def test_requests_that_are_nearly_right_are_answered_in_words(on: Ground) -> None:
    found, counts = malformed.malformed(on, count=400, seed=f"{time.time_ns()}")
    assert found == []
    assert counts["executions"] == 400


def test_random_verbs_hold_over_restarts(on: Ground) -> None:
    found, counts = model.against_a_model(on, 4, f"{time.time_ns()}")
    assert found == []
    assert counts["acknowledged"] and counts["restarts"]


def test_a_daemon_killed_before_it_knows_of_its_run_leaves_nothing(on: Ground) -> None:
    done = subprocess.run([sys.executable, "-c", _DIES_AS_IT_KEEPS, str(on.config)], check=False, timeout=60)
    assert done.returncode == -9
    on.start()
    on.stop()
    assert on.complaints() == []


def test_a_job_that_is_being_put_back_can_be_cancelled(on: Ground) -> None:
    """It must not come back to the queue after that has been acknowledged."""
    on.start()
    options = {"name": "stubborn", "script": "trap '' TERM; while :; do sleep 0.1; done", "cpus": "0.1"}
    files = {"stdout": "/dev/null", "stderr": "/dev/null", "grace_time": "20s", "memory": "32MiB"}
    command = wire.CommandLine(options={**options, **files}, folder="/")
    with on.client() as client:
        (job,) = client.submit(wire.SubmitRequest(commands=(command,))).jobs
        while client.job(job.id).row.state != "RUNNING":
            time.sleep(0.02)
        time.sleep(0.3)
        assert client.act(wire.ActRequest(verb="requeue", jobs=(job.id,))).jobs[0].done
        assert client.act(wire.ActRequest(verb="cancel", jobs=(job.id,))).jobs[0].done
        end = time.monotonic() + 20
        while (row := client.job(job.id).row).state not in OVER and time.monotonic() < end:
            time.sleep(0.02)
        assert row.state == "CANCELLED"
    on.stop()
    assert on.complaints() == []


def test_a_job_that_runs_goes_on_though_its_image_has_been_replaced_since(on: Ground) -> None:
    """The daemon died before it knew that it ran; what the job was launched from is another image by then."""
    work, image = on.base / "work", image_in(on.base)
    work.mkdir()
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    text = f"""
name = "early"
script = "while ! test -e /mine/go; do :; done; read line < /who; echo $line"
stdout = "{work}/out"
[resources]
cpus = 0.1
[isolation]
rootfs = "{image}"
rootfs_digest = "sha256:{digest}"
binds = ["{work}:/mine"]
"""
    job_id = submit_to_one_that_dies(on, text)
    image.rename(on.base / "old.squashfs")
    image.write_bytes(b"another one")
    on.start()
    with on.client() as client:
        assert client.job(job_id).row.state == "RUNNING"
        (work / "go").touch()
        end = time.monotonic() + 20
        while (row := client.job(job_id).row).state not in OVER and time.monotonic() < end:
            time.sleep(0.02)
    assert (row.state, row.attempt) == ("COMPLETED", 1)
    assert (work / "out").read_text() == "the image\n"
    on.stop()
    assert on.complaints() == []


def submit_to_one_that_dies(on: Ground, text: str) -> str:
    """The id of a job that runs, which no daemon knows yet."""
    command = [sys.executable, "-c", _DIES_AS_IT_HEARS_OF_A_START, str(on.config)]
    with subprocess.Popen(command) as dying, contextlib.ExitStack() as stack:
        stack.callback(dying.kill)
        end = time.monotonic() + 30
        while True:
            assert time.monotonic() < end and dying.poll() is None
            with contextlib.suppress(NoDaemon, Lost), Client(on.socket) as client:
                client.node()
                break
            time.sleep(0.02)
        with on.client() as client:
            (job,) = client.submit(wire.SubmitRequest(files=(wire.JobFile(text=text),))).jobs
        assert dying.wait(30) == -9
    return job.id
