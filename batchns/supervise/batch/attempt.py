"""One attempt of a job on a node: from its plan to its end."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from batchns.errors import StepError
from batchns.launch.plan import Plan
from batchns.supervise.batch import freezer, readings
from batchns.supervise.batch.clock import RunClock
from batchns.supervise.batch.helper import Helper
from batchns.supervise.batch.member import Orders
from batchns.supervise.batch.place import Way
from batchns.supervise.batch.results import Result
from batchns.supervise.batch.wanted import Wanted

_LONGEST = 3600.0  # seconds of one wait: poll(2) takes no more than 2^31 ms


class Stands:
    """Who wants the job to stand still: its user, or Slurm."""

    frozen = False
    suspended = False

    @property
    def still(self) -> bool:
        return self.frozen or self.suspended


class Attempt:
    def __init__(
        self, spec: Wanted, content: Mapping[str, Any], plan: Plan, found: Way, result: Result, stands: Stands
    ) -> None:
        self._spec = spec
        self._content = content
        self._plan = plan
        self._found = found
        self._result = result
        self._stands = stands
        values = result.values
        self._before = values.get("running_seconds", 0.0), values.get("frozen_seconds", 0.0)
        self._helper = Helper()
        self._clock = RunClock()
        self._init = 0  # once its command runs
        self._standing = False
        self._asked: tuple[str, str] | None = None  # the state that it is to end in, and why
        self._kill_at: float | None = None
        self._warned = False
        self._ended: dict[str, Any] | None = None
        self._kills = readings.oom_kills()  # before this attempt: the kernel counts all of a job's together

    def run(self, wake: socket.socket, heed: Callable[[], None], orders: Orders | None = None) -> dict[str, Any]:
        """`heed`: called for what comes by `wake` and `orders`.

        How it ended: `state`, `exit_code`, `signal`, `reason`, and the seconds.
        """
        try:
            null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            self._helper.launch(self._plan, null, 1, 2)
            os.close(null)
            self._loop(wake, heed, orders)
        finally:
            self._helper.close()
        assert self._ended is not None
        values = self._result.values
        return {
            "exit_code": None,
            "signal": None,
            "reason": "",
            **self._ended,
            "running_seconds": values.get("running_seconds", 0.0),
            "frozen_seconds": values.get("frozen_seconds", 0.0),
        }

    def _loop(self, wake: socket.socket, heed: Callable[[], None], orders: Orders | None = None) -> None:
        poll = select.poll()
        poll.register(self._helper.socket, select.POLLIN)
        for one in (wake, orders) if orders else (wake,):
            poll.register(one, select.POLLIN)
        while self._ended is None:
            pause = self._pause()
            poll.poll(None if pause is None else max(0, int(min(pause, _LONGEST) * 1000) + 1))
            for event in self._helper.heard():
                self._hear(event)
            if self._ended is None:
                heed()
                self._do_what_is_due()

    # -- what happens ----------------------------------------------------------------------------------------------

    def _hear(self, event: dict[str, Any] | None) -> None:
        if event is None:
            self._ended = self._ended or {"state": "FAILED", "reason": "the launcher has been killed"}
        elif event["event"] == "started":
            self._started(event)
        elif event["event"] == "failed":
            error = StepError(event["step"], event["path"], event["errno"], event["hint"])
            code = {"exec": 127 if event["errno"] == 2 else 126}.get(event["step"])
            state, reason = self._asked or ("FAILED", str(error))
            self._ended = {"state": state, "exit_code": code, "reason": reason}
        elif event["event"] == "ended":
            self._over(event)

    def _started(self, event: dict[str, Any]) -> None:
        self._init = event["pid"]
        self._clock.go()
        self._result.change(
            "started",
            f"attempt {self._result.values['attempts']}" if self._result.values["attempts"] > 1 else "",
            state="RUNNING",
            started=time.time(),
            ended=None,
            exit_code=None,
            signal=None,
            reason="",
            init=self._init,
            limits=readings.limits(self._spec, self._found, self._content["number"]),
            way=self._found.plan.mode if not self._found.prepared else "prepared",
        )
        if self._asked:
            self._signal_end()
        self.settle()

    def _over(self, event: dict[str, Any]) -> None:
        self._count()
        code, number = event["exit_code"], event["signal"]
        lost = code is None and number is None
        name = "SIGKILL" if lost else None if number is None else _signal_name(number)
        kills = readings.oom_kills() - self._kills
        if self._asked:
            state, reason = self._asked
        elif kills > 0:  # whatever the command made of it: Slurm, too, calls the job so
            state, reason = "OUT_OF_MEMORY", f"memory: {kills} killed"
        elif code == 0:
            state, reason = "COMPLETED", ""
        else:
            reason = f"exit code {code}" if name is None else f"ended by {name}"
            state, reason = "FAILED", "killed together with its init" if lost else reason
        self._ended = {"state": state, "exit_code": code, "signal": name, "reason": reason}

    def _count(self) -> None:
        ran, stood = self._before
        values = self._result.values
        values["running_seconds"], values["frozen_seconds"] = ran + self._clock.running, stood + self._clock.standing

    # -- what is done ----------------------------------------------------------------------------------------------

    def ask(self, state: str, reason: str) -> None:
        """Asked to end; the first reason counts."""
        self._asked = self._asked or (state, reason)
        self._stands.frozen = self._stands.suspended = False
        self.settle(anew=True)
        if self._init:
            self._signal_end()
        elif self._kill_at is None:
            self._kill_at = time.monotonic()

    def _signal_end(self) -> None:
        self.forward(signal.SIGTERM)
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self._content["grace_time"]

    def forward(self, number: int) -> None:
        if self._init:
            self._helper.signal(self._plan.attempt, number)

    def settle(self, *, anew: bool = False) -> None:
        """See that the job stands still, or goes on. `anew`: Slurm may have stopped or continued its processes."""
        wanted = self._stands.still and self._asked is None
        if not self._init or (wanted == self._standing and not anew):
            return
        if wanted and not freezer.stop(self._init):
            freezer.go_on(self._init)
            self._clock.go()
            self._standing = False
            self._result.change("freeze failed", "it forks faster than it can be stopped", state="RUNNING")
            return
        if not wanted:
            freezer.go_on(self._init)
        changed, self._standing = wanted != self._standing, wanted
        if changed:
            (self._clock.stand if wanted else self._clock.go)()
            self._count()
            frozen = wanted and self._stands.frozen
            event = ("frozen" if frozen else "suspended") if wanted else "thawed"
            self._result.change(
                event, "" if frozen or not wanted else "by Slurm", state="SUSPENDED" if frozen else "RUNNING"
            )
        elif wanted and self._stands.frozen != (self._result.values["state"] == "SUSPENDED"):
            event, state = ("frozen", "SUSPENDED") if self._stands.frozen else ("thawed", "RUNNING")
            self._result.change(event, "suspended by Slurm", state=state)

    def _pause(self) -> float | None:
        """Seconds until something is due."""
        now = time.monotonic()
        due = [] if self._kill_at is None else [self._kill_at - now]
        if self._init and self._asked is None:
            if (deadline := self._content["deadline"]) is not None:
                due.append(deadline - time.time())
            if not self._standing and (left := self._left()) is not None:
                warn = self._spec.warn
                due.append(left)
                if warn is not None and not self._warned:
                    due.append(left - warn[1])
        return min(due) if due else None

    def _left(self) -> float | None:
        limit: float | None = self._content["time_limit"]
        return None if limit is None else limit - self._clock.running

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = now + 1.0
            self._helper.signal(self._plan.attempt, signal.SIGKILL)
        if not self._init or self._asked is not None:
            return
        left, warn, deadline = self._left(), self._spec.warn, self._content["deadline"]
        if left is not None and left <= 0:
            from batchns.units import format_duration

            limit = format_duration(self._content["time_limit"])
            self.ask("TIMEOUT", f"time limit {limit} reached")
        elif deadline is not None and time.time() >= deadline:
            self.ask("TIMEOUT", "deadline reached")
        elif left is not None and warn is not None and not self._warned and left <= warn[1]:
            self._warned = True
            self.forward(warn[0])


def _signal_name(number: int) -> str:
    from batchns.model.signals import signal_name

    return signal_name(number)
