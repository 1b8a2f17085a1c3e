"""Removing what dead runs left: processes, cgroups, slots, folders. Network namespaces go with their processes.

A run is dead when its lock can be taken, unless it is kept: that one goes on without its process. Nothing else is
touched: not a living run's, and not what a run with another run folder has made. A dead run's folder stays until all of
its jobs are gone, so the next sweep finds the rest. Slots of no run (it has no folder, or the file is not a claim at
all) are free again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

from batchns.kernel.cgroups.interface import Driver
from batchns.kernel.locks import lock_within
from batchns.supervise.runfolder import NOT_PLAIN, is_kept, open_plain, slot_owner, unusable

KILL_TIMEOUT = 5.0  # seconds for one job's processes to be gone
_UNFINISHED = 60.0  # seconds
_FOLDER = re.compile(r"(?:run|making)-([0-9a-z]{5})")
_ATTEMPT = re.compile(r"([0-9a-z]{5})-[0-9a-z]{1,5}")


def sweep(run_folder: str, driver: Driver) -> list[str]:
    """Remove the leftovers of every dead run below `run_folder`.

    Returns what was removed and what could not be, a line each, for the user.

    Raises:
        HostError: the run folder cannot be written.
    """
    base = Path(run_folder)
    dead = _lock_dead_runs(base)
    told: list[str] = []
    stuck: set[str] = set()
    try:
        for name in _jobs_of(dead.keys(), driver):
            problem = remove_job(name, driver)
            told.append(f"job {name} of a run that is gone: {problem or 'removed'}")
            if problem:
                stuck.add(name.partition("-")[0])
        told += _free_slots(base, dead.keys() - stuck)
        for run_id in dead.keys() - stuck:
            shutil.rmtree(base / f"run-{run_id}", ignore_errors=True)
            shutil.rmtree(base / f"making-{run_id}", ignore_errors=True)
    finally:
        for lock in dead.values():
            os.close(lock)
    return told


def remove_own(run_id: str, driver: Driver) -> list[str]:
    """Remove the cgroups that a run still has after its launcher's end: those of jobs and of sandboxes made ahead.

    A launcher that ended by itself leaves none; one that was killed leaves what it alone knew of. Returns what could
    not be removed, a line each, for the user.
    """
    problems = {name: remove_job(name, driver) for name in _jobs_of({run_id}, driver)}
    return [f"job {name}: {problem}" for name, problem in problems.items() if problem]


def _jobs_of(runs: Set[str], driver: Driver) -> list[str]:
    """The names below which these runs have cgroups."""
    names = driver.names() if runs else []
    return [name for name in names if (match := _ATTEMPT.fullmatch(name)) and match[1] in runs]


def _free_slots(base: Path, dead: Set[str]) -> list[str]:
    """Remove what claims a slot for a dead run or for none. One sweep at a time: a new claim may follow at once."""
    told: list[str] = []
    if not (base / "slots").is_dir():
        return told
    try:
        lock = open_plain(base / "sweep.lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise unusable(error, base) from None
    try:
        for slot in (base / "slots").glob("*") if lock_within(lock, fcntl.LOCK_EX, 0) else ():
            try:
                if _is_free(slot, base, dead):
                    slot.unlink(missing_ok=True)
            except OSError as error:
                told.append(f"{slot}: {error.strerror} - remove it: rm -r {slot}")
    finally:
        os.close(lock)
    return told


def _is_free(slot: Path, base: Path, dead: Set[str]) -> bool:
    owner = slot_owner(slot)
    if not owner or owner in dead:
        return owner is not None
    # A run gives back its slots before its folder. What is its claim still, after that, is so for ever.
    return not (base / f"run-{owner}").exists() and slot_owner(slot) == owner


def _lock_dead_runs(base: Path) -> dict[str, int]:
    """The dead runs' ids, each with its lock, now held."""
    dead: dict[str, int] = {}
    for folder in base.glob("*-*"):
        match = _FOLDER.fullmatch(folder.name)
        if not match:
            continue
        try:
            if is_kept(folder):
                continue  # not even locked for a moment: its next process may be about to do that
            lock = open_plain(folder / "lock", os.O_RDWR)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, *NOT_PLAIN):
                raise
            _remove_unfinished(folder)
            continue  # just being made, or just being removed, by a living run; or nothing of ours
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            dead[match[1]] = lock
        except BlockingIOError:
            os.close(lock)
    return dead


def _remove_unfinished(folder: Path) -> None:
    """The folder of a run that was killed before it had its lock, or while it removed itself.

    A living run needs one that it makes without a lock for microseconds; one that is made has had it.
    """
    with suppress(FileNotFoundError):
        made = folder.name.startswith("run-") or time.time() - folder.stat().st_mtime > _UNFINISHED
        if made and not (folder / "lock").exists():
            shutil.rmtree(folder, ignore_errors=True)


def remove_job(name: str, driver: Driver) -> str:
    """Why the job could not be removed, "" when it was."""
    if not driver.kill(name, KILL_TIMEOUT):
        return f"its processes {driver.pids(name)} could not be killed"
    try:
        driver.remove(name)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return ""
