"""The files that a job's output goes to.

1. The job file's folder is resolved once, before any job of its submission runs; below it, and everywhere else, no
   symbolic link is followed: a job that can write there could otherwise point the next one's output at any file.
2. Only a plain file with one link is written to: not a fifo that blocks, not a device (but /dev/null), not another
   name of a file elsewhere.
3. Files are opened and made as the submitter: what that user may not write, is not written. Nobody else reads them.
4. Jobs append. A file is emptied when a submission opens it first, so jobs that share a file keep each other's lines.
5. The server of a file system may never answer: what touches one is done in a thread, and not waited for for ever.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import PurePosixPath
from typing import Protocol

import trio
from attrs import define, field

from batchns.core.job import Job
from batchns.errors import SCARCE, UserError, host_error
from batchns.kernel import syscalls
from batchns.kernel.actas import acting_as
from batchns.model.job import JobSpec
from batchns.model.submitter import Submitter
from batchns.supervise.ports import Blocking
from batchns.units import format_duration

TIMEOUT = 30.0  # seconds for the file systems of one job's output files to answer
MODE = 0o600
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


class Opened(Protocol):
    """Hears of an attempt's files: each as a descriptor that is open for so long, and what fstat(2) says of it.

    None of what is no plain file. It must not ask their file systems for anything: those may not answer. It may raise
    OSError, where there is no descriptor left for one of its own.
    """

    def __call__(self, attempt: str, files: Sequence[tuple[int, os.stat_result]]) -> None: ...


@define(eq=False)
class _Submission:
    """`anchors`: real paths of its job files' folders, by the names that the user gave them."""

    anchors: dict[str, str] = field(factory=dict)
    launched: bool = False  # by an earlier process: what is in its files is its own
    opened: set[tuple[int, int]] = field(factory=set)
    emptying: dict[tuple[int, int], threading.Lock] = field(factory=dict)


@define(eq=False)
class Outputs:
    """Opens the output files of jobs, with the rights of their submitters. A submission's `key` is its caller's."""

    blocking: Blocking
    opened: Opened | None = None
    mode: int = MODE
    _submissions: dict[str, _Submission] = field(init=False, factory=dict)

    async def anchor(self, key: str, specs: Iterable[JobSpec], submitter: Submitter) -> Mapping[str, str]:
        """Resolve the folders of a submission's files. To be called for all its jobs before the first one starts.

        Returns what `restore` takes.

        Raises:
            UserError: a file system does not answer.
        """
        submission = self._of(key)
        folders = sorted({_folder(spec) for spec in specs} - submission.anchors.keys())

        def resolve() -> dict[str, str]:
            with _as(submitter):
                return {folder: os.path.realpath(folder) for folder in folders}

        with trio.move_on_after(TIMEOUT):
            submission.anchors |= await self.blocking(resolve, late=_ignore)
            return dict(submission.anchors)
        raise _unanswered(folders)

    def restore(self, key: str, anchors: Mapping[str, str], *, launched: bool) -> None:
        """A submission of an earlier process. `launched`: jobs of it had started, so its files are not emptied."""
        self._submissions[key] = _Submission(dict(anchors), launched)

    def forget(self, key: str) -> None:
        """All its jobs are over."""
        self._submissions.pop(key, None)

    def _of(self, key: str) -> _Submission:
        return self._submissions.setdefault(key, _Submission())

    def paths(self, key: str, job: Job) -> tuple[str, str]:
        """Absolute paths of stdout and stderr for the job's current attempt.

        Raises:
            UserError: a pattern is not known.
        """
        folder = _folder(job.spec)
        real = self._of(key).anchors[folder]
        return (
            _moved(expand(job.spec.stdout or f"{folder}/%x-%j.out", job), folder, real),
            _moved(expand(job.spec.stderr or f"{folder}/%x-%j.err", job), folder, real),
        )

    async def open_all(
        self, key: str, paths: Sequence[tuple[str, str]], submitter: Submitter, *, attempt: str = ""
    ) -> list[int]:
        """Descriptors as of `open`, for each ("stdout" or "stderr", path): all of them, or none.

        Raises:
            UserError: as `open`, or no answer came in time.
            HostError: as `open`.
        """
        submission = self._of(key)
        with trio.move_on_after(TIMEOUT):
            fds, found = await self.blocking(partial(self._open_each, submission, paths, submitter), late=_close_late)
            if self.opened is not None:
                files = zip(fds, found, paths, strict=True)
                try:
                    self.opened(attempt, [(fd, one) for fd, one, (_, path) in files if path != os.devnull])
                except OSError as error:
                    trio.lowlevel.start_thread_soon(partial(close_all, fds), _ignore)
                    raise host_error(error) from None
            return fds
        raise _unanswered([path for _, path in paths])

    def _open_each(
        self, submission: _Submission, paths: Sequence[tuple[str, str]], submitter: Submitter
    ) -> tuple[list[int], list[os.stat_result]]:
        opened: list[int] = []
        try:
            for stream, path in paths:
                opened.append(self._open_said(submission, stream, path, submitter))
            return opened, [os.fstat(fd) for fd in opened]
        except BaseException:
            close_all(opened)
            raise

    def open(self, key: str, stream: str, path: str, submitter: Submitter) -> int:
        """A descriptor that appends to `path`. `stream`: "stdout" or "stderr", for the message. Blocks.

        Raises:
            UserError: it cannot be written there, or must not be.
            HostError: there are no descriptors left.
        """
        return self._open_said(self._of(key), stream, path, submitter)

    def _open_said(self, submission: _Submission, stream: str, path: str, submitter: Submitter) -> int:
        try:
            return _open(submission, stream, path, submitter, self.mode)
        except OSError as error:
            number = error.errno or 0
            if number in SCARCE:
                raise host_error(error) from None
            what, hint = _REFUSALS.get(number, (os.strerror(number), "choose another path"))
            raise UserError(f"{stream}: {path}: {what}", hint.replace("{folder}", os.path.dirname(path))) from None


def _open(submission: _Submission, stream: str, path: str, submitter: Submitter, mode: int) -> int:
    if path == os.devnull:  # the one device that is asked for with reason
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    with _as(submitter):
        fd = syscalls.openat2(_AT_FDCWD, path, _FLAGS, mode, _RESOLVE, release_lock=True)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{stream}: {path}: it is not a plain file", "choose another path")
        if found.st_nlink != 1:
            raise UserError(f"{stream}: {path}: the file has other names (hard links)", "remove it first")
        # In this order: the name that was opened is there still, so it is the one that was counted.
        if os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) != os.path.basename(path):
            raise UserError(f"{stream}: {path}: it was removed or renamed in this moment", "submit the job again")
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)  # without O_NONBLOCK: the job did not ask for it
        _empty_first(submission, fd, (found.st_dev, found.st_ino))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _as(submitter: Submitter) -> AbstractContextManager[None]:
    return acting_as(submitter.uid, submitter.gid, submitter.groups)


def _empty_first(submission: _Submission, fd: int, file: tuple[int, int]) -> None:
    """Empty the file unless its submission has opened it before, and not after another job's thread wrote."""
    if submission.launched:
        return
    with submission.emptying.setdefault(file, threading.Lock()):
        if file not in submission.opened:
            os.ftruncate(fd, 0)
            submission.opened.add(file)


def close_all(fds: Iterable[int]) -> None:
    """Blocks: the close of a file is an answer of its file system's, too."""
    for fd in fds:
        os.close(fd)


def _close_late(opened: tuple[list[int], object]) -> None:
    close_all(opened[0])


def _ignore(value: object) -> None:
    pass


def _unanswered(paths: Iterable[str]) -> UserError:
    return UserError(
        f"{' and '.join(dict.fromkeys(paths))}: no answer from the file system within {format_duration(TIMEOUT)}",
        "see that its server is up, or choose another path",
    )


def expand(pattern: str, job: Job) -> str:
    """Fill in %x %j %A %a %r %%. A pattern without %r gets "-r2" before the suffix at the second attempt.

    /dev/null stays what it is.

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
    if job.attempt == 1 or "r" in letters or path == os.devnull:
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
