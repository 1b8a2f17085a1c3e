"""The words in which the machine is described to a person: a fact, its status, and where it was looked for."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path

from attrs import field, frozen

from batchns.kernel.trial import Outcome


class Status(Enum):
    OK = "ok"
    LIMITED = "limited"  # jobs run, something is less than it could be
    MISSING = "missing"


@frozen(kw_only=True)
class Fact:
    """`needed`: without it no job with default settings runs. `meaning` and `hint` are empty where all is well."""

    name: str
    status: Status
    found: str
    meaning: str = ""
    hint: str = ""
    needed: bool = False


@frozen(kw_only=True)
class Place:
    """Where to look: the file systems' roots, the folder jobs would run in, batchns's own folders, and who asks."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    folder: Path = field(factory=Path.cwd)
    state: Path = Path("/var/lib/batchns")
    run: Path = Path("/run/batchns")
    uid: int = field(factory=os.geteuid)
    files: Path = Path("/")  # the root of /etc and /run
    dns: tuple[str, ...] = ()  # name servers that batchns.toml names for jobs

    @property
    def root(self) -> bool:
        return self.uid == 0


def tried(name: str, outcome: Outcome, meaning: str, hint: str, *, needed: bool = True) -> Fact:
    """The fact that a trial's outcome is."""
    if outcome.ok:
        return Fact(name=name, status=Status.OK, found=outcome.text or "works", needed=needed)
    return Fact(name=name, status=Status.MISSING, found=outcome.text, meaning=meaning, hint=hint, needed=needed)
