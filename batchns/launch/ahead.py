"""Sandboxes that are built before their jobs are known: when to build them, and whether they still are as a new one.

They have the mounts of their time: where the host keeps its own private, none comes later. So what the host mounts is
watched, proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

from batchns.kernel.filesystems import read_whole
from batchns.launch.job import Job
from batchns.launch.plan import Base

_SETTLED = 0.1  # seconds: what was asked for so long before a mount was noticed was made before that mount
# The next sandbox is built when a job has ended, or so long after it began: whoever waits for the end of a short one is
# not to wait for that, too.
_AFTER = 0.003  # seconds


class Ahead:
    """Of one launcher. `watch`: of its poll loop, with the events. `build`: for an attempt, a base, in a cgroup v2.

    `give_up`: those for which the function is true. `mounts`: the host's, as mountinfo says it.
    """

    def __init__(
        self,
        watch: Callable[[int, Callable[[], None], int], None],
        *,
        build: Callable[[str, Base, str], None],
        give_up: Callable[[Callable[[Job], bool]], None],
    ) -> None:
        self._watch = watch
        self._build = build
        self._give_up = give_up
        self._due: dict[str, tuple[float, Base, str]] = {}  # what to build, and when
        self._mountinfo = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self.mounts = read_whole(self._mountinfo)
        self._moved = 0.0  # when a change was noticed that has not been looked at

    def serve(self) -> None:
        """The poll loop begins."""
        self._watch(self._mountinfo, self._changed, select.EPOLLPRI)

    def after(self, attempt: str, base: Base, into: str) -> None:
        """The job before this attempt has begun."""
        self._due[attempt] = (time.monotonic() + _AFTER, base, into)

    def hurry(self) -> None:
        """A job has ended: nobody waits for what is built now."""
        self._due = {attempt: (0.0, base, into) for attempt, (_, base, into) in self._due.items()}

    def forget(self, attempt: str) -> None:
        """It is launched, with a sandbox or without."""
        self._due.pop(attempt, None)

    def clear(self) -> None:
        self._due.clear()

    def due(self) -> float | None:
        """The moment at which there is something to do; None: there is nothing."""
        times = [when for when, _, _ in self._due.values()]
        if self._moved:
            times.append(self._moved + _SETTLED)
        return min(times, default=None)

    def do(self) -> None:
        """What is due."""
        now = time.monotonic()
        if self._moved and now >= self._moved + _SETTLED:
            self.look()
        for attempt in [attempt for attempt, (when, _, _) in self._due.items() if when <= now]:
            _, base, into = self._due.pop(attempt)
            self._build(attempt, base, into)

    def look(self) -> None:
        """Give up those that do not have the host's mounts as they are now, if those have changed.

        A mount that has come and gone again, as other container tools make them, leaves those that are older than it.
        """
        if not self._moved:
            return
        moved, self._moved = self._moved, 0.0
        known, self.mounts = self.mounts, read_whole(self._mountinfo)
        self._give_up(lambda job: known != self.mounts or job.born_at > moved - _SETTLED)

    def _changed(self) -> None:
        self._moved = self._moved or time.monotonic()
