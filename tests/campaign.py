"""A campaign of kills: `make campaign` ends client, launcher and zygote at random moments, and counts what is left.

    python -m tests.campaign [--kills N] [--seed N]

1. Each kill falls into a run of 500 short jobs with limits and a network, in a corner of the machine of its own.
2. After it every process must be gone by itself; where the client lives on, it must say what happened, without a
   traceback, and end by itself.
3. After the next, undisturbed run nothing may be left: cgroups, links, mounts, loop devices, firewall, files, switches.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from .alone import alone, end_with_parent
from .system.conftest import _settled, batchns, on_this_machine

JOBS = (
    'name = "many"\ncommand = ["sleep", "0.05"]\narray = "1-500"\n[resources]\ncpus = 0.1\nmemory = "32MiB"\n'
    '[network]\negress = "50mbit"\n'
)
LATEST = 1.5  # seconds after the start of a run
PATIENCE = 20.0  # seconds for everything to be gone
VICTIMS = ("client", "launcher", "zygote")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="of each process (default: 100)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    asked = parser.parse_args()
    print(f"seed {asked.seed}, {asked.kills} kills of each\n")
    print(f"{'killed':<10} {'kills':>5} {'processes left':>15} {'unclear ends':>13} {'objects left':>13}")
    wrong = 0
    with alone(), tempfile.TemporaryDirectory(prefix="batchns-campaign-") as folder:
        for victim in VICTIMS:
            found = campaign(victim, asked.kills, random.Random(f"{asked.seed} {victim}"), Path(folder))
            wrong += found.total() - found["kills"]
            print(
                f"{victim:<10} {found['kills']:>5} {found['processes']:>15} {found['unclear']:>13}"
                f" {found['objects']:>13}",
                flush=True,
            )
    print("\nnothing was left, and every end was told" if not wrong else f"\n{wrong} things went wrong")
    return 1 if wrong else 0


def campaign(victim: str, kills: int, moments: random.Random, folder: Path) -> Counter[str]:
    """How often something was killed, and how often something went wrong after it, by kind."""
    (folder / "jobs.toml").write_text(JOBS)
    before = _settled(on_this_machine())
    found: Counter[str] = Counter()
    while found["kills"] < kills:  # a victim that was not there yet was not killed
        found["kills"] += kill_one(victim, moments.uniform(0.05, LATEST), folder, found)
        if not _until(lambda: not on_this_machine()["processes"]):
            found["processes"] += 1
            for pid in on_this_machine()["processes"]:
                subprocess.run(["kill", "-KILL", pid], check=False)
    if batchns("run", "--", "true", cwd=folder).code:
        found["unclear"] += 1
    if not _until(lambda: _settled(on_this_machine()) == before):
        after = _settled(on_this_machine())
        print(*(f"  {name}: {after[name]}" for name in after if after[name] != before[name]), sep="\n", file=sys.stderr)
        found["objects"] += 1
    return found


def kill_one(victim: str, moment: float, folder: Path, found: Counter[str]) -> int:
    """1 where the victim was there at that moment."""
    with tempfile.TemporaryFile("w+") as told:
        client = subprocess.Popen(
            [sys.executable, "-m", "batchns", "run", "jobs.toml"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=told,
            preexec_fn=end_with_parent,
        )
        time.sleep(moment)
        pid = client.pid if victim == "client" else child_named(client.pid, victim)
        if pid:
            subprocess.run(["kill", "-KILL", str(pid)], check=False)
        if victim == "zygote" or not pid:  # which is replaced, or was not there yet: the run goes on
            client.send_signal(signal.SIGINT if pid else signal.SIGKILL)
        try:
            client.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            found["unclear"] += 1
            client.kill()
            client.wait()
        told.seek(0)
        text = told.read()
        if "Traceback" in text or (victim == "launcher" and pid and "launcher process is gone" not in text):
            print(text[-400:], file=sys.stderr)
            found["unclear"] += 1
        return 1 if pid else 0


def child_named(client: int, victim: str) -> int:
    """The pid of the client's launcher, or of that one's zygote; 0 where there is none yet."""
    for name in ("batchns-launch", "batchns-zygote")[: 1 + (victim == "zygote")]:
        client = next((pid for pid in _children(client) if _comm(pid) == name), 0)
    return client


def _children(pid: int) -> list[int]:
    try:
        tasks = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")] if pid else []
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for text in tasks for child in text.split()]


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


if __name__ == "__main__":
    sys.exit(main())
