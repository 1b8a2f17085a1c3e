"""A hybrid host: v1 holds controllers, and a v2 tree stands beside them, with few controllers or none.

1. Each limit goes to the version that holds its controller.
2. Freezing, killing and CPU time are always v2's: confirmed by events, and without a v1 hierarchy for each.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping, Sequence

import attrs

from batchns.errors import HostError
from batchns.kernel.cgroups import members, render
from batchns.kernel.cgroups.interface import CgroupPlan, Limits, Squeezed
from batchns.kernel.cgroups.sample import Sample, Texts, merged
from batchns.kernel.cgroups.v1 import V1Driver
from batchns.kernel.cgroups.v2 import V2Driver
from batchns.model.result import LimitReading, Usage


class HybridDriver:
    """`v1` has neither freezer nor cpuacct; `v2` wants only the controllers that `v1` does not hold."""

    mode = "hybrid"

    def __init__(self, v1: V1Driver, v2: V2Driver) -> None:
        self._v1 = v1
        self._v2 = v2
        self._own_files = 0  # how many of a sample's are v2's; 0: not asked yet

    def prepare(self) -> None:
        """See `Driver.prepare`."""
        self._v2.prepare()
        try:
            self._v1.prepare()
        except HostError:
            self._v2.release()
            raise

    def bound(self, pids: int) -> None:
        """See `Driver.bound`."""
        self._holding("pids").bound(pids)

    def release(self) -> None:
        """See `Driver.release`."""
        self._v1.release()
        self._v2.release()

    def plan(self, name: str, limits: Limits) -> CgroupPlan:
        """See `Driver.plan`."""
        mine, rest = render.within(limits, self._v1.controllers)
        old, new = self._v1.plan(name, mine), self._v2.plan(name, rest)
        return CgroupPlan(
            directories=new.directories + old.directories,
            writes=new.writes + old.writes,
            joins=old.joins,
            into=new.into,
            unavailable=new.unavailable + old.unavailable,
            final_reads=new.final_reads + old.final_reads,
            devices=old.devices if old.devices.directory else new.devices,
        )

    def readings(self, limits: Limits, plan: CgroupPlan, values: Mapping[str, str | int]) -> dict[str, LimitReading]:
        """See `Driver.readings`."""
        return render.readings(limits, plan, values)

    def usage(self, texts: Mapping[str, str]) -> Usage:
        """See `Driver.usage`."""
        return _merge(self._v2.usage(texts), self._v1.usage(texts))

    def read_usage(self, name: str) -> Usage:
        """See `Driver.read_usage`."""
        return _merge(self._v2.read_usage(name), self._v1.read_usage(name))

    def sample_files(self, name: str) -> tuple[str, ...]:
        """See `Driver.sample_files`."""
        return (*self._v2.sample_files(name), *self._v1.sample_files(name))

    def sample(self, paths: Sequence[str], texts: Texts) -> Sample:
        """See `Driver.sample`."""
        if not self._own_files:
            self._own_files = len(self._v2.sample_files(""))
        own = self._own_files
        return merged(self._v2.sample(paths[:own], texts[:own]), self._v1.sample(paths[own:], texts[own:]))

    def pids(self, name: str) -> list[int]:
        """See `Driver.pids`."""
        return sorted({*self._v2.pids(name), *self._v1.pids(name)})

    def freeze(self, name: str, timeout: float) -> bool:
        """See `Driver.freeze`."""
        return self._v2.freeze(name, timeout)

    def thaw(self, name: str, timeout: float) -> bool:
        """See `Driver.thaw`."""
        return self._v2.thaw(name, timeout)

    def kill(self, name: str, timeout: float) -> bool:
        """See `Driver.kill`. Whoever was moved out of the v2 tree is still in v1's, and killed there."""
        deadline = time.monotonic() + timeout
        emptied = self._v2.kill(name, timeout)
        if not any(map(members.running, self._v1.pids(name))):
            return emptied
        return self._v1.kill(name, max(deadline - time.monotonic(), 0.0)) and emptied

    def set_cpus(self, name: str, cpus: str, mems: str) -> LimitReading:
        """See `Driver.set_cpus`."""
        return self._holding("cpuset").set_cpus(name, cpus, mems)

    def squeeze(self, name: str, timeout: float) -> Squeezed:
        """See `Driver.squeeze`."""
        if not self._v2.is_frozen(name):
            return Squeezed(None, render.NOT_FROZEN)
        return self._holding("memory").reclaim(name, timeout)

    def unsqueeze(self, name: str, memory: int | None) -> None:
        """See `Driver.unsqueeze`."""
        self._holding("memory").unsqueeze(name, memory)

    def jobs_cpu_seconds(self) -> float | None:
        """See `Driver.jobs_cpu_seconds`."""
        return self._v2.jobs_cpu_seconds()

    def _holding(self, controller: str) -> V1Driver | V2Driver:
        return self._v1 if controller in self._v1.controllers else self._v2

    def remove(self, name: str) -> None:
        """See `Driver.remove`."""
        busy: OSError | None = None
        for driver in (self._v1, self._v2):
            try:
                driver.remove(name)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                busy = error
        if busy is not None:
            raise busy

    def names(self) -> list[str]:
        """See `Driver.names`."""
        return sorted({*self._v1.names(), *self._v2.names()})


def _merge(first: Usage, second: Usage) -> Usage:
    """`first`, with what it does not know taken from `second`."""
    known = {name: value for name, value in attrs.asdict(first).items() if value is not None}
    return attrs.evolve(second, **known)
