"""Which disks there are, and by which file a block I/O weight takes effect on them.

A weight is a number that a scheduler must heed: the bfq scheduler of a device, or on v2 the iocost controller.
Elsewhere the kernel accepts the value and ignores it, so the host is asked first.
"""

from __future__ import annotations

from attrs import frozen

from batchns.kernel.cgroups import files

NO_BFQ = "no block device uses the bfq scheduler - echo bfq > /sys/block/DEV/queue/scheduler"


@frozen
class Disk:
    name: str
    device: str  # "major:minor"
    scheduler: str  # "" for none
    stacked: bool = False  # dm and md: their I/O is counted again on the disks below


def disks(block: str) -> tuple[Disk, ...]:
    """The block devices below `block` (/sys/block) that hold something."""
    found = []
    for name in files.listing(block):
        if (files.read_if_there(f"{block}/{name}/size") or "0").strip() != "0":
            device = (files.read_if_there(f"{block}/{name}/dev") or "").strip()
            schedulers = files.read_if_there(f"{block}/{name}/queue/scheduler") or ""
            stacked = bool(files.listing(f"{block}/{name}/slaves"))
            found.append(Disk(name, device, active_scheduler(schedulers), stacked))
    return tuple(found)


def active_scheduler(text: str) -> str:
    """The bracketed word of /sys/block/DEV/queue/scheduler; "" for none: "mq-deadline [bfq]" is "bfq"."""
    name = text.partition("[")[2].partition("]")[0]
    return "" if name == "none" else name


def uses_bfq(found: tuple[Disk, ...]) -> bool:
    return any(disk.scheduler == "bfq" for disk in found)


def uses_iocost(qos: str) -> bool:
    """From the root's io.cost.qos: one line for each device that was ever configured, "8:0 enable=1 ctrl=auto ..."."""
    return any("enable=1" in line.split() for line in qos.splitlines())
