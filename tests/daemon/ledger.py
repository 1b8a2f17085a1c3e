"""What was acknowledged and what ran, written down outside of the daemon; and what of it the daemon has not kept.

1. Each job appends a line to a file of its own when its command starts, and one right before it exits with its code.
2. What a client was told is noted when it was told; what it only asked for is noted before.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from attrs import define, field, frozen

from batchns.wire import types as wire

OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL")
_SCRIPT = """
file={folder}/{key}-${{BATCHNS_ARRAY_TASK_ID:-x}}
read -r unique < /proc/sys/kernel/random/uuid
echo "start $BATCHNS_JOB_ID $BATCHNS_ATTEMPT $unique" >> $file
sleep {seconds}
{more}
echo "end $BATCHNS_JOB_ID $BATCHNS_ATTEMPT" >> $file
exit $(( ({code} + ${{BATCHNS_ARRAY_TASK_ID:-0}}) % 100 ))
"""


@define(kw_only=True)
class Entry:
    """One submission. `key`: its jobs' name, too. `told`: its id, once that was acknowledged."""

    key: str
    uid: int
    tasks: int  # 0: no array
    code: int
    retries: int = 0
    told: str = ""
    again: set[str] = field(factory=set)  # every id that was ever answered to its key

    def indices(self) -> Iterable[int | None]:
        return range(self.tasks) if self.tasks else (None,)

    def exit_code(self, index: int | None) -> int:
        return (self.code + (index or 0)) % 100


@frozen(kw_only=True)
class Ran:
    """What a job's file says: how often each attempt started, and ended by itself."""

    starts: Counter[int]
    ends: Counter[int]
    ids: frozenset[str]


@define(eq=False)
class Ledger:
    """`folder`: where jobs write, open to all of them."""

    folder: Path
    entries: dict[str, Entry] = field(factory=dict)
    asked: defaultdict[str, set[str]] = field(factory=lambda: defaultdict(set))  # verbs, by job
    done: defaultdict[str, set[str]] = field(factory=lambda: defaultdict(set))  # those that were acknowledged
    refused: list[str] = field(factory=list)
    lock: threading.Lock = field(factory=threading.Lock)
    launcher_killed: bool = False

    def request(self, entry: Entry, seconds: float, more: str = "", **options: object) -> wire.SubmitRequest:
        """A job that does as the ledger expects."""
        with self.lock:
            self.entries[entry.key] = entry
        script = _SCRIPT.format(folder=self.folder, key=entry.key, seconds=seconds, code=entry.code, more=more)
        table = {
            "name": entry.key,
            "script": script,
            "cpus": "0.1",
            "memory": "32MiB",
            "stdout": "/dev/null",
            "stderr": "/dev/null",
            "max_retries": entry.retries,
            **({"array": f"0-{entry.tasks - 1}"} if entry.tasks else {}),
            **options,
        }
        command = wire.CommandLine(options=table, folder=str(self.folder))
        return wire.SubmitRequest(commands=(command,), key=entry.key)

    def acknowledged(self, entry: Entry, answer: wire.Submitted) -> None:
        (job,) = answer.jobs
        with self.lock:
            entry.told = entry.told or job.id
            entry.again.add(job.id)

    def ran(self, entry: Entry, index: int | None) -> Ran:
        path = self.folder / f"{entry.key}-{'x' if index is None else index}"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return Ran(
            starts=Counter(int(line[2]) for line in lines if line[0] == "start"),
            ends=Counter(int(line[2]) for line in lines if line[0] == "end"),
            ids=frozenset(line[1] for line in lines),
        )

    def complaints(self, rows: Mapping[str, wire.JobRow], prefix: str = "") -> tuple[list[str], Counter[str]]:
        """`rows`: every job that the daemon knows, by id. `prefix`: only of the keys that begin so.

        With what is wrong, how many ended how.
        """
        found: list[str] = [f"refused: {text}" for text in self.refused if text.startswith(prefix)]
        counts: Counter[str] = Counter()
        submissions: defaultdict[str, set[str]] = defaultdict(set)
        for row in rows.values():
            if row.name.startswith(prefix):
                submissions[row.name].add(row.array_id)
        counts["acts"] = sum(map(len, self.done.values()))
        for entry in self.entries.values():
            if not entry.key.startswith(prefix):
                continue
            there = submissions.pop(entry.key, set())
            counts["submissions"] += 1
            counts["acknowledged"] += bool(entry.told)
            if len(there | entry.again) > 1:
                found.append(f"{entry.key} was submitted more than once: {there | entry.again}")
            if entry.told and entry.told not in there:
                found.append(f"{entry.key} was acknowledged as {entry.told}, and is lost")
            for array_id in there:
                for index in entry.indices():
                    job_id = array_id if index is None else f"{array_id}_{index}"
                    if job_id not in rows:
                        found.append(f"{job_id} ({entry.key}) is lost")
                        continue
                    counts[rows[job_id].state] += 1
                    complaint = self._complaint(entry, index, rows[job_id], counts)
                    if complaint:
                        found.append(f"{complaint}: {entry}, {rows[job_id]}, {self.ran(entry, index)}")
            if not there and any(self.ran(entry, index).starts for index in entry.indices()):
                found.append(f"{entry.key} ran, and is not known")
        found += [f"nobody has submitted {name}: {ids}" for name, ids in submissions.items()]
        return found, counts

    def _complaint(self, entry: Entry, index: int | None, row: wire.JobRow, counts: Counter[str]) -> str:
        ran, asked, code = self.ran(entry, index), self.asked[row.id], entry.exit_code(index)
        counts["executions"] += ran.starts.total()
        stopped = bool(asked & {"cancel", "requeue"})
        if row.state not in OVER:
            return "it is not over"
        if ran.ids - {row.id}:
            return "it ran under another id"
        if max([*ran.starts.values(), *ran.ends.values()], default=0) > 1:
            return "one attempt ran twice"
        if any(attempt > row.attempt for attempt in ran.starts):
            return "it ran after its end"
        if any(attempt < row.attempt for attempt in ran.ends) and "requeue" not in asked and not entry.retries:
            return "it had ended, and was started again"
        if "cancel" in self.done[row.id] and row.state != "CANCELLED":
            return "it was cancelled, and that is lost"
        if ran.ends[row.attempt]:
            if row.state == "NODE_FAIL" and self.launcher_killed and row.started is None:
                return ""  # the launcher was killed while it launched it, and says that it may have run
            if row.exit_code != code:
                return f"it ended with {code}"
            expected = "FAILED" if code else "COMPLETED"
            return "" if row.state == expected or (row.state == "CANCELLED" and stopped) else f"it is not {expected}"
        if row.state == "CANCELLED" and stopped:
            return ""
        if row.state == "NODE_FAIL" and self.launcher_killed:
            return ""
        return "it did not run to its end"
