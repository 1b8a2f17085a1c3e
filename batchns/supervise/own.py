"""batchns's own folders are not for jobs: records, locks and counters there decide about other jobs.

No root, bind or output follows a symbolic link, so the paths alone can be compared. Pure.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from batchns.errors import UserError
from batchns.launch.plan import Plan

SESSIONS = "/run/user"
HIDDEN = ("/run", "/tmp", "/var/tmp", "/dev/shm")  # a job has its own


def check_binds(plan: Plan, own: Iterable[str]) -> None:
    """`own`: real paths.

    Raises:
        UserError: the job's working folder, a bind or its root lies in one of batchns's own folders, or contains one;
            or a bind has the sockets of users' sessions.
    """
    if plan.rootfs is not None:
        _check("isolation.rootfs", plan.rootfs.source, own)
    for mount in plan.mounts:
        if mount.kind == "bind":
            key = "cwd" if mount.source == mount.target == plan.command.cwd else "isolation.binds"
            _check(key, mount.source, own)
            if _inside(mount.source, SESSIONS) or _inside(SESSIONS, mount.source):
                what = f"{key}: {mount.source}: services of users' sessions listen in {SESSIONS}, outside of any job"
                raise UserError(what, "choose another folder")


def _check(key: str, source: str, own: Iterable[str]) -> None:
    for folder in own:
        if _inside(source, folder) or _inside(folder, source):
            raise _refusal(key, source, folder)


def check_hidden(key: str, path: str) -> None:
    """`path`: of the daemon's socket, which whoever sees it may connect to, on a read-only file system too.

    Raises:
        UserError: it is where jobs find the host's files.
    """
    real = os.path.realpath(path)
    if not any(_inside(real, folder) for folder in HIDDEN):
        raise UserError(f"{key}: {path} is in reach of jobs, whose root is the host's", "choose a path below /run")


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
