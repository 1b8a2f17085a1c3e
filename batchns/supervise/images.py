"""Images whose content a job insists on: `isolation.rootfs_digest`, checked before the image is used.

1. A file is read through once for each version of it: device, inode, size and time of the last change; where the file
   system has fs-verity, its measurement stands for the content.
2. What is used is the version that was checked: the launcher compares again what it has opened.
3. Only root's files, that nobody else can write to: else their content could change while a job runs.
4. The path is opened as the submitter, and no link is followed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio
from attrs import define, field

from batchns.errors import SCARCE, HostError, UserError, host_error
from batchns.kernel import syscalls, verity
from batchns.kernel.actas import acting_as
from batchns.launch.plan import Version
from batchns.model.submitter import Submitter
from batchns.supervise.ports import Blocking
from batchns.units import quote

_PIECE = 1 << 20
_MOST = 1000  # versions that are remembered
_NO_LINKS = syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS

Key = Version | bytes


@define(eq=False)
class Images:
    blocking: Blocking
    _known: dict[Key, str] = field(init=False, factory=dict)  # digests, the latest last
    _turns: dict[str, trio.Lock] = field(init=False, factory=dict)  # by path, while somebody wants it
    _writing: threading.Lock = field(init=False, factory=threading.Lock)  # checks of several paths are several threads

    async def check(self, path: str, digest: str, submitter: Submitter) -> Version:
        """The version of the file at `path` that has the digest ("sha256:...").

        Raises:
            UserError: there is none, it cannot be read, or it has another one.
            HostError: this machine has not the means to look at it at the moment.
        """
        given_up = threading.Event()
        async with self._turn(path):
            try:
                return await self.blocking(
                    partial(self._check, path, digest, submitter, given_up), late=lambda version: None
                )
            finally:
                given_up.set()

    @asynccontextmanager
    async def _turn(self, path: str) -> AsyncIterator[None]:
        """Of many jobs with the same image the first one reads it; one that does not answer is in no other's way."""
        turn = self._turns.setdefault(path, trio.Lock())
        try:
            async with turn:
                yield
        finally:
            if not (turn.locked() or turn.statistics().tasks_waiting):
                self._turns.pop(path, None)

    def _check(self, path: str, digest: str, submitter: Submitter, given_up: threading.Event) -> Version:
        try:
            with acting_as(submitter.uid, submitter.gid, submitter.groups):
                fd = syscalls.openat2(
                    syscalls.AT_FDCWD, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, resolve=_NO_LINKS
                )
            try:
                return self._check_open(path, fd, digest, given_up)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in SCARCE:
                raise host_error(error) from None
            raise UserError(
                f"isolation.rootfs: {path}: {error.strerror}", "write the path of a squashfs image on this host"
            ) from None

    def _check_open(self, path: str, fd: int, digest: str, given_up: threading.Event) -> Version:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            hint = "make an image of it (mksquashfs), or remove rootfs_digest"
            raise UserError(f"isolation.rootfs_digest: {path} is no image: only a file has a digest", hint)
        if found.st_uid != 0 or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            what = f"isolation.rootfs_digest: {path} can be changed by others than root while the job runs"
            raise UserError(what, f"chown root {quote(path)} && chmod go-w {quote(path)}")
        version = Version.of(found)
        key = verity.measurement(fd) or version
        actual = self._known.get(key) or _digest(fd, given_up)
        if Version.of(os.fstat(fd)) != version:
            raise UserError(f"isolation.rootfs: {path} changed while it was read", "submit again when it is complete")
        self._remember(key, actual)
        if actual != digest:
            what = f"isolation.rootfs_digest: {path} has {actual}, not {digest}"
            raise UserError(what, "use the image that the digest is of, or write the digest of this one")
        return version

    def _remember(self, key: Key, digest: str) -> None:
        with self._writing:
            self._known.pop(key, None)
            self._known[key] = digest
            while len(self._known) > _MOST:
                del self._known[next(iter(self._known))]


def _digest(fd: int, given_up: threading.Event) -> str:
    """Of the whole file. Raises HostError once nobody waits for it any more."""
    found = hashlib.sha256()
    with open(fd, "rb", buffering=0, closefd=False) as file:
        buffer = memoryview(bytearray(_PIECE))
        while size := file.readinto(buffer):
            if given_up.is_set():
                raise HostError("nobody waits for the digest any more")
            found.update(buffer[:size])
    return f"sha256:{found.hexdigest()}"
