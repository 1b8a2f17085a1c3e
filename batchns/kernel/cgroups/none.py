"""No cgroups: an ordinary user without a delegated subtree. Every limit that is asked for is named as missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batchns.kernel.cgroups.devices import ROOTS
from batchns.kernel.cgroups.interface import CgroupPlan, Limits, Squeezed
from batchns.kernel.cgroups.sample import Sample, Texts
from batchns.model.result import LimitReading, Usage


class NoCgroups:
    """See `Driver`. `why`: what stands in the result beside each limit."""

    mode = "none"

    def __init__(self, why: str) -> None:
        self.why = why

    def prepare(self) -> None:
        """Nothing to make."""

    def bound(self, pids: int) -> None:
        """Nothing bounds them."""

    def release(self) -> None:
        """Nothing to remove."""

    def plan(self, name: str, limits: Limits) -> CgroupPlan:
        """Nothing to make, and why."""
        return CgroupPlan(unavailable=tuple((limit, self._why_not(limit)) for limit in _asked(limits)))

    def readings(self, limits: Limits, plan: CgroupPlan, values: Mapping[str, str | int]) -> dict[str, LimitReading]:
        """No limit is in force."""
        return {limit: LimitReading(None, "", self._why_not(limit)) for limit in _asked(limits)}

    def _why_not(self, limit: str) -> str:
        """A delegated cgroup would not help with every one of them."""
        return ROOTS if limit == "devices" else self.why

    def usage(self, texts: Mapping[str, str]) -> Usage:
        """Nothing is known."""
        return Usage()

    def read_usage(self, name: str) -> Usage:
        """Nothing is known."""
        return Usage()

    def sample_files(self, name: str) -> tuple[str, ...]:
        """None."""
        return ()

    def sample(self, paths: Sequence[str], texts: Texts) -> Sample:
        """Nothing is known."""
        return Sample()

    def pids(self, name: str) -> list[int]:
        """Not known: a job's processes are those of its PID namespace."""
        return []

    def freeze(self, name: str, timeout: float) -> bool:
        """Without a cgroup nothing freezes a job as a whole."""
        return False

    def thaw(self, name: str, timeout: float) -> bool:
        """What was never frozen."""
        return True

    def kill(self, name: str, timeout: float) -> bool:
        """The job ends with its first process, which the launcher kills."""
        return True

    def set_cpus(self, name: str, cpus: str, mems: str) -> LimitReading:
        """Without a cgroup nothing moves a job as a whole."""
        return LimitReading(None, "", self.why)

    def squeeze(self, name: str, timeout: float) -> Squeezed:
        """Without a cgroup nobody knows a job's memory."""
        return Squeezed(None, self.why)

    def unsqueeze(self, name: str, memory: int | None) -> None:
        """What was never squeezed."""

    def jobs_cpu_seconds(self) -> float | None:
        """Nothing is known."""
        return None

    def remove(self, name: str) -> None:
        """Nothing to remove."""

    def names(self) -> list[str]:
        """None has cgroups."""
        return []


def _asked(limits: Limits) -> list[str]:
    return [limit for limit, value in limits._asdict().items() if value is not None]
