"""The names of the jobs that reach each other: a hosts(5) file for each user, mounted over that of its jobs.

1. A file is written in place, so whoever has it mounted sees the names change, and never shorter than before: a reader
   sees the old text or the new one, and nothing cut off.
2. A user's jobs have a file of that user's jobs alone. It goes with the last of them.
"""

from __future__ import annotations

from pathlib import Path

from attrs import define, field

from batchns.core.job import Job
from batchns.kernel.network.resolver import write_in_place
from batchns.kernel.network.types import NetworkPlan

HOSTS = "/etc/hosts"


@define(eq=False)
class Names:
    """`place`: each user's file is this path and the uid. `own`: where the host's is."""

    place: str
    own: Path = Path(HOSTS)
    _lines: dict[int, dict[str, str]] = field(factory=dict)  # by uid and attempt

    def path(self, uid: int) -> str:
        """Of the file. It is there as long as one of the user's jobs has been added and not removed."""
        return f"{self.place}-{uid}"

    def add(self, uid: int, attempt: str, job: Job, plan: NetworkPlan) -> None:
        """From now on the job's name is its address: a task's is NAME-INDEX, and all tasks together have NAME."""
        name = job.spec.name if job.index is None else f"{job.spec.name}-{job.index} {job.spec.name}"
        addresses = filter(None, (plan.job_address, plan.job_address6))
        self._lines.setdefault(uid, {})[attempt] = "".join(f"{address} {name}\n" for address in addresses)
        self._write(uid)

    def remove(self, uid: int, attempt: str) -> None:
        """The job is over."""
        lines = self._lines.get(uid, {})
        if lines.pop(attempt, None) is None:
            return
        if lines:
            self._write(uid)
        else:
            del self._lines[uid]
            Path(self.path(uid)).unlink(missing_ok=True)

    def _write(self, uid: int) -> None:
        try:
            own = self.own.read_text(errors="replace")
        except FileNotFoundError:
            own = "127.0.0.1 localhost\n::1 localhost\n"
        write_in_place(self.path(uid), "".join((own.rstrip("\n"), "\n", *self._lines[uid].values())).encode())
