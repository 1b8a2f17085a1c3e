"""The benchmark is fair: every peer really runs its `true`, rounds interleave, and the numbers are what they say."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

# The benchmark is no part of the installed package.
sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import daemon, metrics, peers, slurm
from bench.launch import measure, percentile, summarise

NEEDS = {
    "namespaces only (C)": ["cc"],
    "bwrap --unshare-all": ["bwrap"],
    "bwrap, same filter": ["bwrap"],
    "runc, busybox, limits": ["runc", "busybox"],
}


def test_rounds_interleave_and_rotate() -> None:
    """Each round runs each competitor once, and begins with the next one; warm-up rounds are not counted."""
    calls: list[str] = []

    def runner(name: str, seconds: float) -> peers.Run:
        def run() -> float:
            calls.append(name)
            return seconds

        return run

    times = measure([(name, runner(name, n)) for n, name in enumerate("abc")], rounds=2, warm_up=1)
    assert "".join(calls) == "abc" + "bca" + "cab"
    assert times == {"a": [0, 0], "b": [1, 1], "c": [2, 2]}


def test_percentile_is_a_value_that_was_measured() -> None:
    assert percentile(range(1, 101), 95) == 95
    assert percentile([5.0], 95) == 5.0
    assert percentile([3, 1, 2], 50) == 2


def test_ratios_are_of_pairs_of_one_round() -> None:
    """A machine that is ten times slower in one round changes times, not the ratio."""
    rows = summarise({"base": [1.0, 10.0, 1.0], "other": [2.0, 20.0, 2.0]})
    assert [row["ratio"] for row in rows] == [1.0, 2.0]
    assert rows[1]["median_ms"] == 2000
    assert rows[1]["p95_ms"] == 20000


def test_a_failing_command_is_an_error_and_no_time() -> None:
    with pytest.raises(peers.PeerError, match="ended with 1"):
        peers.timed(["/bin/false"])


def test_a_missing_program_is_named_with_its_package() -> None:
    with pytest.raises(peers.PeerError, match="apt-get install a-package"):
        peers.program("no-such-program", "a-package")


def test_a_goal_is_what_slurm_did_in_the_same_run() -> None:
    assert (daemon.goal(None), daemon.goal(87.3)) == ("", ">= 87.3")


def test_works_side_by_side_are_at_the_same_time() -> None:
    """Each waits until the other one is there."""
    pipes = [os.pipe(), os.pipe()]

    def work(mine: int, others: int) -> list[float]:
        os.write(pipes[others][1], b"x")
        return [float(os.read(pipes[mine][0], 1) == b"x")]

    assert daemon.side_by_side([lambda: work(0, 1), lambda: work(1, 0)]) == [[1.0], [1.0]]
    for pipe in pipes:
        os.close(pipe[0])
        os.close(pipe[1])


def test_a_slurm_that_does_not_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(slurm.VARIABLE, "/bin/false")
    assert slurm.find() is None
    monkeypatch.setenv(slurm.VARIABLE, "/bin/true")
    assert slurm.find() == slurm.Slurm(("/bin/true",))


@pytest.mark.kernel
class TestPeers:
    @pytest.mark.parametrize(("name", "prepare"), peers.PEERS, ids=[name for name, _ in peers.PEERS])
    def test_runs_its_true_and_leaves_nothing(self, name: str, prepare: object) -> None:
        lacking = [program for program in NEEDS[name] if shutil.which(program) is None]
        if lacking:
            pytest.skip(f"not installed: {' '.join(lacking)}")
        before = leftovers()
        with prepare() as run:  # type: ignore[operator]
            assert 0 < run() < 30
            assert 0 < run() < 30
        assert leftovers() == before

    @pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
    def test_the_bare_program_clones_seven_namespaces(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Run around `readlink`, it shows seven namespaces that are not ours."""
        script = f"for n in user mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done > {tmp_path}/seen"
        folder = tmp_path / "seen"
        folder.touch()
        folder.chmod(0o666)
        tmp_path.chmod(0o777)
        argv: list[str] = []
        monkeypatch.setattr(peers, "timed", lambda called: argv.extend(called) or 0.0)
        with peers.bare_namespaces() as run:
            run()
            pid = os.posix_spawn(argv[0], [argv[0], "/bin/sh", "-c", script], dict(os.environ))
            assert os.waitpid(pid, 0)[1] == 0
        seen = folder.read_text().split()
        ours = [os.readlink(f"/proc/self/ns/{n}") for n in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")]
        assert len(seen) == 7
        # /proc is still the outer one, and shows a process of an inner PID namespace under its outer number.
        assert not set(seen) & set(ours)


def leftovers() -> tuple[list[str], list[str]]:
    """Folders in /tmp and cgroups that carry the benchmark's name."""
    folders = [str(path) for path in Path("/tmp").glob("batchns-bench-*")]
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob("**/batchns-bench-*")]
    return sorted(folders), sorted(groups)


def test_a_goal_of_scrapes_that_is_missed_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    metrics.show(
        [metrics.Row("quick", 4.9, "ms", 5.0), metrics.Row("slow", 5.1, "ms", 5.0), metrics.Row("size", 9, "MiB")]
    )
    said = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "missed" in said["slow"] and "missed" not in said["quick"] + said["size"]


def test_a_series_is_found_by_all_of_its_name() -> None:
    assert metrics.found("a_sum 1.5\na_sum_b 2\n", "a_sum") == 1.5
