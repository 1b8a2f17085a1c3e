"""Job files that are right, and the certainty that no file gives anything but jobs or messages."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import tomlkit
from attrs import evolve, fields
from hypothesis import given, settings
from hypothesis import strategies as st
from job_strategies import CONFIG, JOBS, to_table

from batchns.model.codec import check_dependencies, check_names, parse_jobs
from batchns.model.config import Config, Queue
from batchns.model.job import (
    Array,
    Bind,
    Condition,
    Dependency,
    Identity,
    Isolation,
    JobSpec,
    Network,
    Notice,
    Preempt,
    PreemptMode,
    Resources,
    Slurm,
    WarnSignal,
)
from batchns.model.job_table import job_table
from batchns.model.kinds import Table
from batchns.model.problems import JobFileErrors

FULL = """\
# Everything that the format has.
name = "train"
command = ["python3", "train.py"]
cwd = "run7"
env = { OMP_NUM_THREADS = "4", GREETING = "a b\\nc" }
queue = "urgent"
priority = 60
time_limit = "2h30m"
array = "0-4:2,9%2"
dependency = ["afterok:prep:fetch", "afterany:clean", "aftercorr:part", "singleton"]
max_retries = 2
retry_delay = "30s"
retry_memory = 1.5
begin = "2026-12-01T08:00Z"
deadline = "+8h"
hold = true
warn_signal = "USR1@60s"
stdout = "logs/%x-%j.out"
stderr = "/var/log/%x.err"
notify = ["failed", "frozen"]

[resources]
cpus = 2
cpuset = "2-3"
cpu_shares = 2048
memory = "4GiB"
blkio_weight = 500
pids = 512
scratch = "10GiB"
gpus = 1
strict = true

[network]
mode = "private"
egress = "50mbit"
ingress = "100mbit"

[isolation]
binds = ["/data:/data", "/opt//x/./y:/opt:ro"]
identity = "private"

[preempt]
mode = "requeue"
grace_time = "15s"

[slurm]
account = "physics"
qos = "long"
constraint = "intel&ssd|[rack1*2]"
reservation = "course"
"""


def parse(text: str) -> list[JobSpec]:
    return parse_jobs(text.encode(), file="f.toml", folder="/home/ada", config=CONFIG)


def test_every_key_arrives() -> None:
    assert parse(FULL) == [
        JobSpec(
            name="train",
            command=("python3", "train.py"),
            cwd="/home/ada/run7",
            env={"OMP_NUM_THREADS": "4", "GREETING": "a b\nc"},
            queue="urgent",
            priority=60,
            time_limit=9000.0,
            array=Array((0, 2, 4, 9), 2),
            dependency=(
                Dependency(Condition.AFTEROK, "prep"),
                Dependency(Condition.AFTEROK, "fetch"),
                Dependency(Condition.AFTERANY, "clean"),
                Dependency(Condition.AFTERCORR, "part"),
                Dependency(Condition.SINGLETON, ""),
            ),
            max_retries=2,
            retry_delay=30.0,
            retry_memory=1.5,
            begin=1796112000.0,
            deadline_after=28800.0,
            hold=True,
            warn=WarnSignal(signal.SIGUSR1, 60.0),
            stdout="/home/ada/logs/%x-%j.out",
            stderr="/var/log/%x.err",
            notify=(Notice.FAILED, Notice.FROZEN),
            resources=Resources(
                cpus=2.0,
                cpuset=(2, 3),
                cpu_shares=2048,
                memory=4 << 30,
                blkio_weight=500,
                pids=512,
                scratch=10 << 30,
                named={"gpus": 1},
                strict=True,
            ),
            network=Network(egress=50_000_000, ingress=100_000_000),
            isolation=Isolation(
                binds=(Bind("/data", "/data"), Bind("/opt/x/y", "/opt", True)), identity=Identity.PRIVATE
            ),
            preempt=Preempt(mode=PreemptMode.REQUEUE, grace_time=15.0),
            slurm=Slurm(account="physics", qos="long", constraint="intel&ssd|[rack1*2]", reservation="course"),
            source="f.toml:2",
        )
    ]


def test_a_job_of_two_lines_has_the_defaults() -> None:
    assert parse('name = "x"\ncommand = ["true"]') == [
        JobSpec(name="x", command=("true",), cwd="/home/ada", source="f.toml:1")
    ]


def test_several_jobs_keep_their_order_and_know_their_lines() -> None:
    jobs = parse('# two\n[[job]]\nname = "b"\nscript = "true"\n\n[[job]]\nname = "a"\ncommand = ["true"]\n')
    assert [(job.name, job.source) for job in jobs] == [("b", "f.toml:2"), ("a", "f.toml:6")]
    check_names(jobs)
    check_dependencies(jobs)


def test_paths_are_the_files_own_folders() -> None:
    job = parse('name = "x"\ncommand = ["./a b"]\ncwd = "."\nstdout = "./a//%x.out"')[0]
    assert (job.cwd, job.stdout) == ("/home/ada", "/home/ada/a/%x.out")


def test_a_fraction_beside_a_cpuset_shares_those_cpus() -> None:
    job = parse('name = "x"\ncommand = ["true"]\nresources = { cpus = 0.25, cpuset = "3,0-1" }')[0]
    assert (job.resources.cpus, job.resources.cpuset) == (0.25, (0, 1, 3))


def test_an_array_of_ten_thousand_is_the_most() -> None:
    job = parse('name = "x"\ncommand = ["true"]\narray = "0-9999"')[0]
    assert job.array is not None and len(job.array.indices) == 10_000 and job.array.throttle is None


def test_a_dependency_that_is_there_twice_is_one_edge() -> None:
    job = parse('name = "x"\ncommand = ["true"]\ndependency = ["after:a:a", "after:a", "afterany:a"]')[0]
    assert job.dependency == (Dependency(Condition.AFTER, "a"), Dependency(Condition.AFTERANY, "a"))


def test_a_queue_must_be_there() -> None:
    config = Config(queues={"normal": Queue(), "night": Queue()})
    data = b'name = "x"\ncommand = ["true"]\nqueue = "night"'
    assert parse_jobs(data, file="f", folder="/", config=config)[0].queue == "night"
    with pytest.raises(JobFileErrors, match='there is no queue "night"'):
        parse_jobs(data, file="f", folder="/", config=Config())


def test_windows_line_ends_are_line_ends() -> None:
    job = parse("name = 'x'\r\nscript = '''\r\necho a\r\necho b\r\n'''\r\n")[0]
    assert job.script == "echo a\necho b\n"


@settings(max_examples=150, deadline=None)
@given(st.lists(JOBS, min_size=1, max_size=3, unique_by=lambda job: job.name))
def test_a_valid_job_comes_back_from_its_file(jobs: list[JobSpec]) -> None:
    """Spec to TOML (by another library) to spec, in both forms of a file."""
    as_list = tomlkit.dumps({"job": [to_table(job) for job in jobs]})
    assert [evolve(job, source="") for job in parse(as_list)] == jobs
    assert [evolve(job, source="") for job in parse(tomlkit.dumps(to_table(jobs[0])))] == jobs[:1]


def only_messages(data: bytes) -> None:
    """The one thing that holds for every input: jobs, or messages that a terminal can show."""
    try:
        jobs = parse_jobs(data, file="f\x1b[31m.toml", folder="/home/ada", config=CONFIG)
    except JobFileErrors as errors:
        assert errors.problems
        for problem in errors.problems:
            assert str(problem).isprintable() and str(problem).startswith("f\\x1b[31m.toml:")
            assert problem.what and problem.line <= data.count(b"\n") + 1
    else:
        assert jobs and all(isinstance(job, JobSpec) for job in jobs)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_give_messages(data: bytes) -> None:
    only_messages(data)


WORDS = """[[job]] [job] ''' nan -inf 0xffffffffffffffffffff 1e999 true 2020-01-01 job resources memory .. é = [] {}"""
FRAGMENTS = st.sampled_from(
    [line + "\n" for line in FULL.splitlines()]
    + list("[]{}=,.'\"#\\\n\r \x00\x1b\ud7ff\u202e")
    + [written for word in WORDS.split() for written in (word, f"{word}\n", f"= {word}\n")]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAGMENTS, max_size=12).map("".join))
def test_pieces_of_job_files_give_jobs_or_messages(text: str) -> None:
    only_messages(text.encode())


KEYS = st.sampled_from(
    [
        "job",
        "name",
        "command",
        "env",
        "array",
        "resources",
        "memory",
        "cpus",
        "network",
        "mode",
        "isolation",
        "binds",
        "queue",
        "priority",
        "time_limit",
        "dependency",
        "begin",
        "deadline",
        "warn_signal",
        "retry_memory",
        "preempt",
    ]
)
LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8) | st.datetimes()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5), st.sampled_from([FULL, ""]))
def test_any_type_in_any_place_gives_jobs_or_refusals(values: dict[str, Any], text: str) -> None:
    """TOML of the right keys and the wrong types."""
    try:
        document = tomlkit.dumps(values)
    except (ValueError, TypeError, tomlkit.exceptions.TOMLKitError):
        return  # None and some control characters cannot be written as TOML
    only_messages((document + text).encode())


def test_the_tables_have_every_field_of_the_model_and_no_other() -> None:
    """A field that no key sets, or a key that nothing keeps, is a mistake of ours."""
    table: Table[Any] = job_table(Config(), "/")
    keys = {JobSpec: set(table.fields)}
    for name, model in (("resources", Resources), ("network", Network), ("isolation", Isolation), ("preempt", Preempt)):
        below = table.fields[name].kind
        assert isinstance(below, Table)
        keys[model] = set(below.fields)
    not_keys = {JobSpec: {"source", "begin_after", "deadline_after"}, Resources: {"named"}}
    keys[JobSpec] = {{"warn_signal": "warn"}.get(key, key) for key in keys[JobSpec]}
    for model, known in keys.items():
        assert known == {attribute.name for attribute in fields(model)} - not_keys.get(model, set())
