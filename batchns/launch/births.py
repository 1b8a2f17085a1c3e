"""Inits on their way to life: what the zygote has been asked for and has not answered yet.

1. It answers in the order in which it was asked.
2. Where something has ended it there is another one: what waited for it fails, what runs goes on.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from batchns.errors import StepError
from batchns.launch import zygote
from batchns.launch.job import Job

_AT_MOST = 64  # so many answers fit into the zygote's socket with room to spare


class Births:
    """Of one launcher. `kept`: as of `zygote.start`.

    `watch`, `unwatch`: of its poll loop. `born`: the job has its init. `failed`: it will have none.
    """

    def __init__(
        self,
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], None],
        *,
        kept: bool,
        born: Callable[[Job], None],
        failed: Callable[[Job, StepError], None],
    ) -> None:
        self._watch = watch
        self._unwatch = unwatch
        self._kept = kept
        self._born = born
        self._failed = failed
        self._waiting: deque[Job] = deque()
        self._zygote, self._pid = zygote.start(kept=kept)

    def serve(self) -> None:
        """The poll loop begins."""
        self._watch(self._zygote.fileno(), self._readable)

    def ask(self, job: Job, status: int, cgroup: int) -> None:
        """As of `zygote.ask`, for an init of this job."""
        if len(self._waiting) >= _AT_MOST:
            self._next()
        try:
            zygote.ask(self._zygote, job.base, status, cgroup)
        except (BrokenPipeError, ConnectionResetError):
            self._restart()
            zygote.ask(self._zygote, job.base, status, cgroup)
        self._waiting.append(job)

    def wait_for(self, job: Job) -> bool:
        """Wait for the job's init, if need be; False where there is none and it has been told."""
        while job in self._waiting:
            self._next()
        return job.pid > 0

    def wait_for_all(self) -> None:
        while self._waiting:
            self._next()

    def end(self) -> None:
        """The zygote ends; nothing may be waiting for it."""
        self._zygote.close()
        os.waitpid(self._pid, 0)

    def _readable(self) -> None:
        """It has answered or is gone, unless another event of the same poll has already read the answer."""
        with suppress(BlockingIOError):
            self._next(wait=False)

    def _next(self, *, wait: bool = True) -> None:
        """The next answer of the zygote, which is on its way."""
        try:
            pid, pidfd = zygote.born(self._zygote, wait=wait)
        except EOFError:
            self._restart()
        except StepError as error:
            self._failed(self._waiting.popleft(), error)
        else:
            job = self._waiting.popleft()
            job.pid, job.pidfd = pid, pidfd
            self._born(job)

    def _restart(self) -> None:
        self._unwatch(self._zygote.fileno())
        self.end()
        self._zygote, self._pid = zygote.start(kept=self._kept)
        self.serve()
        while self._waiting:
            self._failed(self._waiting.popleft(), StepError("clone3", "", 0, "the zygote was killed: try again"))
