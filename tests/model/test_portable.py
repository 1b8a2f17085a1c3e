"""A job that went to a node as JSON is the job that was sent."""

from __future__ import annotations

import json

import pytest

from batchns.model.codec import parse_jobs
from batchns.model.config import Config, NetworkSettings, Node
from batchns.model.portable import from_json, to_json
from batchns.model.reach import HostPorts, Jobs

CONFIG = Config(
    node=Node(resources={"gpus": 4}), network=NetworkSettings(host=True, allow=(Jobs(), HostPorts("tcp", 8080, 8080)))
)
FULL = """
name = "train"
command = ["python3", "train.py"]
cwd = "/data"
env = { A = "1" }
priority = 70
time_limit = "2h"
array = "0-9:3%2"
dependency = ["afterok:prep", "singleton"]
max_retries = 2
retry_delay = "5s"
retry_memory = 1.5
begin = "+2h"
hold = true
warn_signal = "USR1@60s"
notify = ["failed"]
stdout = "/data/%x-%j.out"
[resources]
cpus = 2
cpuset = "2-3"
memory = "4GiB"
gpus = 1
strict = true
[network]
egress = "50mbit"
allow = ["jobs", "host:8080", "10.1.0.0/16"]
[isolation]
rootfs = "/srv/images/ml"
overlay = "2GiB"
binds = ["/data:/data", "/opt:/opt:ro"]
identity = "root"
[preempt]
mode = "requeue"
grace_time = "20s"
[slurm]
account = "physics"
qos = "long"
constraint = "intel&ssd"
reservation = "course"
"""


@pytest.mark.parametrize("text", [FULL, 'name = "a"\nscript = "echo"\n', 'name = "b"\nscript = "echo"\nnotify = []\n'])
def test_what_is_read_is_what_was_written(text: str) -> None:
    (spec,) = parse_jobs(text.encode(), file="f.toml", folder="/data", config=CONFIG)
    assert from_json(json.loads(json.dumps(to_json(spec)))) == spec


def test_defaults_are_left_away() -> None:
    (spec,) = parse_jobs(b'name = "a"\ncommand = ["true"]', file="f.toml", folder="/data", config=CONFIG)
    assert set(to_json(spec)) <= {
        "name",
        "command",
        "cwd",
        "source",
        "resources",
        "network",
        "isolation",
        "preempt",
        "slurm",
    }
