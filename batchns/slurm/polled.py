"""What Slurm says of jobs: one squeue for all, at most every other second; sacct for what is gone from there."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from batchns.slurm.facts import seconds
from batchns.slurm.mapping import COMMENT
from batchns.slurm.states import state_of
from batchns.slurm.tools import Tools, cluster_of

FRESH = 2.0  # seconds
_MARK = "\x1f"
_ID = re.compile("[0-9]+(_[0-9]+)?")
_FIELDS = ("%i", "%F", "%K", "%j", "%u", "%P", "%T", "%r", "%C", "%m", "%l", "%V", "%S", "%e", "%M", "%N", "%A", "%k")
FORMAT = _MARK.join(_FIELDS)
SACCT = "JobID,JobName,User,Partition,State,ExitCode,Submit,Start,End,ElapsedRaw,AllocCPUS,ReqMem,Timelimit,Comment"
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@frozen(kw_only=True)
class Entry:
    """One job, or one task of an array, as Slurm has it. Moments None where they are not known."""

    id: str  # "12", "12_3"
    array_id: str
    index: int | None
    name: str
    user: str
    partition: str
    state: str  # as of `states`
    reason: str = ""  # Slurm's word
    cpus: float = 1.0
    memory: int | None = None
    time_limit: float | None = None
    submitted: float
    started: float | None = None  # of one that waits: when it is expected to
    ended: float | None = None  # of one that runs: when it has to
    ran: float = 0.0
    nodes: str = ""
    raw: str = ""  # Slurm's number of this very task
    key: str = ""  # of the submission
    number: int = 0  # which job of it
    exit_code: int | None = None
    signal: int | None = None


class Polled:
    """`folder`: where the answer is kept for all processes of the user. `clock`: seconds."""

    def __init__(self, tools: Tools, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._tools = tools
        self._path = folder / "queue.json"
        self._changed = folder / "queue.changed"
        self._clock = clock

    def entries(self, *, user: str, everybody: bool = False) -> list[Entry]:
        """All jobs of batchns that Slurm has not forgotten, over or not. `everybody`: of all users.

        Raises:
            Unreachable: nobody answers.
        """
        whose = "" if everybody else user
        of = f"{cluster_of(self._tools.environ)}:{whose}"
        text = self._kept(of)
        if text is None:
            asked = self._clock()  # what is submitted meanwhile may be missing in the answer
            words = ("squeue", "--noheader", "--states=all", "--array", f"--format={FORMAT}")
            text = self._tools.run(*words, *([f"--user={whose}"] if whose else []))
            self._keep(of, text, asked)
        return [entry for line in text.splitlines() if (entry := of_squeue(line, self._submitted_here))]

    def _submitted_here(self, array_id: str) -> bool:
        """Though its comment says nothing: clusters may write their own."""
        return (self._path.parent / "jobs" / array_id).is_symlink()

    def forget(self) -> None:
        """Something has been changed: the next question goes to Slurm."""
        self._path.unlink(missing_ok=True)
        with suppress(OSError):  # an answer that is older is not believed, whoever keeps it later
            self._changed.write_text(repr(self._clock()))

    def accounted(self, *words: str) -> list[Entry]:
        """What sacct has, for its options `words`."""
        text = self._tools.run("sacct", "--noheader", "--parsable2", "--allocations", f"--format={SACCT}", *words)
        return [entry for line in text.splitlines() if (entry := of_sacct(line))]

    def _kept(self, of: str) -> str | None:
        try:
            kept = json.loads(self._path.read_text())
            changed = float(self._changed.read_text()) if self._changed.exists() else 0.0
            if kept["of"] == of and kept["at"] >= changed and 0 <= self._clock() - kept["at"] < FRESH:
                return str(kept["text"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def _keep(self, of: str, text: str, asked: float) -> None:
        mine = self._path.with_name(f".queue.{os.getpid()}")
        try:
            mine.write_text(json.dumps({"of": of, "at": asked, "text": text}))
            mine.replace(self._path)
        except OSError:
            mine.unlink(missing_ok=True)


def of_squeue(line: str, known: Callable[[str], bool] = lambda array_id: False) -> Entry | None:
    """None: no job of batchns's. `known`: it is one, whatever its comment says."""
    parts = line.split(_MARK)
    if len(parts) != len(_FIELDS) or not _ID.fullmatch(parts[0]) or not parts[1].isdecimal():
        return None
    value = dict(zip(_FIELDS, parts, strict=True))
    ours = value["%k"].startswith(COMMENT)
    if not ours and not known(value["%F"]):
        return None
    key, number = _mark(value["%k"]) if ours else ("", 0)
    return Entry(
        id=value["%i"],
        array_id=value["%F"],
        index=int(value["%K"]) if value["%K"].isdecimal() else None,
        name=value["%j"],
        user=value["%u"],
        partition=value["%P"],
        state=state_of(value["%T"]),
        reason=value["%r"],
        cpus=float(value["%C"] or 1),
        memory=memory(value["%m"], float(value["%C"] or 1)),
        time_limit=seconds(value["%l"]),
        submitted=_moment(value["%V"]) or 0.0,
        started=_moment(value["%S"]),
        ended=_moment(value["%e"]),
        ran=seconds(value["%M"]) or 0.0,
        nodes=value["%N"],
        raw=value["%A"],
        key=key,
        number=number,
    )


def of_sacct(line: str) -> Entry | None:
    parts = line.split("|")
    if len(parts) < len(SACCT.split(",")) or "[" in parts[0]:
        return None
    value = dict(zip(SACCT.split(","), parts, strict=False))
    array, _, index = value["JobID"].partition("_")
    code, _, number = value["ExitCode"].partition(":")
    key, place = _mark(value["Comment"]) if value["Comment"].startswith(COMMENT) else ("", 0)
    state = state_of(value["State"])
    return Entry(
        id=value["JobID"],
        array_id=array,
        index=int(index) if index.isdecimal() else None,
        name=value["JobName"],
        user=value["User"],
        partition=value["Partition"],
        state=state,
        cpus=float(value["AllocCPUS"] or 1),
        memory=memory(value["ReqMem"], float(value["AllocCPUS"] or 1)),
        time_limit=seconds(value["Timelimit"]),
        submitted=_moment(value["Submit"]) or 0.0,
        started=_moment(value["Start"]),
        ended=_moment(value["End"]),
        ran=float(value["ElapsedRaw"] or 0),
        key=key,
        number=place,
        exit_code=int(code) if code.isdecimal() else None,
        signal=int(number) if number.isdecimal() and int(number) else None,
    )


def memory(text: str, cpus: float) -> int | None:
    """Bytes of "4000M", or of "100Mc": so much for each CPU."""
    number, unit = text.rstrip("cn").rstrip("KMGT"), text.rstrip("cn")[-1:]
    try:
        value = float(number) * _UNITS.get(unit, 1 << 20)
    except ValueError:
        return None
    return int(value * (cpus if text.endswith("c") else 1)) or None


def _moment(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _mark(comment: str) -> tuple[str, int]:
    key, _, number = comment.removeprefix(COMMENT).strip().partition(":")
    return key, int(number) if number.isdecimal() else 0


def of_submission(entries: Sequence[Entry], key: str, number: int) -> list[str]:
    """The ids that Slurm has given to this job of this submission: more than one where it was submitted twice."""
    return sorted({entry.array_id for entry in entries if (entry.key, entry.number) == (key, number)}, key=int)
