"""Jobs on a Slurm cluster, through batchns and by plain sbatch, side by side: how many a second, in and through.

1. The cluster is the tests' own: three nodes of two CPUs each, as namespaces of this machine.
2. Both submit as many jobs side by side: at first jobs that begin in an hour, so that a submission's cost is its own
   (the nodes are this machine, too), and are cancelled; then jobs that begin at once, all of which have to complete.
   Rounds of both alternate. Medians are shown, batchns's share of what plain sbatch does, and the least and the most
   that this share was in a round.
3. Everything is done by an ordinary user. A batchns job runs in its sandbox, a plain one does not.
4. batchns is compiled before, as pip leaves it: a user could not, and each job would do it again.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import batchns
from batchns.slurm.submitting import AT_ONCE

JOBS = 200
ROUNDS = 3
USER = "nobody"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--inside", metavar="FOLDER", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.inside:
        print(json.dumps(measure(Path(asked.inside), asked.jobs, asked.rounds)))
        return 0
    from tests.alone import alone
    from tests.people import way_for_all
    from tests.slurm import cluster

    if os.geteuid() != 0 or not cluster.installed():
        print("Slurm is not installed, or this is not root: .ci/packages slurmctld:slurm-wlm munged:munge")
        return 0
    compileall.compile_dir(Path(batchns.__file__).parent, quiet=1)
    with tempfile.TemporaryDirectory(prefix="batchns-bench-") as folder:
        Path(folder).chmod(0o755)
        own = Path(folder, "user")
        own.mkdir()
        own.chmod(0o777)
        with alone(), way_for_all(), cluster.running(cluster.Cluster(folder=Path(folder, "lab"))) as lab:
            words = [sys.executable, "-m", "bench.cluster", "--inside", str(own)]
            command = lab.command(*words, f"--jobs={asked.jobs}", f"--rounds={asked.rounds}", user=USER)
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    report(json.loads(done.stdout), asked.jobs)
    return 0


def report(figures: dict[str, list[float]], jobs: int) -> None:
    print(f"{jobs} jobs `true` on a Slurm cluster of 3 nodes with 2 CPUs each, jobs per second (medians)")
    print(f"{'':<34}{'sbatch':>8}{'batchns':>9}{'share':>7}{'least':>7}{'most':>7}")
    for label, name in (
        ("submit what begins later", "later"),
        ("submit what begins at once", "submit"),
        ("submit and complete", "through"),
    ):
        theirs, ours = (figures[f"{who}_{name}"] for who in ("sbatch", "batchns"))
        shares = [one / other for one, other in zip(ours, theirs, strict=True)]
        plain, own = statistics.median(theirs), statistics.median(ours)
        print(f"{label:<34}{plain:>8.1f}{own:>9.1f}{own / plain:>7.2f}{min(shares):>7.2f}{max(shares):>7.2f}")


def measure(folder: Path, jobs: int, rounds: int) -> dict[str, list[float]]:
    """On the controller's host, as the user."""
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        for who, submit in (("sbatch", _plain), ("batchns", _ours)):
            begin = time.perf_counter()
            submit(folder, jobs, f"later-{number}", later=True)
            found.setdefault(f"{who}_later", []).append(jobs / (time.perf_counter() - begin))
            _run("scancel", "--state=PENDING", f"--user={USER}")
            _until_empty()
        for who, submit in (("sbatch", _plain), ("batchns", _ours)):
            before = _states()
            begin = time.perf_counter()
            submit(folder, jobs, f"{number}")
            found.setdefault(f"{who}_submit", []).append(jobs / (time.perf_counter() - begin))
            _until_empty()
            found.setdefault(f"{who}_through", []).append(jobs / (time.perf_counter() - begin))
            rates = (found[f"{who}_{what}"][-1] for what in ("later", "submit", "through"))
            print(f"{who:<8}", *(f"{rate:8.1f}" for rate in rates), file=sys.stderr, flush=True)
            _check(before, _states())
    return found


def _until_empty() -> None:
    while _run("squeue", "-h", "-o", "%i"):
        time.sleep(0.25)  # asking is work for the controller


def _plain(folder: Path, jobs: int, name: str, *, later: bool = False) -> None:
    words = ["sbatch", "--parsable", "-o", "/dev/null", "--mem=10", "--chdir=/", *["--begin=now+1hour"] * later]

    def one(_: int) -> None:
        _run(*words, "--wrap", "true")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, range(jobs)))


def _states() -> dict[str, str]:
    """By id, of all jobs that Slurm has not forgotten, which are those of more than one round."""
    return dict(line.split() for line in _run("squeue", "-h", "--states=all", "-o", "%i %T").splitlines())


def _check(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """
    Raises:
        RuntimeError: some have not completed, and what was measured is not what is said.
    """
    others = Counter(state for job, state in after.items() if job not in before and state != "COMPLETED")
    if others:
        raise RuntimeError(f"not all jobs have completed: {dict(others)}")


def _ours(folder: Path, jobs: int, name: str, *, later: bool = False) -> None:
    file = folder / f"{name}.toml"
    one = '[[job]]\nname = "true{}"\ncommand = ["true"]\nstdout = "/dev/null"\nstderr = "/dev/null"\n'
    one += 'begin = "+1h"\n' * later
    file.write_text("".join(one.format(place) for place in range(jobs)))
    env = {**os.environ, "HOME": str(folder)}
    command = [sys.executable, "-m", "batchns", "submit", "--to", "slurm", "--parsable", str(file)]
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)


def _run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
