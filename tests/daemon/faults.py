"""Restarts with many running jobs, and a state folder that cannot be written."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from batchns.client.errors import ApiError
from batchns.wire import types as wire

from .calls import attach
from .ground import PATIENCE, Ground
from .ledger import Entry, Ledger
from .load import settle

Found = tuple[list[str], Counter[str]]
SIZE = "2m"  # of the small state folder


def restarts(on: Ground, count: int, seed: str, jobs: int = 50) -> Found:
    """kill -9 and SIGTERM, mixed, with `jobs` running jobs: all are adopted each time, and end as they should."""
    ledger = on.ledger()
    rng, found = random.Random(seed), []
    counts: Counter[str] = Counter()
    on.start()
    ids = running(on, ledger, "many", jobs)
    for number in range(count):
        if rng.random() < 0.5:
            on.kill()
            counts["kills"] += 1
        else:
            on.stop()
            counts["stops"] += 1
        on.start()
        counts["restarts"] += 1
        with on.client() as client:
            rows = {row.id: row for row in client.jobs()}
        lost = [
            row for job_id in ids if (row := rows.get(job_id)) is None or (row.state, row.attempt) != ("RUNNING", 1)
        ]
        found += [f"after restart {number}: {row}" for row in lost]
    go(ledger, "many")
    return _end(on, ledger, found, counts)


def disk_full(on: Ground, *, restart: bool) -> Found:
    """The state folder's disk fills up while jobs run. `restart`: and the daemon is killed meanwhile."""
    ledger = on.ledger()
    on.state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "campaign", on.state], check=True)
    try:
        on.start()
        ids = running(on, ledger, "full", 8)
        filler = on.state / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        found = _nothing_recorded(on, ledger, "full", ids, restart=restart)
        filler.unlink()
        time.sleep(2.5)  # it is tried again each second
        return _end(on, ledger, found, Counter(), again=True)
    finally:
        if on.pid:
            with contextlib.suppress(AssertionError):
                on.kill()
        subprocess.run(["umount", "-l", on.state], check=True)


def calls_fail(on: Ground, call: str, error: str) -> Found:
    """All such calls of the daemon fail for a while."""
    ledger = on.ledger()
    on.start()
    ids = running(on, ledger, call, 8)
    with failing(on, call, error):
        found = _nothing_recorded(on, ledger, call, ids, restart=False)
    time.sleep(2.5)
    return _end(on, ledger, found, Counter(), again=True)


@contextlib.contextmanager
def failing(on: Ground, call: str, error: str) -> Iterator[None]:
    tracer = attach(on, f"trace={call}", f"{call}:error={error}")
    try:
        yield
    finally:
        tracer.terminate()
        tracer.wait(10)


def running(on: Ground, ledger: Ledger, name: str, count: int) -> list[str]:
    """So many jobs that run until `go`, by their ids."""
    wait = f"until test -e {ledger.folder}/go-{name}; do sleep 0.5; done"
    ids = []
    with on.client() as client:
        for number in range(count):
            entry = Entry(key=f"{name}-{number}", uid=0, tasks=0, code=number % 100)
            request = ledger.request(entry, 0, more=wait, cpus="0.03")
            ledger.acknowledged(entry, client.submit(request))
            ids.append(entry.told)
        end = time.monotonic() + PATIENCE
        while any(client.job(job_id).row.state != "RUNNING" for job_id in ids):
            assert time.monotonic() < end, "they do not all run"
            time.sleep(0.1)
    return ids


def go(ledger: Ledger, name: str) -> None:
    (ledger.folder / f"go-{name}").touch()


def _nothing_recorded(on: Ground, ledger: Ledger, name: str, ids: list[str], *, restart: bool) -> list[str]:
    """While nothing can be: submissions are refused, jobs run on and end, the daemon lives and says what is wrong."""
    found = []
    refused = Entry(key=f"{name}-refused", uid=0, tasks=0, code=3)
    request = ledger.request(refused, 0)
    with on.client() as client:
        for _ in range(3):
            try:
                ledger.acknowledged(refused, client.submit(request))
                found.append("a submission was taken that cannot be recorded")
            except ApiError as error:
                if error.code != "full" or not error.hint:
                    found.append(f"refused as {error.code}: {error}")
    go(ledger, name)
    end = time.monotonic() + PATIENCE
    entries = [entry for entry in ledger.entries.values() if entry.told in ids]
    while not all(ledger.ran(entry, None).ends for entry in entries):
        assert time.monotonic() < end, "jobs do not run on"
        time.sleep(0.1)
    time.sleep(1.5)
    if not on.lives():
        found.append(f"the daemon has ended: {on.said()[-1000:]}")
    elif not restart:
        with on.client() as client:
            if not client.node().troubles:
                found.append("an administrator is not told")
            with contextlib.suppress(ApiError):
                client.act(wire.ActRequest(verb="priority", jobs=(ids[0],), priority=3))
                found.append("a change was acknowledged that cannot be recorded")
    if restart:
        on.kill()
        on.start(ready=False)
        time.sleep(1.5)
    return found


def _end(on: Ground, ledger: Ledger, found: list[str], counts: Counter[str], *, again: bool = False) -> Found:
    """`again`: what was refused is submitted once more."""
    if not on.lives():  # it may have refused to start without a disk to write to
        with contextlib.suppress(AssertionError):
            on.reap(125)
        on.start()
    if again:
        with on.client() as client:
            for entry in list(ledger.entries.values()):
                if not entry.told:
                    ledger.acknowledged(entry, client.submit(ledger.request(entry, 0)))
    rows = settle(on)
    on.stop()
    wrong, more = ledger.complaints(rows)
    return found + wrong + on.complaints(), counts + more


def output_full(on: Ground) -> Found:
    """A job whose output's disk is full goes on, and ends with its own exit code."""
    ledger = on.ledger()
    disk = on.base / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=1777", "campaign", disk], check=True)
    try:
        on.start()
        entry = Entry(key="output", uid=0, tasks=0, code=7)
        request = ledger.request(entry, 0, more="head -c 1000000 /dev/zero", stdout=f"{disk}/out", stderr=f"{disk}/err")
        with on.client() as client:
            ledger.acknowledged(entry, client.submit(request))
        found, counts = _end(on, ledger, [], Counter())
        if Path(disk, "out").stat().st_size >= 1_000_000:
            found.append("the disk was not full")
        return found, counts
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def output_broken(on: Ground) -> Found:
    """Every write of a part of a job fails with EIO, as on a broken disk: the job goes on, ends with its own code."""
    ledger = on.ledger()
    on.start()
    entry, out = Entry(key="broken", uid=0, tasks=0, code=9), on.base / "broken.out"
    part = f"until test -e {ledger.folder}/go-broken; do sleep 0.1; done; head -c 1000000 /dev/zero"
    more = f"echo before; ({part}); test $? = 0 || echo after"
    with on.client() as client:
        request = ledger.request(entry, 0, more=more, stdout=str(out), stderr=str(on.base / "broken.err"))
        ledger.acknowledged(entry, client.submit(request))
        end = time.monotonic() + PATIENCE
        while not out.exists() or "before" not in out.read_text():
            assert time.monotonic() < end, "it does not run"
            time.sleep(0.1)
        init = client.job(entry.told).pid
    assert init is not None
    (script,) = _children(init)
    (half,) = _children(script)
    words = ["strace", "-f", "-qq", "-o", on.base / "trace", "-e", "trace=write", "-e", "inject=write:error=EIO"]
    tracer = subprocess.Popen([*words, "-p", str(half)])
    try:
        while "TracerPid:\t0\n" in Path(f"/proc/{half}/status").read_text():
            assert time.monotonic() < end and tracer.poll() is None, "strace does not attach"
            time.sleep(0.05)
        go(ledger, "broken")
        found, counts = _end(on, ledger, [], Counter())
    finally:
        tracer.terminate()
        tracer.wait(10)
    if "EIO" not in (on.base / "trace").read_text():
        found.append("no write has failed")
    if out.read_text() != "before\nafter\n":
        found.append(f"the output is {out.read_text()[:100]!r}")
    return found, counts


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
