"""The texts of cgroup files, as values. Pure; each function names the file that it reads.

Formats: the kernel's Documentation/admin-guide/cgroup-v1/*.rst and cgroup-v2.rst.
"""

from __future__ import annotations

from collections.abc import Container


def cpu_list(text: str) -> frozenset[int]:
    """cpuset.cpus, cpuset.mems: "0-3,8" is {0, 1, 2, 3, 8}.

    Raises:
        ValueError: not such a list.
    """
    numbers: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def keyed(text: str) -> dict[str, int]:
    """Lines of "key number": cgroup.events, memory.events, memory.oom_control, cpu.stat. Other lines are left out."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def number(text: str) -> int | None:
    """A file of one number; "default 100" (io.weight) is 100; None for "max" and the empty file."""
    words = text.split()
    return int(words[-1]) if words and words[-1].isdecimal() else None


def v1_io(text: str, stacked: Container[str] = ()) -> tuple[int, int] | None:
    """blkio.throttle.io_service_bytes_recursive, io_serviced_recursive: bytes, or requests, (read, written); None when
    no device has a line.

    Devices in `stacked` ("major:minor") are left out: what goes through them is counted below them again.
    """
    read = written = 0
    seen = False
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3:
            seen = True
            device, operation, count = words
            if device not in stacked:
                read += int(count) if operation == "Read" else 0
                written += int(count) if operation == "Write" else 0
    return (read, written) if seen else None


def v2_io(text: str, keys: tuple[str, str] = ("rbytes", "wbytes"), stacked: Container[str] = ()) -> tuple[int, int]:
    """io.stat: (read, written), of these `keys`, without the devices in `stacked` ("major:minor")."""
    read = written = 0
    for line in text.splitlines():
        device, *fields = line.split()
        if device not in stacked:
            counts = dict(field.split("=", 1) for field in fields if "=" in field)
            read += int(counts.get(keys[0], 0))
            written += int(counts.get(keys[1], 0))
    return read, written
