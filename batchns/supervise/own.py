"""batchns's own folders are not for jobs: records, locks and counters there decide about other jobs.

No bind and no output follows a symbolic link, so the paths alone can be compared. Pure.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from batchns.errors import UserError
from batchns.launch.plan import Plan


def check_binds(plan: Plan, own: Iterable[str]) -> None:
    """`own`: real paths.

    Raises:
        UserError: the job's working folder or a bind lies in one of batchns's own folders, or contains one.
    """
    for mount in plan.mounts:
        if mount.kind == "bind":
            key = "cwd" if mount.source == mount.target == plan.command.cwd else "isolation.binds"
            for folder in own:
                if _inside(mount.source, folder) or _inside(folder, mount.source):
                    raise _refusal(key, mount.source, folder)


def check_output(key: str, path: str, own: Iterable[str]) -> None:
    """`key`: "stdout" or "stderr". `own`: real paths.

    Raises:
        UserError: the output lies in one of batchns's own folders.
    """
    for folder in own:
        if _inside(path, folder):
            raise _refusal(key, path, folder)


def _inside(path: str, folder: str) -> bool:
    path = os.path.normpath(path)
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _refusal(key: str, path: str, folder: str) -> UserError:
    return UserError(f"{key}: {path}: batchns keeps its own files in {folder}", "choose a folder apart from that")
