"""Removing what dead runs left: processes, cgroups, slots, folders. Network namespaces go with their processes.

A run is dead when its lock can be taken. Nothing of a living run is touched, and nothing without a run's id.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from batchns.kernel.cgroups.interface import Driver

KILL_TIMEOUT = 5.0  # seconds for one job's processes to be gone
_FOLDER = re.compile(r"(?:run|making)-([0-9a-z]{5})")
_ATTEMPT = re.compile(r"([0-9a-z]{5})-[0-9a-z]{1,5}")


def sweep(run_folder: str, driver: Driver) -> list[str]:
    """Remove the leftovers of every dead run below `run_folder`.

    Returns what was removed and what could not be, a line each, for the user.
    """
    base = Path(run_folder)
    # In this order: the run of a job that is listed here has its folder already, so a living one is seen as such.
    names = driver.names()
    living, dead, locks = _runs(base)
    told: list[str] = []
    try:
        for name in names:
            match = _ATTEMPT.fullmatch(name)
            if match and match[1] not in living:
                told.append(_remove_job(name, driver))
        for slot in (base / "slots").glob("*") if dead else ():
            with suppress(FileNotFoundError):
                if slot.read_text() in dead:
                    slot.unlink()
        for run_id in dead:
            shutil.rmtree(base / f"run-{run_id}", ignore_errors=True)
            shutil.rmtree(base / f"making-{run_id}", ignore_errors=True)
    finally:
        for lock in locks:
            os.close(lock)
    return told


def _runs(base: Path) -> tuple[set[str], set[str], list[int]]:
    """(ids of living runs, ids of dead ones, the locks now held on the dead ones)."""
    living: set[str] = set()
    dead: set[str] = set()
    locks: list[int] = []
    for folder in base.glob("*-*"):
        match = _FOLDER.fullmatch(folder.name)
        if not match:
            continue
        try:
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # just being made, or just being removed, by a living run
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            dead.add(match[1])
            locks.append(lock)
        except BlockingIOError:
            living.add(match[1])
            os.close(lock)
    return living, dead - living, locks


def _remove_job(name: str, driver: Driver) -> str:
    if not driver.kill(name, KILL_TIMEOUT):
        return f"job {name} of a run that is gone: its processes {driver.pids(name)} could not be killed"
    try:
        driver.remove(name)
    except OSError as error:
        return f"job {name} of a run that is gone: {error.filename}: {error.strerror}"
    return f"job {name} of a run that is gone: removed"
