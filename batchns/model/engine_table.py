"""What batchns.toml says of where jobs go: [engine], [slurm]."""

from __future__ import annotations

from typing import Any

from batchns.model.config import Engine, EngineSettings, SlurmSettings
from batchns.model.job_table import NAME_KIND
from batchns.model.kinds import Field, Kind, Table, choice, mapping_of, size, text
from batchns.model.values import SLURM_WORD, check_path, check_slurm_word
from batchns.units import format_size

_SLURM = SlurmSettings()


def _word(what: str) -> Any:
    def check(value: str) -> str:
        return check_slurm_word(value, what) if value else value

    return check


def _folder(value: str) -> str:
    """An absolute path, or one below the user's home."""
    if value == "~" or value.startswith("~/"):
        return value
    return check_path(value)


def _words(what: str, example: str) -> Kind[Any]:
    return mapping_of(text(_word(what), example=example, pattern=f"^({SLURM_WORD})?$"), NAME_KIND, where="slurm")


SLURM: Table[SlurmSettings] = Table(
    make=SlurmSettings,
    fields={
        "partitions": Field(
            _words("a partition's name", '"batch"'),
            'Partitions by queue: { urgent = "high" }. A queue that is not named goes to the partition of its name '
            "where there is one, normal to the cluster's default.",
            "none",
        ),
        "gres": Field(
            _words("a gres's name", '"gpu"'),
            'Gres by named resource: { gpus = "gpu" }. Such a resource can be asked for in job files.',
            '{ gpus = "gpu" }',
        ),
        "bandwidth": Field(
            text(_word("a gres's name"), example='"bw"', pattern=f"^({SLURM_WORD})?$"),
            "The gres that counts the bandwidth of nodes, in mbit.",
            f'"{_SLURM.bandwidth}"',
        ),
        "account": Field(
            text(_word("an account's name"), example='"physics"', pattern=f"^({SLURM_WORD})?$"),
            "The account that jobs are charged to that name none themselves.",
            "the user's default",
        ),
        "folder": Field(
            text(_folder, example='"~/.local/state/batchns/slurm"', pattern="^(/|~)"),
            "Where submissions and results are kept: a folder of the user's that all nodes see.",
            f'"{_SLURM.folder}"',
        ),
        "program": Field(
            text(check_path, example='"/usr/bin/batchns-python"', pattern="^/"),
            "The Python on the nodes that has batchns.",
            "the one that submits",
        ),
        "overhead": Field(
            size(1 << 20, example='"64MiB"'),
            "Memory that is asked for beside a job's own, for what runs it.",
            f'"{format_size(_SLURM.overhead)}"',
        ),
    },
    where="slurm",
)
ENGINE: Table[EngineSettings] = Table(
    make=EngineSettings,
    fields={
        "default": Field(
            choice(Engine), "Where jobs go: local, to this machine's daemon; slurm, to a cluster.", '"local"'
        ),
    },
    where="engine",
)
