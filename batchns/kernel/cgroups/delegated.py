"""A delegated cgroup v2 subtree: the processes that were started in it make room for jobs beside them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from batchns.kernel.cgroups import files
from batchns.kernel.cgroups.detect import LEAF, own_unified


def delegated(path: str) -> bool:
    """Whether the cgroup at `path` is this user's to divide: cgroups(7), "Cgroups delegation"."""
    return all(os.access(f"{path}/{name}", os.W_OK) for name in ("", "cgroup.procs", "cgroup.subtree_control"))


def step_aside() -> str | None:
    """Move the processes of the own cgroup into a leaf below it, where it is delegated; the cgroup's path, or None.

    What cannot be moved stays, and the driver says then that the cgroup has processes.
    """
    path = own_unified()
    if path is None:
        return None
    if os.path.basename(path) == LEAF:  # another run, or this one, was here before
        return os.path.dirname(path)
    if not delegated(path) or not os.path.exists(f"{path}/cgroup.type"):
        return None
    leaf = Path(path, LEAF)
    with suppress(OSError):
        leaf.mkdir(exist_ok=True)
        for pid in (files.read_if_there(f"{path}/cgroup.procs") or "").split():
            with suppress(ProcessLookupError):
                files.write(f"{leaf}/cgroup.procs", pid)
    return path
