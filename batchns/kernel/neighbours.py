"""What the machine does that is not ours: CPUs that processes outside our jobs keep busy, and how much anybody waits.

1. Everything that is busy and not in a job's cgroup is a neighbour, kernel threads and batchns itself included.
2. Time that a hypervisor takes (steal) and that a CPU waits for a disk (iowait) is nobody's.
3. What the kernel does not tell is None, never 0.

Sources: proc_stat(5); the kernel's Documentation/accounting/psi.rst.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection
from typing import NamedTuple

from batchns.kernel.cgroups import files

_BUSY = (0, 1, 2, 5, 6)  # user (guest included), nice, system, irq, softirq
_NO_PSI = (errno.ENOENT, errno.EOPNOTSUPP)  # not compiled in; switched off at boot


class Pressure(NamedTuple):
    """Per cent of the last ten seconds in which some process of the machine had to wait for it."""

    cpu: float | None = None
    memory: float | None = None
    io: float | None = None


def busy_ticks(text: str, cpus: Collection[int]) -> int:
    """Of /proc/stat: what `cpus` have been busy, in clock ticks since boot, added up.

    A CPU that went offline has no line, so the sum may fall.
    """
    wanted = {f"cpu{cpu}" for cpu in cpus}
    total = 0
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        if name in wanted:
            fields = rest.split()
            total += sum(int(fields[index]) for index in _BUSY)
    return total


def some_avg10(text: str) -> float | None:
    """Of a file of /proc/pressure: the number of "some avg10=1.23 avg60=..."; None where there is none."""
    for line in text.splitlines():
        kind, *fields = line.split()
        found = dict(field.split("=", 1) for field in fields if "=" in field)
        if kind == "some" and "avg10" in found:
            return float(found["avg10"])
    return None


class Neighbours:
    """`cpus`: the node's. `jobs_cpu_seconds`: see `Driver`; where it says None nothing is known of neighbours, either.

    `proc`: where procfs is mounted. Not for two threads at once.
    """

    def __init__(
        self, cpus: Collection[int], jobs_cpu_seconds: Callable[[], float | None], *, proc: str = "/proc"
    ) -> None:
        self._cpus = frozenset(cpus)
        self._jobs_cpu_seconds = jobs_cpu_seconds
        self._proc = proc
        self._tick = 1 / os.sysconf("SC_CLK_TCK")
        self._last: tuple[float, float] | None = None  # when, and the others' CPU seconds until then

    def sample(self, now: float) -> float | None:
        """How many CPUs others kept busy since the sample before, on average; None at first, or where not known.

        `now`: seconds, of a clock that only goes forward. The kernel counts /proc/stat in ticks of mostly 10 ms and
        jobs exactly, so let a second or more pass between two samples.

        Raises:
            OSError: /proc/stat, or the jobs' counter, cannot be read.
        """
        ours = self._jobs_cpu_seconds()
        others = busy_ticks(files.read(f"{self._proc}/stat"), self._cpus) * self._tick - (ours or 0.0)
        before, self._last = self._last, None if ours is None else (now, others)
        if before is None or ours is None or now <= before[0]:
            return None
        return max(others - before[1], 0.0) / (now - before[0])

    def pressure(self) -> Pressure:
        """How much anybody, jobs included, waits for CPUs, memory and disks; None for each that is not told."""
        return Pressure(*(self._pressure(name) for name in Pressure._fields))

    def _pressure(self, name: str) -> float | None:
        try:
            text = files.read(f"{self._proc}/pressure/{name}")
        except OSError as error:
            if error.errno not in _NO_PSI:
                raise
            return None
        return some_avg10(text)
