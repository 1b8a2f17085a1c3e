"""One job from command line options: the job file's checks, the option's name in the errors."""

from __future__ import annotations

import signal
from ipaddress import IPv4Network

import pytest

from batchns.model.codec import parse_jobs
from batchns.model.config import Config, Node
from batchns.model.job import (
    Bind,
    Condition,
    Dependency,
    Isolation,
    JobSpec,
    Network,
    NetworkMode,
    Preempt,
    PreemptMode,
    Resources,
    Slurm,
    WarnSignal,
)
from batchns.model.options import PLACES, job_from_options
from batchns.model.problems import JobFileErrors
from batchns.model.reach import Jobs

CONFIG = Config(node=Node(resources={"gpus": 2}))


def job(**options: object) -> JobSpec:
    return job_from_options({"command": ["/bin/echo", "hi"], **options}, config=CONFIG, folder="/home/ada")


def errors(**options: object) -> list[str]:
    with pytest.raises(JobFileErrors) as raised:
        job(**options)
    return str(raised.value).split("\n")


def test_a_command_alone_is_a_job_named_after_its_program() -> None:
    assert job() == JobSpec(name="echo", command=("/bin/echo", "hi"), cwd="/home/ada")
    assert job(command=["./..weird name!"]).name == "weird_name_"
    assert job(command=["…"]).name == "job"


def test_every_option_arrives() -> None:
    assert job(
        name="x",
        cwd="sub",
        env=("A=1", "B=c=d"),
        priority="60",
        time_limit="90s",
        max_retries="1",
        cpus="0.5",
        cpuset="0-1",
        cpu_shares="2048",
        memory="1GiB",
        blkio_weight=100,
        pids="64",
        scratch="1GiB",
        strict=True,
        gpus="1",
        network="private",
        egress="10mbit",
        ingress="20mbit",
        allow=("jobs", "192.0.2.1"),
        bind=("/a:/b:ro", "/c:/d"),
        grace_time="2s",
        stdout="%j.out",
        dependency=("singleton",),
        begin="2026-12-01T08:00Z",
        deadline="+8h",
        hold=True,
        warn_signal="USR1@30s",
        retry_delay="5s",
        retry_memory="1.5",
        preempt="requeue",
        account="physics",
    ) == JobSpec(
        name="x",
        command=("/bin/echo", "hi"),
        cwd="/home/ada/sub",
        env={"A": "1", "B": "c=d"},
        priority=60,
        time_limit=90.0,
        max_retries=1,
        stdout="/home/ada/%j.out",
        dependency=(Dependency(Condition.SINGLETON, ""),),
        begin=1796112000.0,
        deadline_after=28800.0,
        hold=True,
        warn=WarnSignal(signal.SIGUSR1, 30.0),
        retry_delay=5.0,
        retry_memory=1.5,
        resources=Resources(
            cpus=0.5,
            cpuset=(0, 1),
            cpu_shares=2048,
            memory=1 << 30,
            blkio_weight=100,
            pids=64,
            scratch=1 << 30,
            named={"gpus": 1},
            strict=True,
        ),
        network=Network(egress=10**7, ingress=2 * 10**7, allow=(Jobs(), IPv4Network("192.0.2.1"))),
        isolation=Isolation(binds=(Bind("/a", "/b", True), Bind("/c", "/d"))),
        preempt=Preempt(mode=PreemptMode.REQUEUE, grace_time=2.0),
        slurm=Slurm(account="physics"),
    )


def test_named_resources_can_be_given_as_pairs_too() -> None:
    assert job(resource=["gpus=2"]).resources.named == {"gpus": 2}


def test_what_is_not_given_is_not_asked_for() -> None:
    """As an option parser leaves it: None, or an empty tuple."""
    assert job(memory=None, bind=(), env=(), network="none").network.mode is NetworkMode.NONE
    assert job(**dict.fromkeys(set(PLACES) - {"command"})) == job()


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ({"memory": "4"}, ['--memory: "4" has no unit - write "4MiB" or "4GiB"']),
        ({"cpu_shares": "1"}, ["--cpu-shares: 1 is out of range - write 2 to 262144"]),
        ({"pids": "x"}, ['--pids: must be a whole number, not "x" - write for example 512']),
        ({"pids": "9" * 5000}, [f'--pids: must be a whole number, not "{"9" * 57}..." - write for example 512']),
        ({"cpus": "-1"}, ['--cpus: must be a number, not "-1" - write for example 2']),
        ({"env": ["A"]}, ['--env: "A" has no = - write NAME=VALUE']),
        ({"env": ["BATCHNS_A=1"]}, ["--env: BATCHNS_* variables are set by batchns - choose another name"]),
        ({"resource": ["gpus"]}, ['--resource: "gpus" has no = - write NAME=COUNT']),
        ({"resource": ["gpus=3"]}, ["--resource: more gpus than the node has, 2 - write at most 2"]),
        (
            {"resource": ["gpu=1"]},
            [
                "--resource: unknown key - did you mean gpus? "
                "(other resources are named in batchns.toml, below [node.resources])"
            ],
        ),
        ({"colour": "red"}, ["--colour: unknown option - see batchns run --help"]),
        ({"command": []}, ['COMMAND: the list is empty - write ["PROGRAM", "ARGUMENT"]']),
        ({"name": "a\udcffb"}, ['--name: "a\\udcffb" is not valid UTF-8 - write it in UTF-8']),
        (
            {"network": "host", "bind": ["/a:/proc", "x"], "time_limit": "1"},
            [
                "--network: the host's network is not allowed on this machine - "
                'write mode = "private", or have host = true written under [network] in batchns.toml',
                '--bind: "/a:/proc" would cover the job\'s own /proc - bind it to another folder, such as /mnt',
                '--bind: "x" names no place inside the job - write "SRC:DST", for example "/data:/data"',
                '--time-limit: "1" has no unit - write "1s", "1m" or "1h"',
            ],
        ),
        (
            {"warn_signal": "USR1@60", "begin": "08:00", "retry_delay": "1s"},
            [
                '--warn-signal: "USR1@60" has no unit - write "USR1@60s" or "USR1@60m"',
                '--begin: "08:00" names a time without a day - write "2026-12-01T08:00", with the day',
                "--retry-delay: there are no retries - write max_retries = 2 besides, or remove it",
            ],
        ),
        (
            {"warn_signal": "USR1@60s"},
            ['--warn-signal: there is no time limit to warn before - write time_limit = "2h" besides'],
        ),
        (
            {"network": "none", "egress": "1mbit"},
            ['--egress: there is no rate to limit with mode = "none" - remove it, or write mode = "private"'],
        ),
    ],
)
def test_a_mistake_names_the_option(options: dict[str, object], messages: list[str]) -> None:
    assert errors(**options) == messages


def test_of_a_file_with_options_each_mistake_names_where_it_was_written() -> None:
    """An option is said once, however many jobs of the file it is for; the file's own mistakes keep their lines."""
    text = """
[[job]]
name = "a"
command = ["true"]
resources = { memory = "7", pids = 0 }
[[job]]
name = "b"
command = ["true"]
"""
    options = {"memory": "8", "priority": "300", "env": ["A-=1"]}
    with pytest.raises(JobFileErrors) as raised:
        parse_jobs(text.encode(), file="f.toml", folder="/home/ada", config=CONFIG, options=options)
    lines = str(raised.value).split("\n")
    assert sorted(line.partition(": ")[0] for line in lines) == ["--env", "--memory", "--priority", "f.toml:5"]
    assert '--memory: "8" has no unit - write "8MiB" or "8GiB"' in lines
