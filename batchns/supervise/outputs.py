"""The files that a job's output goes to.

1. The job file's folder is resolved once, before any job runs; below it, and everywhere else, no symbolic link is
   followed: a job that can write there could otherwise point the next job's output at any file of the host.
2. Only a plain file with one link is written to: not a fifo that blocks, not a device (but /dev/null), not another
   name of a file elsewhere.
3. Files are opened and made as the submitter: what that user may not write, is not written.
4. Jobs append. A file is emptied when this run opens it first, so jobs that share a file keep each other's lines.
5. The server of a file system may never answer: what touches one is done in a thread, and not waited for for ever.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import PurePosixPath

import trio
from attrs import define, field

from batchns.core.job import Job
from batchns.errors import UserError
from batchns.kernel import syscalls
from batchns.kernel.actas import acting_as
from batchns.model.job import JobSpec
from batchns.model.submitter import ROOT, Submitter
from batchns.supervise.ports import Blocking
from batchns.units import format_duration

TIMEOUT = 30.0  # seconds for the file systems of one job's output files to answer
MODE = 0o640  # and the umask
_AT_FDCWD = -100
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_RESOLVE = syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
_PATTERN = re.compile(r"%(.?)", re.DOTALL)

# errno: (what is wrong, what to do). The path is the user's, and so is whatever else the kernel may answer to it.
_REFUSALS = {
    errno.ELOOP: ("a symbolic link is in the way", "write the path that it leads to, or remove the link"),
    errno.ENOENT: ("its folder does not exist", "make it: mkdir -p {folder}"),
    errno.ENOTDIR: ("a part of the path is not a folder", "choose another path"),
    errno.EISDIR: ("it is a folder", "write a file's name behind it: %x-%j.out"),
    errno.ENXIO: ("it is not a plain file", "choose another path"),
    errno.EACCES: ("permission denied", "choose a folder that you may write to"),
    errno.EPERM: ("permission denied", "choose a folder that you may write to"),
    errno.EROFS: ("its file system is read-only", "choose another path"),
    errno.ENOSPC: ("no space is left there", "free some, or choose another path"),
    errno.EDQUOT: ("the quota there is used up", "free some, or choose another path"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    errno.ETXTBSY: ("it is a program that is running", "choose another path"),
    errno.EAGAIN: ("another program holds a lease on it", "choose another path"),
}


@define(eq=False)
class Outputs:
    """Opens the output files of one run's jobs, with the rights of their submitter."""

    blocking: Blocking
    submitter: Submitter = ROOT
    _anchors: dict[str, str] = field(init=False, factory=dict)  # a job file's folder as it was named: its real path
    _opened: set[tuple[int, int]] = field(init=False, factory=set)
    _emptying: dict[tuple[int, int], threading.Lock] = field(init=False, factory=dict)

    async def anchor(self, specs: Iterable[JobSpec]) -> None:
        """Resolve the folders of the jobs' files. To be called for every job before the first one starts.

        Raises:
            UserError: a file system does not answer.
        """
        folders = sorted({_folder(spec) for spec in specs} - self._anchors.keys())

        def resolve() -> dict[str, str]:
            with self._as_submitter():
                return {folder: os.path.realpath(folder) for folder in folders}

        with trio.move_on_after(TIMEOUT):
            self._anchors |= await self.blocking(resolve, late=_ignore)
            return
        raise _unanswered(folders)

    def paths(self, job: Job) -> tuple[str, str]:
        """Absolute paths of stdout and stderr for the job's current attempt."""
        folder = _folder(job.spec)
        real = self._anchors[folder]
        return (
            _moved(expand(job.spec.stdout or f"{folder}/%x-%j.out", job), folder, real),
            _moved(expand(job.spec.stderr or f"{folder}/%x-%j.err", job), folder, real),
        )

    async def open_all(self, paths: Sequence[tuple[str, str]]) -> list[int]:
        """Descriptors as of `open`, for each ("stdout" or "stderr", path): all of them, or none.

        Raises:
            UserError: as `open`, or no answer came in time.
        """
        with trio.move_on_after(TIMEOUT):
            return await self.blocking(partial(self._open_each, paths), late=close_all)
        raise _unanswered([path for _, path in paths])

    def _open_each(self, paths: Sequence[tuple[str, str]]) -> list[int]:
        opened: list[int] = []
        try:
            for key, path in paths:
                opened.append(self.open(key, path))
        except BaseException:
            close_all(opened)
            raise
        return opened

    def open(self, key: str, path: str) -> int:
        """A descriptor that appends to `path`. `key`: "stdout" or "stderr", for the message. Blocks.

        Raises:
            UserError: it cannot be written there, or must not be.
        """
        try:
            return self._open(key, path)
        except OSError as error:
            number = error.errno or 0
            what, hint = _REFUSALS.get(number, (os.strerror(number), "choose another path"))
            raise UserError(f"{key}: {path}: {what}", hint.replace("{folder}", os.path.dirname(path))) from None

    def _open(self, key: str, path: str) -> int:
        if path == os.devnull:  # the one device that is asked for with reason
            return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        with self._as_submitter():
            fd = syscalls.openat2(_AT_FDCWD, path, _FLAGS, MODE, _RESOLVE, release_lock=True)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise UserError(f"{key}: {path}: it is not a plain file", "choose another path")
            if found.st_nlink != 1:
                raise UserError(f"{key}: {path}: the file has other names (hard links)", "remove it first")
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)  # without O_NONBLOCK: the job did not ask for it
            self._empty_first(fd, (found.st_dev, found.st_ino))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _as_submitter(self) -> AbstractContextManager[None]:
        return acting_as(self.submitter.uid, self.submitter.gid, self.submitter.groups)

    def _empty_first(self, fd: int, file: tuple[int, int]) -> None:
        """Empty the file unless this run has opened it before. One job's thread must not do so after another wrote."""
        with self._emptying.setdefault(file, threading.Lock()):
            if file not in self._opened:
                os.ftruncate(fd, 0)
                self._opened.add(file)


def close_all(fds: Iterable[int]) -> None:
    """Blocks: the close of a file is an answer of its file system's, too."""
    for fd in fds:
        os.close(fd)


def _ignore(value: object) -> None:
    pass


def _unanswered(paths: Iterable[str]) -> UserError:
    return UserError(
        f"{' and '.join(dict.fromkeys(paths))}: no answer from the file system within {format_duration(TIMEOUT)}",
        "see that its server is up, or choose another path",
    )


def expand(pattern: str, job: Job) -> str:
    """Fill in %x %j %A %a %r %%. A pattern without %r gets "-r2" before the suffix at the second attempt.

    Raises:
        UserError: another letter follows a percent sign.
    """
    values = {
        "x": job.spec.name,
        "j": job.id,
        "A": job.array_id,
        "a": "0" if job.index is None else str(job.index),
        "r": str(job.attempt),
        "%": "%",
    }
    letters = _PATTERN.findall(pattern)
    if unknown := [letter for letter in letters if letter not in values]:
        raise UserError(f"{pattern}: %{unknown[0]} is not known", "write %x, %j, %A, %a, %r or %%")
    path = _PATTERN.sub(lambda match: values[match[1]], pattern)
    if job.attempt == 1 or "r" in letters:
        return path
    pure = PurePosixPath(path)
    return str(pure.with_name(f"{pure.stem}-r{job.attempt}{pure.suffix}"))


def _folder(spec: JobSpec) -> str:
    """The folder of the job's file, absolute, as the user named it; the working folder where there is no file."""
    file = spec.source.rpartition(":")[0]
    return os.path.dirname(os.path.abspath(file)) if file else spec.cwd


def _moved(path: str, folder: str, real: str) -> str:
    """`path` with the folder that it lies in replaced by what that resolves to."""
    below = path.removeprefix(folder.rstrip("/") + "/")
    return path if below == path else f"{real.rstrip('/')}/{below}"
