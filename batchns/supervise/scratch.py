"""The node's room for scratch on disk: where it is, how much of it there is, and what dead attempts have left there."""

from __future__ import annotations

import os
import re
import stat
import zlib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from batchns.errors import HostError
from batchns.model.config import Config
from batchns.units import format_size

_ATTEMPT = "[0-9a-z]{5}-[0-9a-z]{1,5}"


def path_of(config: Config, attempt: str) -> str:
    """Of the attempt's file, by the run folder too: there may be several on a machine."""
    return f"{config.node.scratch_folder}/{_prefix(config)}{attempt}.ext4"


def room(config: Config, *, sys: str = "/sys") -> int | None:
    """Bytes for scratch on disk; None: none is offered, as to all who are not root.

    Raises:
        HostError: the folder is missing, or not root's alone.
    """
    folder = config.node.scratch_folder
    if folder is None or os.geteuid() != 0:
        return None
    try:
        found = os.lstat(folder)
    except OSError as error:
        raise HostError(f"node.scratch_folder: {folder}: {error.strerror}", f"mkdir -m 700 {folder}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        what = f"node.scratch_folder: {folder} is not a folder that only root can write to"
        raise HostError(what, f"chown root {folder} && chmod go-w {folder}")
    space = os.statvfs(folder)
    if config.node.scratch_capacity is None:
        free = space.f_bavail * space.f_frsize + _in_use(config, Path(sys))
        return free - free // 10
    total = space.f_blocks * space.f_frsize
    if config.node.scratch_capacity > total:
        what = f"node.scratch_capacity: {format_size(config.node.scratch_capacity)} is more than {folder} is on"
        raise HostError(what, f"write at most {format_size(total)}, or leave it away")
    return config.node.scratch_capacity


def sweep_scratch(config: Config, known: Collection[str] = (), own: str = "") -> list[str]:
    """Remove files that no init has taken and none will: of runs that are gone, and of those of run `own` that are not
    `known`. Returns a line each. Blocks.
    """
    folder = config.node.scratch_folder
    if folder is None or os.geteuid() != 0:
        return []
    told = []
    for path in Path(folder).glob(f"{_prefix(config)}*.ext4"):
        match = re.fullmatch(f"{re.escape(_prefix(config))}({_ATTEMPT})\\.ext4", path.name)
        if match is None:
            continue
        run = match[1].partition("-")[0]
        if Path(config.paths.run, f"run-{run}").exists() and (run != own or match[1] in known):
            continue
        with suppress(FileNotFoundError):
            path.unlink()
            told.append(f"scratch of attempt {match[1]}, which is gone: removed")
    return told


def _prefix(config: Config) -> str:
    return f"batchns-{zlib.crc32(os.path.realpath(config.paths.run).encode()):08x}-"


def _in_use(config: Config, sys: Path) -> int:
    """Bytes of jobs' file systems there, whose files have no name any more: they are counted with their jobs.

    Known by what their names were: the kernel tells the path from the mount on which the folder is.
    """
    total = 0
    for device in (sys / "block").glob("loop*"):
        with suppress(OSError):  # one that has just become free
            if os.path.basename((device / "loop/backing_file").read_text()).startswith(_prefix(config)):
                total += int((device / "size").read_text()) * 512
    return total
