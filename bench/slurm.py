"""Slurm on the same machine, asked for the same: what `bench.daemon` is compared with.

1. It is found, never started here: `sbatch` on the PATH that reaches a cluster, or BATCHNS_BENCH_SLURM: a command that
   runs another one where it does.
2. Jobs ask for little memory, so that as many as there are CPUs run at a time.
"""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attrs import frozen

VARIABLE = "BATCHNS_BENCH_SLURM"
PATIENCE = 120.0  # seconds
CLIENTS = 8
_NAME = f"bench-{os.getpid()}"


@frozen(kw_only=True)
class Figures:
    """Medians: jobs per second, and milliseconds. None: not measured."""

    submit_one: float | None = None
    submit_eight: float | None = None
    through: float | None = None
    both: float | None = None
    first_line: float | None = None


@frozen
class Slurm:
    """`prefix`: the words that go before each command."""

    prefix: tuple[str, ...] = ()

    def run(self, *words: str) -> str:
        done = subprocess.run([*self.prefix, *words], check=True, capture_output=True, text=True, timeout=PATIENCE)
        return done.stdout.strip()

    def submit(self, *words: str) -> str:
        return self.run("sbatch", "--parsable", "-J", _NAME, "-o", "/dev/null", "--mem=10", *words, "--wrap", "true")

    def wait(self) -> None:
        """Until no job is left.

        Raises:
            RuntimeError: some have not completed.
        """
        while self.run("squeue", "-h", "-o", "%i"):
            time.sleep(0.05)
        others = set(self.run("squeue", "-h", f"--name={_NAME}", "--states=all", "-o", "%T").split()) - {"COMPLETED"}
        if others:
            raise RuntimeError(f"jobs have ended as {', '.join(sorted(others))}: what was measured is something else")

    def measure(self, jobs: int, rounds: int) -> Figures:
        one, eight, through, both = [], [], [], []
        for _ in range(rounds):
            begin = time.perf_counter()
            ids = [self.submit("-H") for _ in range(jobs)]
            one.append(jobs / (time.perf_counter() - begin))
            through.append(self._release(ids))
            begin = time.perf_counter()
            ids = self._by_eight(jobs, "-H")
            eight.append(jobs / (time.perf_counter() - begin))
            through.append(self._release(ids))
            begin = time.perf_counter()
            self._by_eight(jobs)
            self.wait()
            both.append(jobs / (time.perf_counter() - begin))
        return Figures(
            submit_one=statistics.median(one),
            submit_eight=statistics.median(eight),
            through=statistics.median(through),
            both=statistics.median(both),
            first_line=1000 * self._first_line(5 * rounds),
        )

    def _by_eight(self, jobs: int, *words: str) -> list[str]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            return list(pool.map(lambda _: self.submit(*words), range(jobs)))

    def _release(self, ids: Sequence[str]) -> float:
        begin = time.perf_counter()
        self.run("scontrol", "release", ",".join(ids))
        self.wait()
        return len(ids) / (time.perf_counter() - begin)

    def _first_line(self, times: int) -> float:
        spent = []
        with tempfile.TemporaryDirectory(prefix="batchns-bench-") as folder:
            for number in range(times):
                path = Path(folder, str(number))
                begin = time.perf_counter()
                self.run("sbatch", "--parsable", "-J", _NAME, "-o", str(path), "--mem=10", "--wrap", "echo here")
                spent.append(until_written(path) - begin)
                self.wait()
        return statistics.median(spent)


def until_written(path: Path) -> float:
    """The moment (perf_counter) at which there is something in the file."""
    deadline = time.perf_counter() + PATIENCE
    while time.perf_counter() < deadline:
        try:
            if os.stat(path).st_size:
                return time.perf_counter()
        except FileNotFoundError:
            pass
        time.sleep(0.0005)
    raise TimeoutError(f"nothing was written to {path}")


def find() -> Slurm | None:
    """None: there is none, or it does not answer."""
    prefix = tuple(shlex.split(os.environ.get(VARIABLE, "")))
    if not prefix and shutil.which("sbatch") is None:
        return None
    slurm = Slurm(prefix)
    try:
        slurm.run("squeue", "-h")
    except (OSError, subprocess.SubprocessError):
        return None
    return slurm
