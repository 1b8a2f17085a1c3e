"""What sbatch is told of a job: whole command lines, field by field, and how numbers are rounded."""

from __future__ import annotations

import re
from datetime import datetime

import pytest
from attrs import evolve

from batchns.model.codec import parse_jobs
from batchns.model.config import Config, Queue, SlurmSettings
from batchns.model.job import JobSpec
from batchns.model.parcel import unpack
from batchns.model.portable import from_json
from batchns.slurm.facts import Facts, Partition
from batchns.slurm.mapping import Target, indices, mebibytes, minutes, order, output_path, slurm_pattern
from batchns.slurm.submitting import cluster_config

PARTITIONS = (
    Partition(name="batch", default=True, cpus=64, memory=256_000, max_time=86400.0),
    Partition(name="urgent", cpus=64, memory=256_000),
)
ALL = Facts(
    cluster="c",
    partitions=PARTITIONS,
    gres=("bw", "gpu"),
    confines=("memory", "cpus"),
    preempt="SUSPEND",
    plugin=True,
)


def target(facts: Facts = ALL, config: Config | None = None, **ids: str) -> Target:
    return Target(config=config or Config(), facts=facts, folder="/home/u/s", program=("/py",), ids=ids, now=1000.0)


def job(text: str, config: Config | None = None) -> JobSpec:
    text = text if "command" in text or "script" in text else f'command = ["true"]\n{text}'
    text = text if "name =" in text else f'name = "j"\n{text}'
    (spec,) = parse_jobs(text.encode(), file="/d/f.toml", folder="/d", config=cluster_config(config or Config()))
    return spec


def words(text: str, to: Target | None = None) -> list[str]:
    """Without those that every job has."""
    found = order(job(text), to or target(), "k", 0).words
    usual = order(job(""), to or target(), "k", 0).words
    return [word for word in found if word not in usual]


def test_a_job_that_asks_for_nothing() -> None:
    assert order(job(""), target(), "k", 3).words == (
        "sbatch",
        "--parsable",
        "--job-name=j",
        "--comment=batchns:k:3",
        "--chdir=/",
        "--output=/d/j-%j.out",
        "--error=/d/j-%j.err",
        "--open-mode=append",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=1",
        "--batchns-network=0,0",
        "--no-requeue",
    )


def test_a_job_that_asks_for_everything() -> None:
    text = """
name = "train"
command = ["python3", "train.py"]
queue = "urgent"
priority = 20
time_limit = "90s"
array = "0-9,20%4"
dependency = ["afterok:prep:fetch", "afterany:12", "singleton"]
begin = "2026-12-01T08:00"
max_retries = 2
hold = true
stdout = "/out/%x-%A-%a.log"
[resources]
cpus = 3
memory = "1GiB"
gpus = 2
[network]
egress = "50mbit"
ingress = "1500kbit"
[preempt]
grace_time = "5s"
"""
    config = Config(slurm=SlurmSettings(account="physics"))
    to = target(config=config, prep="7", fetch="8", **{"12": "12"})
    assert order(job(text), to, "k", 0).words == (
        "sbatch",
        "--parsable",
        "--job-name=train",
        "--comment=batchns:k:0",
        "--chdir=/",
        "--output=/out/train-%A-%a.log",
        "--error=/d/train-%A_%a.err",
        "--open-mode=append",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=3",
        "--mem=1088M",
        "--gres=gpu:2,bw:50",
        "--batchns-network=50000000,1500000",
        "--partition=urgent",
        "--account=physics",
        "--time=6",
        "--begin=2026-12-01T08:00:00",
        "--requeue",
        "--nice=300",
        "--array=0-9,20%4",
        "--dependency=afterok:7:8,afterany:12,singleton",
        "--kill-on-invalid-dep=yes",
        "--hold",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[resources]\ncpus = 0.5", []),
        ('[resources]\nmemory = "1MiB"', ["--mem=65M"]),
        ('[resources]\nmemory = "1.5MiB"', ["--mem=66M"]),
        ('[resources]\ncpuset = "2-4"', ["--cpus-per-task=3"]),
        ('time_limit = "1s"', ["--time=1"]),
        ('time_limit = "20s"', ["--time=1"]),
        ('time_limit = "21s"', ["--time=2"]),
        ('time_limit = "2h"', ["--time=121"]),
        ('time_limit = "1m"\nmax_retries = 1\nretry_delay = "40s"', ["--time=4", "--requeue"]),
        ('begin = "+90s"', ["--begin=now+90seconds"]),
        ('deadline = "+2h"', ["--deadline=now+7200seconds"]),
        ('[preempt]\nmode = "requeue"', ["--requeue"]),
        ("priority = 51", ["--nice=-10"]),
        ('array = "1,3,5"', ["--output=/d/j-%A_%a.out", "--error=/d/j-%A_%a.err", "--array=1,3,5"]),
        ('dependency = ["after:a", "singleton"]', ["--dependency=after:1,singleton", "--kill-on-invalid-dep=yes"]),
        ('[network]\negress = "1mbit"', ["--gres=bw:1", "--batchns-network=1000000,0"]),
        ('[network]\nmode = "none"', []),
        ('[slurm]\naccount = "bio"', ["--account=bio"]),
        (
            '[slurm]\nqos = "long"\nconstraint = "intel&ssd"\nreservation = "course"',
            ["--qos=long", "--constraint=intel&ssd", "--reservation=course"],
        ),
    ],
)  # fmt: skip
def test_one_field(text: str, expected: list[str]) -> None:
    assert words(text, target(a="1", b="2")) == expected


def test_bandwidth_is_no_gres_where_the_cluster_has_none_and_no_option_without_the_plug_in() -> None:
    bare = evolve(ALL, gres=(), plugin=False)
    found = order(job('[network]\negress = "1mbit"'), target(bare), "k", 0).words
    assert not [word for word in found if "gres" in word or "batchns-network" in word]


def test_a_queue_is_the_partition_that_settings_name_or_that_has_its_name() -> None:
    config = Config(slurm=SlurmSettings(partitions={"urgent": "express"}))
    assert words('queue = "urgent"') == ["--partition=urgent"]
    assert words('queue = "urgent"', target(config=config)) == ["--partition=express"]


def test_the_account_of_a_job_goes_before_that_of_the_settings() -> None:
    to = target(config=Config(slurm=SlurmSettings(account="physics")))
    for text, account in (("", "physics"), ('[slurm]\naccount = "bio"', "bio")):
        assert [word for word in order(job(text), to, "k", 0).words if "account" in word] == [f"--account={account}"]


def test_numbers_are_rounded_up() -> None:
    assert [mebibytes(value) for value in (1, 1 << 20, (1 << 20) + 1)] == [1, 1, 2]
    assert [minutes(value) for value in (0.1, 60, 60.1)] == [1, 1, 2]


def test_a_moment_is_one_of_this_machines_time_zone() -> None:
    at = datetime(2026, 12, 1, 7, 30, tzinfo=datetime.now().astimezone().tzinfo)
    local = at.astimezone().strftime("%Y-%m-%dT%H:%M:%S")
    assert words(f'begin = "{at.isoformat()}"') == [f"--begin={local}"]


def test_indices_are_written_as_ranges() -> None:
    assert indices((0, 1, 2, 7, 9, 10)) == "0-2,7,9-10"


@pytest.mark.parametrize("array", ["", 'array = "3-4"\n'])
def test_the_file_that_slurm_makes_is_the_one_that_is_read(array: str) -> None:
    spec = job(array)
    path = "/o/%x.%j.%A.%a.100%%"
    slurm = slurm_pattern(path, spec)
    made = slurm.replace("%A", "12").replace("%a", "3").replace("%j", "12").replace("%%", "%")
    assert made == output_path(path, "j", "12_3" if array else "12")


def test_a_percent_sign_in_a_folder_is_one(tmp_path: object) -> None:
    (spec,) = parse_jobs(
        b'name = "j"\ncommand = ["true"]', file="/d%j/f.toml", folder="/d%j", config=cluster_config(Config())
    )
    assert order(spec, target(), "k", 0).words[5] == "--output=/d%%j/j-%j.out"


def test_the_script_becomes_what_runs_the_job_and_carries_it() -> None:
    text = "echo '\"$HOME\"'\nexit 3\n" + "# much\n" * 3000
    spec = job(f"script = '''{text}'''")
    made = order(spec, target(), "k", 0).script
    first, second, *rest = made.splitlines()
    assert (first, second) == ("#!/bin/sh", 'exec /py "$0"')
    assert all(re.fullmatch("#BATCHNS [A-Za-z0-9+/=]+", line) for line in rest)
    content = unpack(made)
    assert from_json(content["spec"]) == spec
    assert {name: content[name] for name in ("key", "index", "folder", "grace_time")} == {
        "key": "k",
        "index": 0,
        "folder": "/home/u/s",
        "grace_time": 10.0,
    }


def test_a_deadline_after_the_submission_is_a_moment_for_the_node() -> None:
    assert unpack(order(job('deadline = "+1h"'), target(), "k", 0).script)["deadline"] == 4600.0


def test_what_a_queue_gives_goes_to_the_cluster() -> None:
    gives = {"cpus": 4.0, "memory": 1 << 30, "time_limit": 600.0, "grace_time": 20.0, "scratch": 5}
    config = Config(queues={"normal": Queue(), "urgent": Queue(defaults=gives)})
    scratches: list[int] = []
    to = evolve(target(config=config), prepare=lambda spec, scratch: scratches.append(scratch))
    made = order(job('queue = "urgent"'), to, "k", 0)
    assert {"--cpus-per-task=4", "--mem=1088M", "--time=11"} <= set(made.words)
    content = unpack(made.script)
    assert [content[name] for name in ("time_limit", "grace_time", "allocation")] == [600.0, 20.0, 660]
    spec = job('queue = "urgent"')
    order(evolve(spec, resources=evolve(spec.resources, scratch=0)), to, "k", 0)
    assert scratches == [5, 0]
