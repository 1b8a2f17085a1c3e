"""Slurm's tools as scripts on PATH: they write down how they were called, and answer from files that a test writes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field

from batchns.model.config import Config, SlurmSettings
from batchns.slurm.engine import Slurm
from batchns.slurm.records import Records
from batchns.slurm.tools import Tools, user_name
from batchns.wire import types as wire

# Registers what is submitted in the queue. Files: silent (accepts, and does not answer, so many times), deaf (neither),
# refuse (jobs of that name), help.
_SCRIPT = r"""#!/bin/sh
dir=${0%/*}; name=${0##*/}
exec 9> "$dir/lock"; flock 9
{ printf '%s' "$name"; for word; do printf '\037%s' "$word"; done; echo; } >> "$dir/calls"
fails() { echo "$name: error: $1" >&2; exit 1; }
less() { [ -s "$dir/$1" ] && n=$(cat "$dir/$1") && [ "$n" -gt 0 ] && echo $((n - 1)) > "$dir/$1"; }
case "$name $1" in
"sbatch --help") cat "$dir/help" ;;
"sbatch "*)
    for word; do case $word in --job-name=*) job=${word#*=} ;; --comment=*) comment=${word#*=} ;; esac; done
    [ "$(cat "$dir/refuse" 2>/dev/null)" = "$job" ] && fails "Batch job submission failed: Invalid account"
    less deaf && fails "Batch job submission failed: Socket timed out on send/recv operation"
    id=$(($(cat "$dir/last") + 1)); echo $id > "$dir/last"
    cat > "$dir/script.$id"
    user=$(cat "$dir/user")
    for value in $id $id N/A "$job" "$user" batch PENDING Priority 1 100M UNLIMITED 1000 N/A N/A 0:00 "" $id; do
        printf '%s\037' "$value"
    done >> "$dir/squeue.says"
    echo "$comment" >> "$dir/squeue.says"
    less silent && fails "Batch job submission failed: Socket timed out on send/recv operation"
    echo $id ;;
"scontrol show") cat "$dir/config" ;;
*)
    [ -e "$dir/$name.error" ] && fails "$(cat "$dir/$name.error")"
    cat "$dir/$name.says" 2>/dev/null ;;
esac
exit 0
"""
_TOOLS = ("sbatch", "squeue", "scancel", "scontrol", "sacct", "sacctmgr", "sinfo", "srun")
CONFIG = """ClusterName = test
SLURM_VERSION = 22.05.8
SlurmUser = slurm(64030)
AccountingStorageType = accounting_storage/none
TaskPlugin = task/cgroup
ConstrainRAMSpace = yes
ConstrainCores = yes
GresTypes = bw,gpu
KillWait = 30 sec
PreemptMode = GANG,SUSPEND
ProctrackType = proctrack/cgroup
"""
_FIELDS = (
    "id", "array", "index", "name", "user", "partition", "state", "reason", "cpus", "memory", "limit", "submitted",
    "started", "ended", "ran", "nodes", "raw", "comment",
)  # fmt: skip


@define
class FakeSlurm:
    """`now`: what the engine's clock says; sleeping takes it further, and calls `meanwhile`."""

    folder: Path
    now: float = 2000.0
    meanwhile: list[Callable[[], None]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.bin.mkdir(parents=True)
        for name in _TOOLS:
            (self.bin / name).write_text(_SCRIPT)
            (self.bin / name).chmod(0o755)
        self.put("last", "100")
        self.put("user", user_name())
        self.put("config", CONFIG)
        self.put("help", "--batchns-network")
        self.put("squeue.says", "")
        self.put("sinfo.says", "batch\x1fbatch*\x1finfinite\x1f64\x1f256000\x1f(null)\n")

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def path(self) -> str:
        return f"{self.bin}:/usr/bin:/bin"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def put(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)

    def calls(self, name: str = "") -> list[list[str]]:
        """How tools were called, or this one."""
        if not (self.bin / "calls").exists():
            return []
        found = [line.split("\x1f") for line in (self.bin / "calls").read_text().splitlines()]
        return [words for words in found if not name or words[0] == name]

    def submissions(self) -> list[list[str]]:
        return [words for words in self.calls("sbatch") if words[1] != "--help"]

    def queue(self, *jobs: dict[str, Any]) -> None:
        """What squeue says from now on: `_FIELDS` that differ from those of a plain job that runs."""
        usual = {
            "index": "N/A", "name": "job", "user": user_name(), "partition": "batch", "state": "RUNNING",
            "reason": "None", "cpus": "1", "memory": "100M", "limit": "UNLIMITED", "submitted": "1000",
            "started": "1100", "ended": "N/A", "ran": "5:00", "nodes": "n1", "comment": "batchns:k:0",
        }  # fmt: skip
        rows = []
        for job in jobs:
            array, _, index = str(job["id"]).partition("_")
            values = {**usual, "array": array, "raw": array, **({"index": index} if index else {}), **job}
            rows.append("\x1f".join(str(values[name]) for name in _FIELDS))
        self.put("squeue.says", "".join(f"{row}\n" for row in rows))

    def result(self, job_id: str, **values: Any) -> None:
        """What the job's node has written."""
        table = {"key": "k", "host": "n1", "attempts": 1, "since": 1500.0, "started": 1100.0, "happened": [], **values}
        Records(str(self.state))
        (self.state / "results" / f"{job_id}.json").write_text(json.dumps(table))

    def engine(self, *, allow_degraded: bool = False) -> Slurm:
        def sleep(seconds: float) -> None:
            self.now += seconds
            for act in self.meanwhile:
                act()

        return Slurm(
            Config(slurm=SlurmSettings(folder=str(self.state))),
            ("/py",),
            tools=Tools({"PATH": self.path}),
            allow_degraded=allow_degraded,
            clock=lambda: self.now,
            sleep=sleep,
        )


_numbers = itertools.count()


def request(text: str, key: str = "") -> wire.SubmitRequest:
    """One file with these jobs. Without a key: a new one."""
    key = key or f"key{next(_numbers)}"
    return wire.SubmitRequest(files=(wire.JobFile(text=text, source="/d/f.toml", folder="/d"),), key=key)


def jobs(*names: str, **more: str) -> str:
    """A file of jobs; `more`: a further line for some of them, by name."""
    return "".join(f'[[job]]\nname = "{name}"\ncommand = ["true"]\n{more.get(name, "")}\n' for name in names)
