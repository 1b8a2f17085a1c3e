"""What `show --json` and the API say that a job asked for: all of it, as a job file would."""

from __future__ import annotations

from typing import Any

import tomlkit
from attrs import asdict, evolve, fields

from batchns.cli.show import detail_lines
from batchns.daemon.detail import spec_table
from batchns.model.codec import parse_jobs
from batchns.model.config import Config, IsolationSettings, Node
from batchns.model.job import JobSpec
from batchns.wire.types import JobDetail, JobRow

LABEL = "system_u:system_r:container_t:s0"
CONFIG = Config(
    node=Node(resources={"gpus": 4}),
    isolation=IsolationSettings(apparmor_allow=("batchns-tight",), selinux_allow=(LABEL,)),
)
FULL = """
name = "train"
command = ["python3", "train.py"]
cwd = "/run7"
priority = 40
time_limit = "2h"
array = "0-3,7%2"
dependency = ["afterok:prep", "singleton"]
max_retries = 2
retry_delay = "30s"
retry_memory = 1.5
begin = "2030-12-01T08:00:00+01:00"
deadline = "2030-12-02T08:00:00.500000Z"
hold = true
warn_signal = "USR1@1m"
stdout = "/out/%j.out"
stderr = "/out/%j.err"
notify = ["failed"]
env = { A = "1" }
[resources]
cpus = 3
cpuset = "0-1,3"
cpu_shares = 2048
memory = "1GiB"
blkio_weight = 500
pids = 100
scratch = "64MiB"
scratch_on = "disk"
gpus = 1
strict = true
[network]
mode = "private"
egress = "50mbit"
ingress = "1gbit"
allow = ["jobs"]
[isolation]
rootfs = "/images/a.sqfs"
rootfs_digest = "sha256:DIGEST"
overlay = "1GiB"
binds = ["/data:/mnt:ro"]
identity = "self"
apparmor = "batchns-tight"
selinux_label = "LABEL"
[slurm]
account = "proj"
qos = "long"
constraint = "fast"
reservation = "r1"
nodes = 2
[preempt]
mode = "requeue"
grace_time = "10s"
""".replace("DIGEST", "0" * 64).replace("LABEL", LABEL)


def parsed(text: str) -> JobSpec:
    (spec,) = parse_jobs(text.encode(), file="job.toml", folder="/", config=CONFIG)
    return evolve(spec, source="")


def test_what_a_job_asked_for_is_told_completely() -> None:
    spec = parsed(FULL)
    assert parsed(tomlkit.dumps(spec_table(spec))) == spec
    given = FULL.replace('"2030-12-01T08:00:00+01:00"', '"+1h"').replace('"2030-12-02T08:00:00.500000Z"', '"+2h"')
    later = parsed(given.replace('command = ["python3", "train.py"]', 'script = "true"'))
    assert parsed(tomlkit.dumps(spec_table(later))) == later
    usual = JobSpec(name="x", cwd="/")
    left_out = [one.name for one in fields(JobSpec) if getattr(spec, one.name) == getattr(usual, one.name)]
    assert set(left_out) == {"script", "begin_after", "deadline_after", "queue", "source"}
    assert {"seccomp"} == unsaid(asdict(spec.isolation), asdict(usual.isolation))
    own = evolve(spec, queue="urgent", isolation=evolve(spec.isolation, seccomp="mine"))
    assert spec_table(own)["queue"] == "urgent" and spec_table(own)["isolation"]["seccomp"] == "mine"
    for part in ("resources", "network", "preempt"):
        assert unsaid(asdict(getattr(spec, part)), asdict(getattr(usual, part))) <= {"mode"}


def test_what_is_printed_has_what_was_asked_for_beside_limits() -> None:
    row = JobRow(
        id="7", array_id="7", name="train", user="ada", queue="normal", state="PENDING", priority=40,
        cpus=3.0, submitted=1.0,
    )  # fmt: skip
    lines = detail_lines(JobDetail(row=row, spec=spec_table(parsed(FULL))), 2.0, 200)
    for text in (
        "attempt    1, retried up to 2 times, the first after 30s, memory times 1.5",
        "array      0-3,7%2",
        f"root       /images/a.sqfs, 1GiB may be written, sha256:{'0' * 64}",
        "runs as    self",
        "preempt    requeue, 10s to end",
        "deadline   2030-12-02T08:00:00.500000+00:00",
        "warning    SIGUSR1@1m",
        "notify     failed",
    ):
        assert text in lines, lines


def unsaid(given: dict[str, Any], usual: dict[str, Any]) -> set[str]:
    """Keys that say no more than a job which does not have them."""
    return {key for key, value in given.items() if value == usual[key]}
