"""A run's claims on the machine, beside other runs, dead ones, and damaged files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from supervise_fakes import FakeDriver, FakeLauncher, Host

from batchns.errors import HostError
from batchns.model.config import Config, IsolationSettings, Paths
from batchns.supervise.runfolder import RunFolder
from batchns.supervise.sweep import sweep


@pytest.fixture
def config(tmp_path: Path) -> Config:
    paths = Paths(run=str(tmp_path / "run"), state=str(tmp_path / "state"))
    return Config(paths=paths, isolation=IsolationSettings(id_ranges=8))


def sweep_all(config: Config) -> list[str]:
    host = Host({})
    return sweep(config.paths.run, FakeDriver(host, FakeLauncher(host)))


def slots(config: Config) -> dict[str, str]:
    return {path.name: path.read_text() for path in Path(config.paths.run, "slots").iterdir() if path.is_file()}


def test_slots_are_claimed_with_the_runs_id_and_given_back(config: Config) -> None:
    with RunFolder(config) as one, RunFolder(config) as other:
        taken = [runs.acquire_slot().number for runs in (one, other) * 4]
        assert sorted(taken) == list(range(8))
        assert set(slots(config).values()) == {one.run_id, other.run_id}
        with pytest.raises(HostError, match="all 8 places for running jobs are taken"):
            one.acquire_slot()
    assert slots(config) == {}


def test_a_slot_that_another_run_gave_back_can_be_had(config: Config) -> None:
    with RunFolder(config) as one:
        with RunFolder(config) as other:
            taken = {other.acquire_slot().number for _ in range(4)}
            mine = {one.acquire_slot().number for _ in range(4)}
        assert {one.acquire_slot().number for _ in range(4)} == taken
        assert mine | taken == set(range(8))


def test_runs_begin_at_different_slots(config: Config) -> None:
    """The link of the last run's job may still be there when the next one starts."""
    first = set()
    for _ in range(30):
        with RunFolder(config) as runs:
            first.add(runs.acquire_slot().number)
    assert len(first) > 1


def test_job_ids_go_on(config: Config) -> None:
    with RunFolder(config) as runs:
        assert [runs.job_ids(3), runs.job_ids(1), runs.job_ids(1)] == [1, 4, 5]
    assert Path(config.paths.state, "next_job_id").read_text() == "6\n"


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"1" * 5000, b"abc", b"12 13", "\u0663".encode(), b"-1", b"1" * 64, b"\0"]
)
def test_a_damaged_counter_is_an_error_that_says_what_to_do(config: Config, content: bytes) -> None:
    path = Path(config.paths.state, "next_job_id")
    path.parent.mkdir()
    path.write_bytes(content)
    with RunFolder(config) as runs, pytest.raises(HostError, match=f"no job id in it - .*: echo 100000 > {path}"):
        runs.job_ids(1)
    assert path.read_bytes() == content


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)])
def test_a_counter_that_is_no_plain_file_is_refused_at_once(config: Config, make: Callable[[Path], None]) -> None:
    path = Path(config.paths.state, "next_job_id")
    path.parent.mkdir()
    make(path)
    with RunFolder(config) as runs, pytest.raises(HostError, match=f"{path}: it is not a plain file - rm -r {path}"):
        runs.job_ids(1)


def test_slots_that_are_no_runs_are_swept(config: Config) -> None:
    """An empty file, garbage, a fifo, a claim of a run without a folder: the rest stays."""
    with RunFolder(config) as runs:
        mine = str(runs.acquire_slot().number)
        names = [name for name in map(str, range(8)) if name != mine]
        folder = Path(config.paths.run, "slots")
        (folder / names[0]).write_bytes(b"")
        (folder / names[1]).write_bytes(b"\xff\xfe" * 1000)
        (folder / names[2]).write_text("zzzzz")
        os.mkfifo(folder / names[3])
        (folder / names[4]).mkdir()
        assert sweep_all(config) == [f"{folder / names[4]}: Is a directory - remove it: rm -r {folder / names[4]}"]
        assert sorted(path.name for path in folder.iterdir()) == sorted([mine, names[4]])


def test_a_dead_runs_slots_and_folder_are_swept(config: Config) -> None:
    runs = RunFolder(config)
    runs.acquire_slot()
    os.close(runs._lock)  # as the kernel does when the process dies
    assert sweep_all(config) == []
    assert slots(config) == {}
    assert not Path(runs.path).exists()


def test_what_only_looks_like_a_run_does_not_stop_the_sweep(config: Config) -> None:
    base = Path(config.paths.run)
    (base / "run-aaaaa" / "lock").mkdir(parents=True)
    (base / "run-bbbbb").write_text("a file")
    (base / "run-ccccc").mkdir()
    os.mkfifo(base / "run-ccccc" / "lock")
    assert sweep_all(config) == []


def test_the_folder_of_a_run_that_was_killed_without_its_lock_is_swept(config: Config) -> None:
    """Before it had one, which may be about to come for a while, or when it was removing itself."""
    base = Path(config.paths.run)
    for name in ("making-aaaaa", "making-bbbbb", "run-ccccc"):
        (base / name).mkdir(parents=True)
    os.utime(base / "making-aaaaa", (0, 0))
    assert sweep_all(config) == []
    assert [path.name for path in base.iterdir()] == ["making-bbbbb"]


def test_a_run_folder_that_cannot_be_swept_is_an_error_that_says_so(config: Config) -> None:
    Path(config.paths.run, "slots").mkdir(parents=True)
    os.mkfifo(Path(config.paths.run, "sweep.lock"))
    with pytest.raises(HostError, match=r"sweep\.lock: it is not a plain file - rm -r "):
        sweep_all(config)


def test_a_folder_that_can_never_be_renamed_is_an_error(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def fail(self: Path, target: Path) -> None:
        tries.append(target)
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "rename", fail)
    for number, most in ((errno.EIO, 1), (errno.ENOTEMPTY, 10)):
        tries.clear()
        with pytest.raises(HostError, match=os.strerror(number)):
            RunFolder(config)
        assert len(tries) == most
    assert [path.name for path in Path(config.paths.run).iterdir()] == ["slots"]


def test_a_run_that_leaves_jobs_behind_gives_nothing_back(config: Config) -> None:
    """Their addresses and ids are in use; the next sweep finds them by the folder."""
    with RunFolder(config) as runs:
        slot = runs.acquire_slot()
        runs.leave_to_sweep()
    assert slots(config) == {str(slot.number): runs.run_id}
    assert Path(runs.path).is_dir()
    assert sweep_all(config) == []
    assert slots(config) == {}
    assert not Path(runs.path).exists()


def kept_run(config: Config, slots: int = 4) -> RunFolder:
    """The folder of a run whose process has died, with so many slots claimed."""
    runs = RunFolder(config)
    runs.keep()
    for _ in range(slots):
        runs.acquire_slot()
    runs.close()
    return runs


def test_a_kept_run_is_swept_by_nobody_and_opened_again(config: Config) -> None:
    before = kept_run(config)
    assert sweep_all(config) == []
    again = RunFolder.reopen(config, before.run_id)
    assert again is not None
    assert sweep_all(config) == [], "nor while it lives"
    assert (again.run_id, again.path, again.attempt_name(1)) == (before.run_id, before.path, before.attempt_name(1))
    assert set(slots(config).values()) == {before.run_id}
    again.close()
    assert Path(before.path, "records").is_dir()
    assert len(slots(config)) == 4


def test_the_slots_of_a_kept_run_are_free_again_but_for_those_in_use(config: Config) -> None:
    before = kept_run(config)
    claimed = sorted(map(int, slots(config)))
    again = RunFolder.reopen(config, before.run_id)
    assert again is not None
    assert again.acquire_slot().number not in claimed, "not before it is known which are in use"
    again.free_all_but({claimed[0]})
    again.free_all_but({claimed[0]})
    taken = sorted(again.acquire_slot().number for _ in range(6))
    assert claimed[0] not in taken
    assert len(set(taken)) == 6
    with pytest.raises(HostError, match="all 8 places for running jobs are taken"):
        again.acquire_slot()
    again.release_slot(again.slot(claimed[0]))
    assert again.acquire_slot() == again.slot(claimed[0])
    again.give_up()
    again.close()
    assert slots(config) == {}
    assert not Path(before.path).exists()


def test_a_kept_run_that_somebody_has_is_refused(config: Config) -> None:
    with RunFolder(config) as runs:
        runs.keep()
        with pytest.raises(HostError, match=f"run-{runs.run_id}: another batchns uses it - see which"):
            RunFolder.reopen(config, runs.run_id)
        runs.give_up()


def test_what_is_not_a_kept_run_of_this_boot_is_not_opened(config: Config) -> None:
    """None of that name, one that is not kept, one of another boot: and that one is swept."""
    with RunFolder(config) as runs:
        assert RunFolder.reopen(config, "zzzzz") is None
        assert RunFolder.reopen(config, runs.run_id) is None
    before = kept_run(config)
    Path(before.path, "kept").write_text("another boot")
    assert RunFolder.reopen(config, before.run_id) is None
    assert sweep_all(config) == []
    assert not Path(before.path).exists()
    assert slots(config) == {}
