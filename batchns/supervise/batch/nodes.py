"""A job of several nodes, on its first node: one srun starts a supervisor on each, and one result is made of theirs.

1. Signals, of Slurm's and of batchns's commands, go on to all nodes as they come.
2. The job has completed when it has on every node; the first that ends otherwise says how the job ended, and the others
   are asked to end.
3. It is frozen when it is on every node. Retries are of the whole job, in the same allocation.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from batchns.errors import HostError
from batchns.supervise.batch.member import Heard
from batchns.supervise.batch.results import Result
from batchns.supervise.batch.single import Supervision
from batchns.supervise.batch.wanted import Wanted

_CLOCKS = ("running_seconds", "frozen_seconds")
_PATH = "/usr/local/bin:/usr/bin:/bin"


class Coordination(Supervision):
    """`content`: what came with the script."""

    def __init__(
        self, spec: Wanted, content: Mapping[str, Any], job_id: str, result: Result, environ: Mapping[str, str]
    ) -> None:
        super().__init__(spec, content, job_id, result, environ)
        self._nodes = int(environ["SLURM_JOB_NUM_NODES"])
        self._srun: subprocess.Popen[bytes] | None = None
        self._told: dict[int, dict[str, Any]] = {}
        self._ended: dict[str, Any] | None = None  # by the first node that did not complete
        self._usage: dict[str, Any] = {}
        self._before: dict[str, float] = {}  # seconds of the attempts before
        self._runs = False  # on all nodes, and the result says so

    def run(self) -> int:
        self._listen()
        return self._over(self._until_it_is_over(self._on_all), self._usage)

    def _on_all(self, number: int) -> dict[str, Any]:
        self._told, self._ended, self._runs = {}, None, False
        self._before = {name: self._result.values.get(name, 0.0) for name in _CLOCKS}
        reading, writing = os.pipe()
        try:
            self._srun = subprocess.Popen(self._words(), stdin=subprocess.PIPE, stdout=writing, env=self._env())
        except OSError as error:
            os.close(reading)
            raise HostError(f"srun: {error.strerror}", "it has to be on every node, as sbatch is") from None
        finally:
            os.close(writing)
        try:
            self._send(json.dumps(self._job(number), separators=(",", ":")))
            if self._cancelled:
                self._send(str(int(signal.SIGTERM)))
            self._follow(reading)
        finally:
            os.close(reading)
            assert self._srun.stdin is not None
            with suppress(OSError):
                self._srun.stdin.close()
            self._srun.wait()
            self._srun = None
        return self._together()

    def _words(self) -> list[str]:
        where = f"--nodes={self._nodes} --ntasks={self._nodes} --ntasks-per-node=1 --mpi=none --quiet".split()
        cpus = self._environ.get("SLURM_CPUS_PER_TASK")
        each = [f"--cpus-per-task={cpus}"] if cpus else []
        # Nodes end with 0 once they have said how the command ended: one that does not has been killed.
        return ["srun", *where, *each, "--kill-on-bad-exit=1", "--input=all", *sys.orig_argv[:-1], "-"]

    def _env(self) -> dict[str, str]:
        return {**self._environ, "PATH": f"{self._environ.get('PATH', '')}:{_PATH}".lstrip(":")}

    def _job(self, number: int) -> dict[str, Any]:
        """For the nodes: retries are made here."""
        outputs = [os.readlink(f"/proc/self/fd/{one}") for one in (1, 2)]
        spec = {**self._content["spec"], "max_retries": 0}
        return {
            **self._content,
            "spec": spec,
            "attempt": number,
            "outputs": outputs,
            "first": self._environ.get("SLURMD_NODENAME", ""),
        }

    def _send(self, line: str) -> None:
        srun = self._srun
        if srun is None or srun.stdin is None:
            return
        with suppress(BrokenPipeError):  # its end is seen by `_follow`
            srun.stdin.write(f"{line}\n".encode())
            srun.stdin.flush()

    def _follow(self, reading: int) -> None:
        """Until srun has ended: nobody writes there any more."""
        heard = Heard()
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if reading in ready:
                data = os.read(reading, 1 << 16)
                if not data:
                    return
                for rank, values in heard.messages(data):
                    self._hear(rank, values)
            self.heed_signals()

    def _hear(self, rank: int, values: dict[str, Any]) -> None:
        self._told[rank] = values
        if values.get("over"):
            if values["state"] != "COMPLETED" and self._ended is None:
                reason = f"node {rank} ({values['host']}): {values.get('reason') or values['state'].lower()}"
                self._ended = {
                    **{name: values.get(name) for name in ("state", "exit_code", "signal")},
                    "reason": reason,
                }
                self._send(str(int(signal.SIGTERM)))
            return
        if len(self._told) < self._nodes or self._ended is not None:
            return
        states = {told["state"] for told in self._told.values() if not told.get("over")}
        if not self._runs and states == {"RUNNING"}:
            self._runs = True
            self._result.change(
                "started",
                f"on {self._nodes} nodes",
                state="RUNNING",
                started=time.time(),
                ended=None,
                exit_code=None,
                signal=None,
                reason="",
                limits=self._told[0].get("limits", {}),
                way=self._told[0].get("way"),
            )
        elif self._runs and len(states) == 1 and states != {self._result.values["state"]}:
            self._count()
            (state,) = states
            self._result.change("frozen" if state == "SUSPENDED" else "thawed", state=state)

    def _together(self) -> dict[str, Any]:
        """How the attempt ended."""
        self._count()
        silent = [rank for rank in range(self._nodes) if not self._told.get(rank, {}).get("over")]
        # srun, which sees a supervisor killed, asks the others to end: that they were cancelled is no news then.
        ended_so = None if self._ended and self._ended["state"] == "CANCELLED" else self._ended
        if silent and ended_so is None:
            state, reason = self._end if self._cancelled else ("FAILED", "")
            lost = f"nothing is known of its end on node {', '.join(map(str, silent))}: see the job's stderr"
            self._ended = {"state": state, "exit_code": None, "signal": None, "reason": reason or lost}
        used = [told.get("usage", {}) for told in self._told.values()]
        self._usage = {
            name: sum(use[name] for use in used if name in use)
            for name in ("cpu_seconds", "memory_peak_bytes")
            if any(name in use for use in used)
        }
        ended = self._ended or {"state": "COMPLETED", "exit_code": 0, "signal": None, "reason": ""}
        if self._cancelled and ended["state"] == "CANCELLED":
            ended |= {"state": self._end[0], "reason": self._end[1]}
        values = self._result.values
        return {**ended, **{name: values.get(name, 0.0) for name in _CLOCKS}}

    def _count(self) -> None:
        for name in _CLOCKS:
            told = max((told.get(name, 0.0) for told in self._told.values()), default=0.0)
            self._result.values[name] = self._before.get(name, 0.0) + told

    def _heed(self, number: int) -> None:
        if number == signal.SIGTERM and not self._cancelled:
            self._cancelled, self._end = True, self._why_asked()
        if number == signal.SIGTSTP:
            self._was_suspended = True
        if number not in (signal.SIGTSTP, signal.SIGCONT):  # Slurm tells every node of those
            self._send(str(number))
