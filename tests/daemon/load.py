"""Clients of several users that submit jobs and do things to them, whether a daemon is there or not."""

from __future__ import annotations

import contextlib
import ctypes
import random
import threading
import time
from collections import deque
from pathlib import Path

from attrs import define, field

from batchns.client.errors import ApiError, Lost, NoDaemon
from batchns.client.sync import Client
from batchns.errors import BatchnsError
from batchns.wire import types as wire

from .ground import PATIENCE, Ground
from .ledger import OVER, Entry, Ledger

USERS = (0, 1, 2, 0)  # root, daemon, bin: Debian has them
VERBS = ("cancel", "freeze", "freeze", "thaw", "thaw", "requeue", "hold", "release", "priority", "signal")
_MOST = 80  # jobs at a time
_PAUSE = 0.02  # seconds between two requests of a client
_SETRESUID = 117  # <asm/unistd_64.h>: of this thread alone, which setresuid(3) is not


@define(eq=False)
class Load:
    """`verbs`: what is done to jobs, one to each two submissions."""

    ground: Ground
    ledger: Ledger
    seed: str
    verbs: tuple[str, ...] = VERBS
    longest: float = 1.5  # seconds that a job takes
    most: int = _MOST
    prefix: str = "c"
    requests: int = 0
    _ids: deque[tuple[int, str]] = field(factory=lambda: deque(maxlen=20))
    _over: threading.Event = field(factory=threading.Event)
    _threads: list[threading.Thread] = field(factory=list)
    _failures: list[BaseException] = field(factory=list)

    def __enter__(self) -> Load:
        for number, uid in enumerate(USERS):
            rng = random.Random(f"{self.seed} {number}")
            thread = threading.Thread(target=self._client, args=(f"{self.prefix}-{number}", uid, rng), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)
            assert not thread.is_alive(), "a client waits for ever"
        for failure in self._failures:
            raise failure

    def _client(self, name: str, uid: int, rng: random.Random) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.syscall(_SETRESUID, -1, uid, -1) == 0
        number = 0
        unsure: list[tuple[Entry, wire.SubmitRequest]] = []
        try:
            with Client(self.ground.socket, timeout=PATIENCE) as client:
                while not self._over.wait(_PAUSE * rng.random() * 2):
                    self.requests += 1
                    if unsure and rng.random() < 0.5:
                        entry, request = unsure.pop()
                    elif self._ids and rng.random() < 0.4:
                        self._act(client, uid, rng)
                        continue
                    elif self._full(client):
                        continue
                    else:
                        number += 1
                        entry, request = self._new(f"{name}-{number}", uid, rng)
                    if not self._submit(client, entry, request) and rng.random() < 0.8:
                        unsure.append((entry, request))
                    elif entry.told and rng.random() < 0.05:
                        unsure.append((entry, request))  # once more, though it was acknowledged
        except BatchnsError as error:
            self._failures.append(error)
        except BaseException as error:
            self._failures.append(error)
            raise

    def _full(self, client: Client) -> bool:
        try:
            node = client.node()
        except (NoDaemon, Lost):
            return False
        return node.waiting + node.running + node.frozen > self.most

    def _new(self, key: str, uid: int, rng: random.Random) -> tuple[Entry, wire.SubmitRequest]:
        entry = Entry(
            key=key,
            uid=uid,
            tasks=rng.choice((0, 0, 0, 0, 2, 6)),
            code=rng.choice((0, 0, rng.randrange(100))),
            retries=rng.choice((0,) * 9 + (1,)),
        )
        seconds = round(rng.random() ** 2 * self.longest, 3)
        return entry, self.ledger.request(entry, seconds, hold=rng.random() < 0.05)

    def _submit(self, client: Client, entry: Entry, request: wire.SubmitRequest) -> bool:
        try:
            answer = client.submit(request)
        except (NoDaemon, Lost) as error:
            if isinstance(error, NoDaemon):
                self._over.wait(0.1)
            return False
        except ApiError as error:
            if error.code != "unavailable":
                self.ledger.refused.append(f"{entry.key}: {error.code} {error}")
            return False
        self.ledger.acknowledged(entry, answer)
        job = answer.jobs[0]
        self._ids.append((entry.uid, job.id if not entry.tasks else f"{job.id}_0"))
        return True

    def _act(self, client: Client, uid: int, rng: random.Random) -> None:
        owner, job_id = rng.choice(list(self._ids))
        if uid and owner != uid:
            return
        verb = rng.choice(self.verbs)
        signal = "WINCH" if verb == "signal" else None
        priority = rng.randrange(100) if verb == "priority" else None
        with self.ledger.lock:
            self.ledger.asked[job_id].add(verb)
        try:
            answer = client.act(wire.ActRequest(verb=verb, jobs=(job_id,), signal=signal, priority=priority))
        except (NoDaemon, Lost):
            return
        except ApiError as error:
            if error.code not in ("not_found", "unavailable"):
                self.ledger.refused.append(f"{verb} {job_id}: {error.code} {error}")
            return
        with self.ledger.lock:
            for acted in answer.jobs:
                if acted.done:
                    self.ledger.done[acted.id].add(verb)


def _how(client: Client, jobs: list[wire.JobRow]) -> list[str]:
    """Those that are not waiting, with the state that their processes are in."""
    found = []
    for row in jobs:
        if row.state != "PENDING":
            pid = client.job(row.id).pid
            with contextlib.suppress(OSError):
                frozen = Path(f"/proc/{pid}/cgroup").read_text()
                state = Path(f"/proc/{pid}/status").read_text().split("State:")[1][:20]
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
                found.append(f"{row}: {state.strip()}, children {children}, {frozen}")
    return found


def settle(ground: Ground) -> dict[str, wire.JobRow]:
    """Let everything come to its end. Every job that the daemon knows then, by id."""
    with ground.client() as client:
        end = time.monotonic() + 2 * PATIENCE
        while jobs := [row for row in client.jobs() if row.state not in OVER]:
            assert time.monotonic() < end, f"these do not come to their end: {_how(client, jobs)}"
            for verb in ("release", "thaw"):
                with contextlib.suppress(ApiError):  # some have ended meanwhile
                    client.act(wire.ActRequest(verb=verb, jobs=tuple(row.id for row in jobs)))
            time.sleep(0.1)
        time.sleep(0.5)  # the last end may be seen a moment before it is recorded
        return {row.id: row for row in client.history(user="*")}
