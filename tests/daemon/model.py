"""Random verbs, one after the other, against a small model of what was acknowledged; with a restart each second.

What was acknowledged holds at any later moment, whoever the daemon is by then. What was asked for when the connection
broke may have been done or not: the model does not know it until the next such verb is acknowledged.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter

from attrs import define, field

from batchns.client.errors import ApiError, Lost, NoDaemon
from batchns.client.sync import Client
from batchns.wire import types as wire

from .ground import Ground
from .ledger import OVER

VERBS = (
    *("submit", "submit", "cancel", "hold", "release", "freeze", "thaw", "requeue", "priority", "signal"),
    *("read", "odd"),
)
_FROZEN = ("SUSPENDING", "SUSPENDED")
_JOBS = 30
_IGNORES = "trap '' TERM; sleep 1000 & wait; wait; exit 3"


@define
class Model:
    """Of one job. None: not known."""

    priority: int | None
    held: bool | None = False
    frozen: bool | None = False
    cancelled: bool | None = False
    changing: bool = False  # it was put back, or a verb's fate is not known: a wish may be for another attempt

    def complaint(self, row: wire.JobRow) -> str:
        if self.cancelled and row.state not in (*OVER, "COMPLETING"):
            return "it was cancelled"
        if row.state in OVER:
            return "" if self.cancelled is not False else "nobody has ended it"
        if self.priority is not None and row.priority != self.priority:
            return f"its priority was made {self.priority}"
        if self.frozen and not self.changing and row.state == "RUNNING":
            return "it was frozen"
        if self.frozen is False and not self.changing and row.state in _FROZEN:
            return "nobody has frozen it"
        return ""


@define(eq=False)
class Verbs:
    on: Ground
    rng: random.Random
    jobs: dict[str, Model] = field(factory=dict)
    found: list[str] = field(factory=list)
    counts: Counter[str] = field(factory=Counter)
    _number: int = 0

    def run(self, seconds: float, between: float = 1.0) -> None:
        """`between`: seconds between two restarts, by kill -9 or SIGTERM."""
        end = time.monotonic() + seconds
        self.on.start()
        while time.monotonic() < end:
            moment = time.monotonic() + between * self.rng.random() * 2
            with contextlib.closing(self.on.client()) as client:
                while time.monotonic() < moment:
                    self._verb(client)
            self._restart()
            with contextlib.closing(self.on.client()) as client:
                self.check(client)

    def _restart(self) -> None:
        self.counts["restarts"] += 1
        if self.rng.random() < 0.3:
            self.on.stop()
        else:
            self.on.kill()
        self.on.start()

    def check(self, client: Client) -> None:
        for job_id, model in self.jobs.items():
            row = client.job(job_id).row
            if complaint := model.complaint(row):
                self.found.append(f"{complaint}: {model}, {row}")

    def _verb(self, client: Client) -> None:
        verb = self.rng.choice(VERBS)
        self.counts["verbs"] += 1
        if verb == "submit":
            if sum(not model.cancelled for model in self.jobs.values()) < _JOBS:
                self._submit(client)
        elif verb == "read":
            self._read(client)
        elif verb == "odd":
            self._odd(client)
        elif self.jobs:
            self._act(client, verb, self.rng.choice(list(self.jobs)[-2 * _JOBS :]))

    def _submit(self, client: Client) -> None:
        self._number += 1
        held = self.rng.random() < 0.2
        options = {
            "name": f"model-{self._number}",
            "script": self.rng.choice(("exec sleep 1000", _IGNORES)),
            "cpus": self.rng.choice(("0.1", "0.5", "1")),
            "memory": "32MiB",
            "grace_time": "1s",
            "hold": held,
            "stdout": "/dev/null",
            "stderr": "/dev/null",
        }
        command = wire.CommandLine(options=options, folder="/")
        answer = client.submit(wire.SubmitRequest(commands=(command,), key=f"model-{self._number}"))
        self.jobs[answer.jobs[0].id] = Model(priority=50, held=held)

    def _act(self, client: Client, verb: str, job_id: str) -> None:
        model, priority = self.jobs[job_id], self.rng.randrange(101)
        request = wire.ActRequest(
            verb=verb,
            jobs=(job_id,),
            priority=priority if verb == "priority" else None,
            signal="WINCH" if verb == "signal" else None,
        )
        try:
            (acted,) = client.act(request).jobs
        except ApiError as error:
            if error.code == "not_found" and model.cancelled is not False:
                return
            self.found.append(f"{verb} {job_id}: {error.code} {error}")
            return
        if not acted.done:
            return
        self.counts["acknowledged"] += 1
        match verb:
            case "cancel":
                model.cancelled = True
            case "priority":
                model.priority = priority
            case "hold":
                model.held = True
            case "release" | "thaw":
                model.held, model.frozen = False, False
                model.changing = True  # it thaws when its CPUs are free
            case "freeze":
                model.frozen, model.changing = True, False
            case "requeue":
                model.frozen, model.changing = None, True
            case _:
                pass

    def _read(self, client: Client) -> None:
        with contextlib.suppress(ApiError):
            job_id = self.rng.choice([*self.jobs, "999999"])
            match self.rng.randrange(7):
                case 0:
                    list(client.jobs(ended=self.rng.random() < 0.5))
                case 1:
                    client.why(job_id)
                case 2:
                    client.usage(user="*")
                case 3:
                    list(client.history(user="*", page=3))
                case 4:
                    client.queues()
                case 5:
                    with client.logs(job_id) as stream:
                        list(stream)
                case _:
                    client.node()

    def _odd(self, client: Client) -> None:
        """Must be refused in a user's words."""
        bad = (
            wire.ActRequest(verb="fly", jobs=("1",)),
            wire.ActRequest(verb="priority", jobs=(*self.jobs, "1"), priority=700),
            wire.ActRequest(verb="cancel", jobs=("9-1", "", "a b")),
            wire.ActRequest(verb="signal", jobs=("1",), signal="SIGSTOP"),
            wire.ActRequest(verb="cancel", jobs=("1",), signal="SIGNONE"),
        )
        try:
            client.act(self.rng.choice(bad))
        except ApiError as error:
            if error.status >= 500 or not (error.code and str(error)):
                self.found.append(f"odd: {error.status} {error}")
        else:
            self.found.append("an odd request was not refused")


def against_a_model(on: Ground, seconds: float, seed: str) -> tuple[list[str], Counter[str]]:
    verbs = Verbs(on, random.Random(seed))
    try:
        verbs.run(seconds)
    except (NoDaemon, Lost) as error:
        verbs.found.append(f"the daemon was lost: {error}: {on.said()[-2000:]}")
    if not on.lives():
        return verbs.found, verbs.counts
    with contextlib.closing(on.client()) as client:
        while live := [row.id for row in client.jobs() if row.state not in OVER]:
            with contextlib.suppress(ApiError):
                client.act(wire.ActRequest(verb="cancel", jobs=tuple(live)))
            time.sleep(0.1)
    on.stop()
    return verbs.found + on.complaints(), verbs.counts
