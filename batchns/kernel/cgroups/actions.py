"""The few file operations on cgroups that the launcher performs for a plan. No policy, no version differences.

1. All or nothing: what a failed `apply` made is removed before it raises.
2. A directory that is already there is an error: a cgroup belongs to one attempt of one job and is never shared.
"""

from __future__ import annotations

import errno
import os
import time

from batchns.errors import StepError
from batchns.kernel.cgroups import files
from batchns.kernel.cgroups.interface import CgroupPlan

_REMOVAL_SECONDS = 0.25  # in all, after the last process is gone: milliseconds are usual, and the launcher waits


def apply(plan: CgroupPlan, *, there: str = "") -> dict[str, str | int]:
    """Make the directories, write the values, read the limits back: {path: text, or errno of an optional write}.

    `there`: the one directory that exists already, because the job's first process was born in it.

    Raises:
        StepError: step "cgroup", the path and errno of the first failure; what was made is removed again.
    """
    made: list[str] = []
    values: dict[str, str | int] = {}
    path, hint = "", ""
    try:
        for path in plan.directories:
            if path != there:
                os.mkdir(path, 0o755)
            made.append(path)
        for path, value, limit, required in plan.writes:
            hint = f"the value was {value!r}" + (f", for {limit}" if limit else "")
            try:
                if limit:
                    values[path] = files.write_and_read_back(path, value)
                else:
                    files.write(path, value)
            except OSError as error:
                if required:
                    raise
                values[path] = error.errno or errno.EIO
    except OSError as error:
        for directory in reversed(made):
            files.remove_tree(directory, 0)
        raise StepError("cgroup", path, error.errno or 0, hint or _why_not_made(path, error.errno)) from None
    return values


def is_frozen(plan: CgroupPlan) -> bool:
    """Whether the job's cgroups are frozen, or are being frozen."""
    texts = [files.read_if_there(f"{path}/cgroup.freeze") for path in plan.directories]
    texts += [files.read_if_there(f"{path}/freezer.state") for path in plan.directories]
    return any(text is not None and text.strip() not in ("0", "THAWED") for text in texts)


def _why_not_made(path: str, number: int | None) -> str:
    if number == errno.ENOENT:
        return f"{os.path.dirname(path)} was removed while batchns was running: start batchns again"
    if number == errno.EEXIST:
        return f"left by an earlier run: rmdir {path}"
    return ""


def read_final(plan: CgroupPlan) -> dict[str, str]:
    """The texts of the plan's `final_reads`; files that do not exist are left out."""
    texts = {path: files.read_if_there(path) for path in plan.final_reads}
    return {path: text for path, text in texts.items() if text is not None}


def remove(plan: CgroupPlan) -> list[str]:
    """Remove the directories in reverse; returns those that could not be removed (busy)."""
    deadline = time.monotonic() + _REMOVAL_SECONDS
    left = []
    for path in reversed(plan.directories):
        if not files.remove_tree(path, deadline - time.monotonic()):
            left.append(path)
    return left
