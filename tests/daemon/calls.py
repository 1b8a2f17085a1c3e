"""The daemon is killed as it is about to make a system call that changes something: at each of those of a short life.

strace counts the calls of each thread for itself: the first thread that makes its N-th such call ends the daemon. What
the daemon executes, launchers and nft, is left alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from attrs import define, field

from batchns.client.errors import ApiError, Lost, NoDaemon
from batchns.client.sync import Client
from batchns.wire import types as wire

from .ground import PATIENCE, Ground
from .ledger import OVER, Entry, Ledger
from .load import settle

Point = tuple[str, int]  # a call, and the how-manyeth of a thread
T = TypeVar("T")

# What changes something outside of the daemon's own memory. `openat` only where it makes or opens to write.
STATE_CHANGING = (
    *("pwrite64", "pwritev", "fdatasync", "fsync", "ftruncate", "write", "openat"),
    *("mkdir", "mkdirat", "link", "linkat", "rename", "renameat", "unlink", "unlinkat", "rmdir"),
    *("sendmsg", "sendto", "bind", "listen", "connect", "accept4", "vfork", "clone", "clone3"),
    *("flock", "kill", "pidfd_send_signal", "setsockopt", "ioctl"),
)
_LINE = re.compile(r"(\d+) +(\w+)\((.*)")
_MANY = 24  # of one call, from there on only some are tried
_WRITES = re.compile(r"O_CREAT|O_WRONLY|O_RDWR|, O_TRUNC")


@define(eq=False)
class Life:
    """Submit, launch, freeze, thaw, requeue, cancel, exit; what is asked of a daemon that is killed is asked again."""

    on: Ground
    ledger: Ledger
    prefix: str
    client: Client = field(init=False)
    kills: int = 0

    def live(self) -> None:
        with contextlib.closing(self.on.client()) as self.client:
            first = self.submit("a", 0.4)
            second = self.submit("b", 30)
            array = self.submit("c", 0.05, tasks=2)
            self.until(first, "RUNNING")
            self.act("freeze", first)
            self.until(first, "SUSPENDED")
            self.act("thaw", first)
            self.until(second, "RUNNING")
            self.act("requeue", second)
            self.until(second, "RUNNING", attempt=2)
            self.act("cancel", second)
            for job_id in (first, second, f"{array}_0", f"{array}_1"):
                self.until(job_id)

    def again(self, ask: Callable[[], T]) -> T:
        """What is answered, by this daemon or by the next one."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return ask()
            except (NoDaemon, Lost):
                assert time.monotonic() < end, "the daemon does not answer"
                if not self.on.lives():
                    self.kills += 1
                    self.on.reap(-signal.SIGKILL)
                    self.on.start()
                time.sleep(0.01)

    def submit(self, name: str, seconds: float, tasks: int = 0) -> str:
        entry = Entry(key=f"{self.prefix}-{name}", uid=0, tasks=tasks, code=5)
        request = self.ledger.request(entry, seconds)
        self.ledger.acknowledged(entry, self.again(lambda: self.client.submit(request)))
        return entry.told

    def act(self, verb: str, job_id: str) -> None:
        self.ledger.asked[job_id].add(verb)
        with contextlib.suppress(ApiError):  # it has ended, in the turmoil
            answer = self.again(lambda: self.client.act(wire.ActRequest(verb=verb, jobs=(job_id,))))
            if answer.jobs[0].done:
                self.ledger.done[job_id].add(verb)

    def until(self, job_id: str, state: str = "", attempt: int = 1) -> None:
        end = time.monotonic() + PATIENCE
        while (row := self.again(lambda: self.client.job(job_id).row)).state not in OVER:
            if row.state == state and row.attempt >= attempt:
                return
            assert time.monotonic() < end, row
            time.sleep(0.02)


def at_every_call(
    on: Ground, *, launcher: bool, choose: Callable[[list[Point]], Sequence[Point]] = list
) -> tuple[list[str], Counter[str]]:
    """`launcher`: the daemon finds one. `choose`: which of the points are tried."""
    ledger, counts = on.ledger(), Counter[str]()
    found = _once(on, ledger, "trace", launcher, f"trace={_traced()}", counts)
    points = choose(_points(on.base / "trace"))
    for name, number in points:
        prefix = f"{name}-{number}-{launcher}"
        inject = f"{name}:signal=SIGKILL:when={number}"
        wrong = _once(on, ledger, prefix, launcher, f"trace={name}", counts, inject)
        found += [f"at {name} number {number}: {line}" for line in wrong]
        counts["points"] += 1
    return found, counts


def _once(
    on: Ground, ledger: Ledger, prefix: str, launcher: bool, trace: str, counts: Counter[str], inject: str = ""
) -> list[str]:
    if launcher:
        on.start()
        on.kill()
    on.start(ready=False, held=True)
    tracer = attach(on, trace, inject)
    os.kill(on.pid, signal.SIGCONT)
    life = Life(on, ledger, prefix)
    try:
        life.live()
        rows = life.again(lambda: settle(on))
        os.kill(on.pid, signal.SIGTERM)
        if on.ended() != 0:  # killed while it stopped
            life.kills += 1
            on.start()
            on.stop()
    except (AssertionError, ApiError) as error:
        if on.pid:
            with contextlib.suppress(AssertionError):
                on.kill()
        return [f"{type(error).__name__} {error}: {on.said()[-3000:]}"]
    finally:
        tracer.terminate()
        tracer.wait(10)
    counts["kills"] += life.kills
    wrong, more = ledger.complaints(rows, f"{prefix}-")
    counts.update(more)
    return wrong + on.complaints()


def _traced() -> str:
    return ",".join(f"?{name}" for name in STATE_CHANGING)


def attach(on: Ground, trace: str, inject: str) -> subprocess.Popen[str]:
    """strace, at a daemon that is held."""
    command = ["strace", "-f", "-b", "execve", "-qq", "-o", str(on.base / "trace"), "-e", trace]
    if inject:
        command += ["-e", f"inject={inject}"]
    tracer = subprocess.Popen([*command, "-p", str(on.pid)], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 20
    while not re.search(r"^TracerPid:\t[1-9]", Path(f"/proc/{on.pid}/status").read_text(), re.MULTILINE):
        assert tracer.poll() is None, tracer.stderr and tracer.stderr.read()
        assert time.monotonic() < end, "strace does not attach"
        time.sleep(0.001)
    return tracer


def _points(trace: Path) -> list[Point]:
    """Every call that some thread made, and the how-manyeth; those that change nothing are left out."""
    counts: Counter[tuple[str, str]] = Counter()
    found: dict[Point, None] = {}
    for line in trace.read_text().splitlines():
        if match := _LINE.match(line):
            thread, name, rest = match.groups()
            counts[thread, name] += 1
            if name != "openat" or _WRITES.search(rest):
                found[name, counts[thread, name]] = None
    return list(found)


def some_of(points: Sequence[Point], most: int = _MANY) -> list[Point]:
    """Not more than `most` of each call, evenly."""
    by_call: defaultdict[str, list[Point]] = defaultdict(list)
    for point in points:
        by_call[point[0]].append(point)
    return [
        there[number * len(there) // count]
        for there in by_call.values()
        for count in (min(most, len(there)),)
        for number in range(count)
    ]
