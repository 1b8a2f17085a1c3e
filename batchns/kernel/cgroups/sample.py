"""What a live job uses, read again and again: which files, and what their texts say. Pure.

Formats: the kernel's Documentation/admin-guide/cgroup-v1/*.rst, cgroup-v2.rst and accounting/psi.rst. A file that a
kernel lacks is None among the texts, and what it would say is not known.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from batchns.kernel.cgroups import parse

RESOURCES = ("cpu", "memory", "io")  # that tasks may wait for
_TICK = 0.01  # seconds: USER_HZ, which is 100 everywhere

_V1 = {
    "cpuacct": ("cpuacct.stat",),
    "cpu": ("cpu.stat",),
    "memory": ("memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.stat", "memory.oom_control"),
    "pids": ("pids.current",),
    "io": ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"),
}
_V2 = {
    "memory": ("memory.current", "memory.peak", "memory.max", "memory.stat", "memory.events"),
    "pids": ("pids.current",),
    "io": ("io.stat",),
}
_NO_LIMIT = 1 << 62  # v1 without a limit: the largest number of whole pages


class Sample(NamedTuple):
    """Seconds, bytes, counts since the job's start; None where the host cannot tell. `io` and `operations`: (read,
    written). `stalls`: seconds in which tasks waited, by resource and "some" or "full".
    """

    cpu_user: float | None = None
    cpu_system: float | None = None
    throttled: float | None = None
    memory: int | None = None
    working_set: int | None = None
    peak: int | None = None
    limit: int | None = None
    oom_kills: int | None = None
    tasks: int | None = None
    io: tuple[int, int] | None = None
    operations: tuple[int, int] | None = None
    stalls: Mapping[tuple[str, ...], float] = MappingProxyType({})

    @property
    def cpu(self) -> float | None:
        if self.cpu_user is None or self.cpu_system is None:
            return None
        return self.cpu_user + self.cpu_system


Texts = Sequence[str | None]


def v1_files(of: Mapping[str, str]) -> tuple[str, ...]:
    """Paths, for `v1`. `of`: the job's directory for each controller."""
    return tuple(f"{of[one]}/{file}" for one, files in _V1.items() if one in of for file in files)


def v1(files: Sequence[str], texts: Texts, stacked: Container[str], *, io_counted: bool) -> Sample:
    """`io_counted`: that no device is named means that there was no I/O."""
    of = dict(zip(_names(files), texts, strict=True)).get
    cpu, memory = _value(of("cpuacct.stat"), "user"), _number(of("memory.usage_in_bytes"))
    system = _value(of("cpuacct.stat"), "system")
    throttled = _value(of("cpu.stat"), "throttled_time")
    stat = of("memory.stat")
    limit = _value(stat, "hierarchical_memory_limit")
    io = [
        None if text is None else parse.v1_io(text, stacked) or ((0, 0) if io_counted else None)
        for text in (of("blkio.throttle.io_service_bytes_recursive"), of("blkio.throttle.io_serviced_recursive"))
    ]
    return Sample(
        cpu_user=None if cpu is None else cpu * _TICK,
        cpu_system=None if system is None else system * _TICK,
        throttled=None if throttled is None else throttled / 1e9,
        memory=memory,
        working_set=_without(memory, _value(stat, "total_inactive_file")),
        peak=_number(of("memory.max_usage_in_bytes")),
        limit=limit if limit is not None and limit < _NO_LIMIT else None,
        oom_kills=_value(of("memory.oom_control"), "oom_kill"),
        tasks=_number(of("pids.current")),
        io=io[0],
        operations=io[1],
    )


def v2_files(directory: str, controllers: Container[str]) -> tuple[str, ...]:
    """Paths, for `v2`. cpu.stat and pressure need no controller."""
    names = ["cpu.stat", *(f"{resource}.pressure" for resource in RESOURCES)]
    names += [file for one, files in _V2.items() if one in controllers for file in files]
    return tuple(f"{directory}/{name}" for name in names)


def v2(files: Sequence[str], texts: Texts, stacked: Container[str]) -> Sample:
    of = dict(zip(_names(files), texts, strict=True)).get
    stat, memory, io = of("cpu.stat"), _number(of("memory.current")), of("io.stat")
    user, system, throttled = (_value(stat, key) for key in ("user_usec", "system_usec", "throttled_usec"))
    stalls: dict[tuple[str, ...], float] = {}
    for one in RESOURCES:
        stalls.update(pressure(one, of(f"{one}.pressure")))
    return Sample(
        cpu_user=None if user is None else user / 1e6,
        cpu_system=None if system is None else system / 1e6,
        throttled=None if throttled is None else throttled / 1e6,
        memory=memory,
        working_set=_without(memory, _value(of("memory.stat"), "inactive_file")),
        peak=_number(of("memory.peak")),
        limit=_number(of("memory.max")),
        oom_kills=_value(of("memory.events"), "oom_kill"),
        tasks=_number(of("pids.current")),
        io=None if io is None else parse.v2_io(io, ("rbytes", "wbytes"), stacked),
        operations=None if io is None else parse.v2_io(io, ("rios", "wios"), stacked),
        stalls=stalls,
    )


def merged(first: Sample, second: Sample) -> Sample:
    """`first`, with what it does not know taken from `second`."""
    return Sample._make(
        [theirs if mine is None or mine == {} else mine for mine, theirs in zip(first, second, strict=True)]
    )


def pressure(resource: str, text: str | None) -> dict[tuple[str, ...], float]:
    """Of /proc/pressure/RESOURCE, or of a cgroup's file, as in `Sample`.

    Lines of "some avg10=0.00 avg60=0.00 avg300=0.00 total=0".
    """
    words = (text or "").split()
    return {(resource, kind): int(total[6:]) / 1e6 for kind, total in zip(words[::5], words[4::5], strict=True)}


def _names(files: Sequence[str]) -> list[str]:
    return [path[path.rfind("/") + 1 :] for path in files]


def _number(text: str | None) -> int | None:
    return int(text) if text and text[:1].isdecimal() else None


def _value(text: str | None, key: str) -> int | None:
    """Of the line "key number": most lines of memory.stat are never looked at."""
    if not text:
        return None
    if text.startswith(f"{key} "):
        start = len(key) + 1
    else:
        start = text.find(f"\n{key} ") + len(key) + 2
        if start < len(key) + 2:
            return None
    end = text.find("\n", start)
    return int(text[start : end if end >= 0 else None])


def _without(whole: int | None, part: int | None) -> int | None:
    return None if whole is None or part is None else max(0, whole - part)
