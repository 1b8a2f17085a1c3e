"""The trio side of the launcher: start it, ask it for jobs, hear of their ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from attrs import field, frozen

from batchns.kernel.network.types import Counters
from batchns.launch.plan import Plan


@frozen(kw_only=True)
class Started:
    """The command has been executed. `phases` are seconds since the request, by phase."""

    attempt: str
    pid: int  # init's, in the host's PID namespace
    phases: Mapping[str, float] = field(factory=dict)
    cgroup_values: Mapping[str, str | int] = field(factory=dict)  # for Driver.readings
    shapers: Mapping[str, int | None] = field(factory=dict)  # {"egress": bit/s in force, "ingress": ...}


@frozen(kw_only=True)
class Ended:
    """The job is over and its cgroups are gone.

    `exit_code` and `signal` (a number) are the command's own; both None when init left no record (it was killed).
    """

    attempt: str
    exit_code: int | None = None
    signal: int | None = None
    cgroup_texts: Mapping[str, str] = field(factory=dict)  # for Driver.usage
    network: Counters | None = None
    left: tuple[str, ...] = ()  # kernel objects that could not be removed


class Launcher:
    """One launcher process. Methods may be called from any trio task."""

    async def launch(self, plan: Plan, stdin: int, stdout: int, stderr: int) -> Started:
        """Start a job; returns once its command has been executed. The descriptors stay the caller's.

        Raises:
            StepError: which step failed, on what path, with which errno. Nothing is left behind. Step "exec" means
                that the command itself could not be executed (ENOENT: exit code 127 for a shell, else 126).
            HostError: the launcher is gone.
        """
        raise NotImplementedError

    async def wait(self, attempt: str) -> Ended:
        """The end of a started attempt (returns at once when it has already ended; once per attempt)."""
        raise NotImplementedError

    def signal(self, attempt: str, signum: int) -> None:
        """Send a signal to the job's init, which forwards it to the command; SIGKILL ends init and so the job.

        An attempt that has ended is no error.
        """
        raise NotImplementedError


@asynccontextmanager
async def open_launcher() -> AsyncIterator[Launcher]:
    """Start a launcher process; on leaving, its jobs are killed and it is waited for, within a bound."""
    raise NotImplementedError
    yield Launcher()
