"""One job on a node of a cluster, from its launch to its end: one loop over signals, the launcher and the clock.

    SIGTERM         asked to end, by scancel, a time limit of Slurm's or a preemption: the command gets it, then SIGKILL
    FREEZE, THAW    by batchns freeze and thaw, through scancel --batch
    SIGTSTP         Slurm is about to stop all of the job; whatever it does not reach stands still, too
    SIGCONT         it goes on
    others          the command's

Retries are made here, in the same allocation.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from batchns.errors import UserError
from batchns.model.parcel import FREEZE, THAW
from batchns.supervise.batch import place, readings
from batchns.supervise.batch.attempt import Attempt, Stands
from batchns.supervise.batch.member import Orders
from batchns.supervise.batch.results import Result
from batchns.supervise.batch.wanted import Wanted

_ASKED = {signal.SIGTERM}
# All but those that cannot be caught, those that this process brings upon itself, and the end of its children.
_HEEDED = signal.valid_signals() - {
    signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGPIPE,
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP,
}  # fmt: skip
_EARLY = 2.0  # seconds: Slurm's clock and ours
_AGAIN = ("FAILED", "OUT_OF_MEMORY")


class Supervision:
    """`content`: what came with the script. `orders`: signals that come from the job's first node."""

    def __init__(
        self,
        spec: Wanted,
        content: Mapping[str, Any],
        job_id: str,
        result: Result,
        environ: Mapping[str, str],
        orders: Orders | None = None,
    ) -> None:
        self._spec = spec
        self._content = {**content, "number": environ["SLURM_JOB_ID"]}
        self._job_id = job_id
        self._result = result
        self._environ = environ
        self._orders = orders
        self._cancelled = False
        self._end = ("CANCELLED", "")  # where that is so: the state, and why
        self._began = time.monotonic()
        self._was_suspended = False  # by Slurm, whose clock stands still then
        self._stands = Stands()
        self._attempt: Attempt | None = None
        self._wake, self._mine = socket.socketpair()
        self._wake.setblocking(False)
        self._mine.setblocking(False)

    def run(self) -> int:
        """All attempts; the exit code for Slurm."""
        self._listen()
        with place.folder(os.geteuid(), self._environ["SLURM_JOB_ID"]) as above:
            found = place.way(self._spec, above)
            self._refuse_what_is_strict(found)

            def once(number: int) -> dict[str, Any]:
                plan = place.plan(self._spec, self._content, self._job_id, number, found, above, self._environ)
                self._attempt = Attempt(self._spec, self._content, plan, found, self._result, self._stands)
                ended = self._attempt.run(self._wake, self.heed_signals, self._orders)
                self._attempt = None
                return ended

            ended = self._until_it_is_over(once)
        return self._over(ended, readings.usage())

    def _listen(self) -> None:
        for heeded in _HEEDED:
            signal.signal(heeded, lambda number, frame: None)
        signal.set_wakeup_fd(self._mine.fileno())
        if os.geteuid() == 0:
            raise UserError("jobs of root do not run on a cluster", "submit as a user")

    def _until_it_is_over(self, once: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
        """`once`: an attempt."""
        values = self._result.values
        while True:
            values["attempts"] += 1
            ended = once(values["attempts"])
            self.heed_signals()  # those that came with its end
            if not self._may_try_again(ended):
                break
            self._result.change("retried", ended["reason"], state="PENDING")
            self._pause(self._spec.retry_delay * 2 ** (values["failures"] - 1))
            if self._cancelled:
                break
        if self._cancelled and ended["state"] in _AGAIN:
            ended |= {"state": self._end[0], "reason": self._end[1]}
        return ended

    def _over(self, ended: dict[str, Any], usage: Mapping[str, Any]) -> int:
        self._result.end(**{**ended, "usage": usage})
        return exit_code(ended)

    def _may_try_again(self, ended: Mapping[str, Any]) -> bool:
        """Nodes that fail and preemptions use no retries up: attempts that they cut are no failures."""
        values = self._result.values
        if self._cancelled or ended["state"] not in _AGAIN or values["failures"] >= self._spec.max_retries:
            return False
        values["failures"] += 1
        return True

    def _refuse_what_is_strict(self, found: place.Way) -> None:
        if not self._spec.strict:
            return
        held = readings.limits(self._spec, found, self._environ["SLURM_JOB_ID"])
        missing = [f"{name}: {one['why']}" for name, one in held.items() if one.get("value") is None]
        if missing:
            raise UserError(f"strict: {'; '.join(missing)}", "leave the limit or strict away")

    def _pause(self, seconds: float) -> None:
        """Before a retry; signals are heeded."""
        until = time.monotonic() + seconds
        while not self._cancelled and (left := until - time.monotonic()) > 0:
            select.select([self._wake], [], [], left)
            self.heed_signals()

    def heed_signals(self) -> None:
        numbers: list[int] = []
        with suppress(BlockingIOError):
            numbers += self._wake.recv(1024)
        for number in (*numbers, *(self._orders.numbers() if self._orders else ())):
            self._heed(number)

    def _heed(self, number: int) -> None:
        attempt = self._attempt
        if number in _ASKED:
            if not self._cancelled:
                self._cancelled, self._end = True, self._why_asked()
            if attempt is not None:
                attempt.ask(*self._end)
        elif number in (FREEZE, THAW):
            self._stands.frozen = number == FREEZE
            if attempt is not None:
                attempt.settle()
        elif number in (signal.SIGTSTP, signal.SIGCONT):
            self._stands.suspended = number == signal.SIGTSTP
            self._was_suspended |= self._stands.suspended
            if attempt is not None:
                attempt.settle(anew=True)
        elif attempt is not None:
            attempt.forward(number)

    def _why_asked(self) -> tuple[str, str]:
        """Slurm does not say why it ends a job; at the end of the allocation's time that is why."""
        lasts = self._content.get("allocation")
        if lasts is not None and not self._was_suspended and time.monotonic() - self._began >= lasts - _EARLY:
            return "TIMEOUT", "Slurm's time limit reached: all attempts, grace times and delays"
        return "CANCELLED", "ended by Slurm, which does not say why: scancel, preemption, or a limit of its own"


def exit_code(ended: Mapping[str, Any]) -> int:
    """For Slurm: the command's own where that says failure, 128+N for signal N; 0 for what has completed alone."""
    if ended["state"] == "COMPLETED":
        return 0
    if ended.get("signal"):
        from batchns.model.signals import signal_number

        return 128 + signal_number(ended["signal"])
    return ended.get("exit_code") or 1
