"""What a cluster can do, as its own tools say: parsed here, asked for at most once a minute."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, evolve, field, frozen

from batchns.slurm.tools import Tools, capitals, cluster_of, user_name
from batchns.wire.engine import Refusal, Unreachable

FRESH = 60.0  # seconds


@frozen(kw_only=True)
class Partition:
    name: str
    default: bool = False
    max_time: float | None = None  # seconds
    cpus: int = 0  # the most that one node has
    memory: int = 0  # MiB, as cpus
    gres: Mapping[str, int] | None = None  # by name, as cpus; None: not known


@frozen(kw_only=True)
class Facts:
    """`confines`: what Slurm's cgroups enforce: "memory", "cpus". `plugin`: batchns's own is there (level 1)."""

    cluster: str = ""
    version: str = ""
    partitions: tuple[Partition, ...] = ()
    gres: tuple[str, ...] = ()
    confines: tuple[str, ...] = ()
    proctrack: str = ""
    preempt: str = ""  # "SUSPEND", "REQUEUE", "CANCEL", "OFF"
    kill_wait: float = 30.0
    max_array: int = 1001  # indices are less than this
    accounting: bool = False
    plugin: bool = False
    accounts: tuple[str, ...] | None = None  # the user's; None: nobody says
    enforced: bool = False  # jobs of no such account are refused
    operators: tuple[str, ...] = field(default=("root",))  # who may raise priorities

    def partition(self, name: str) -> Partition | None:
        """The named one, "" for the default."""
        return next((one for one in self.partitions if (one.default if not name else one.name == name)), None)


def ask(tools: Tools) -> Facts:
    """Raises Unreachable: nobody answers."""
    config = tools.run("scontrol", "show", "config")
    nodes = tools.run("sinfo", "--noheader", "--exact", "-o", "%R\x1f%P\x1f%l\x1f%c\x1f%m\x1f%G")
    found = parse(config, nodes, tools.run("sbatch", "--help"))
    return evolve(found, accounts=_accounts(tools, found)) if found.accounting else found


def _accounts(tools: Tools, found: Facts) -> tuple[str, ...] | None:
    """Those that the user may charge jobs to: their own associations everybody may see, whatever PrivateData says."""
    whose = (f"user={user_name()}", f"cluster={found.cluster}")
    words = ("sacctmgr", "--noheader", "--parsable2", "show", "associations", *whose, "format=Account")
    try:
        names = {line.strip() for line in tools.run(*words).splitlines()} - {""}
    except (Refusal, Unreachable):
        return None
    return tuple(sorted(names)) if names or found.enforced else None


def parse(config: str, nodes: str, options: str) -> Facts:
    """From what scontrol show config, sinfo and sbatch --help print."""
    values = capitals(config)

    def value(name: str) -> str:
        found = values.get(name, "")
        return "" if found in ("(null)", "none", "N/A") else found

    confines = []
    if "task/cgroup" in value("TaskPlugin"):
        pairs = (("memory", "ConstrainRAMSpace"), ("cpus", "ConstrainCores"))
        confines = [what for what, name in pairs if value(name).lower() == "yes"]
    preempt = [word for word in value("PreemptMode").split(",") if word != "GANG"]
    user = re.match(r"[^(]+", value("SlurmUser"))
    return Facts(
        cluster=value("ClusterName"),
        version=value("SLURM_VERSION"),
        partitions=_partitions(nodes),
        gres=tuple(sorted(name for name in value("GresTypes").split(",") if name)),
        confines=tuple(confines),
        proctrack=value("ProctrackType").removeprefix("proctrack/"),
        preempt=preempt[0] if preempt else "OFF",
        kill_wait=float(_number(value("KillWait"), 30)),
        max_array=_number(value("MaxArraySize"), 1001),
        accounting=value("AccountingStorageType") not in ("", "accounting_storage/none"),
        enforced=any(
            word in value("AccountingStorageEnforce").lower().split(",")
            for word in ("associations", "limits", "qos", "safe", "wckeys", "all")
        ),
        plugin="--batchns-network" in options,
        operators=("root", *([user[0]] if user else [])),
    )


def _partitions(nodes: str) -> tuple[Partition, ...]:
    found: dict[str, Partition] = {}
    for line in nodes.splitlines():
        name, starred, limit, cpus, memory, gres = line.split("\x1f")
        before = found.get(name, Partition(name=name))
        found[name] = Partition(
            name=name,
            default=starred.endswith("*"),
            max_time=seconds(limit),
            cpus=max(before.cpus, _number(cpus, 0)),
            memory=max(before.memory, _number(memory, 0)),
            gres=_most(before.gres or {}, _counts(gres)),
        )
    return tuple(found.values())


def _counts(text: str) -> dict[str, int]:
    """Of one node's "gpu:tesla:2(S:0-1),gpu:a100:1,bw:10K": all types of a name together."""
    found: dict[str, int] = {}
    for word in re.sub(r"\([^)]*\)", "", text).split(","):
        name, *_, count = word.split(":") if ":" in word else (word, "1")
        match = re.fullmatch("([0-9]+)([KMGT]?)", count)
        if name and match:
            found[name] = found.get(name, 0) + int(match[1]) * 1024 ** "_KMGT".index(match[2] or "_")
    return found


def _most(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in sorted({*one, *other})}


def _number(text: str, default: int) -> int:
    digits = re.match("[0-9]+", text)
    return int(digits[0]) if digits else default


def seconds(text: str) -> float | None:
    """Of Slurm's "1-02:03:04", "02:03:04", "03:04"; None where there is no bound or it is not known."""
    match = re.fullmatch(r"(?:([0-9]+)-)?(?:([0-9]+):)?([0-9]+):([0-9]+)(?:\.[0-9]+)?", text)
    if match is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + rest)


def known(folder: Path, tools: Tools, *, clock: Callable[[], float] = time.time, fresh: float = FRESH) -> Facts:
    """What was asked lately, else what is asked now. `folder`: where that is kept.

    Raises:
        Unreachable: nobody answers.
    """
    path = folder / "facts.json"
    key = cluster_of(tools.environ)
    try:
        kept: dict[str, Any] = json.loads(path.read_text())
        if kept["of"] == key and 0 <= clock() - kept["at"] < fresh:
            return _read(kept["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = ask(tools)
    text = json.dumps({"at": clock(), "of": key, "facts": asdict(found)})
    mine = path.with_name(f"facts.{os.getpid()}")
    try:
        mine.write_text(text)
        mine.replace(path)
    except OSError:  # asked for once more next time
        mine.unlink(missing_ok=True)
    return found


def _read(table: dict[str, Any]) -> Facts:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
    values["partitions"] = tuple(Partition(**one) for one in table["partitions"])
    return Facts(**values)
