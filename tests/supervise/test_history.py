"""The history of attempts: what several processes append at once, under a bound, with writers that die."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchns.errors import HostError
from batchns.model.lifecycle import FINAL, State
from batchns.supervise import history
from batchns.supervise.history import History, Record

ONE = Record(
    job_id="12",
    name="train",
    uid=1000,
    user="alice",
    queue="normal",
    submitted=1e9,
    started=1e9 + 5,
    ended=1e9 + 65,
    running_seconds=50.0,
    frozen_seconds=10.0,
    cpus=2.0,
    memory=1 << 30,
    memory_peak=1 << 29,
    time_limit=3600.0,
    state=State.COMPLETED,
    exit_code=0,
)


def numbered(number: int) -> Record:
    return attrs.evolve(ONE, job_id=str(number))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / history.FILE


def ids(path: Path, limit: int = 10**6) -> list[int]:
    return [int(record.job_id) for record in History(path).recent(limit)]


def in_children(count: int, work: Callable[[int], None]) -> list[int]:
    """`work` in `count` processes at once; their exit codes."""
    children = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work(number)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


def test_what_was_appended_is_read_back_the_oldest_first(path: Path) -> None:
    for number in range(5):
        History(path).append(numbered(number))
    assert History(path).recent(100)[0] == numbered(0)
    assert ids(path) == [0, 1, 2, 3, 4]
    assert ids(path, 2) == [3, 4]
    assert ids(path, 0) == []


def test_without_a_file_there_is_no_history(path: Path) -> None:
    assert History(path).recent(5) == []


def test_only_its_owner_may_read_it(path: Path) -> None:
    before = os.umask(0)
    try:
        History(path).append(ONE)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


records = st.builds(
    Record,
    job_id=st.text(),
    name=st.text(),
    uid=st.integers(0, 2**32),
    user=st.text(),
    queue=st.text(),
    submitted=st.floats(allow_nan=False, allow_infinity=False),
    started=st.floats(allow_nan=False, allow_infinity=False),
    ended=st.floats(allow_nan=False, allow_infinity=False),
    running_seconds=st.floats(0, 1e12),
    frozen_seconds=st.floats(0, 1e12),
    cpus=st.floats(0, 1e6),
    memory=st.none() | st.integers(0, 2**63),
    memory_peak=st.none() | st.integers(0, 2**63),
    time_limit=st.none() | st.floats(0, 1e12),
    state=st.sampled_from(sorted(FINAL, key=lambda state: state.value)),
    exit_code=st.none() | st.integers(0, 255),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(wanted=st.lists(records, max_size=4), torn=st.binary(max_size=40))
def test_any_record_survives_and_any_torn_end_is_skipped(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[Record], torn: bytes
) -> None:
    """Whatever a writer that died has left, with whatever names."""
    path = tmp_path_factory.mktemp("torn") / history.FILE
    for record in wanted:
        History(path).append(record)
    with path.open("ab") as file:
        file.write(torn)
    assert History(path).recent(100) == wanted
    History(path).append(ONE)
    assert History(path).recent(100) == [*wanted, ONE]


@pytest.mark.parametrize("length", [1, 20, -2, -1])
def test_half_a_line_costs_no_other_record(path: Path, length: int) -> None:
    """`-1`: all of it but the end of the line, which is a record all the same."""
    History(path).append(numbered(1))
    line = path.read_bytes().replace(b'"1"', b'"2"')
    with path.open("ab") as file:
        file.write(line[:length])
    History(path).append(numbered(3))
    assert ids(path) == ([1, 2, 3] if length == -1 else [1, 3])


@pytest.mark.parametrize(
    ("key", "value"),
    [("state", "DREAMING"), ("uid", True), ("uid", "1000"), ("ended", None), ("cpus", float("nan")), ("memory", 1.5)],
)
def test_a_line_that_means_something_else_is_no_record(path: Path, key: str, value: object) -> None:
    History(path).append(numbered(1))
    table = json.loads(path.read_text())
    with path.open("a") as file:
        file.write(json.dumps({**table, key: value}) + "\n[]\n" + json.dumps({**table, "new": 1, "job_id": "2"}) + "\n")
    assert ids(path) == [1, 2]


def test_processes_that_append_at_once_lose_nothing(path: Path) -> None:
    def work(child: int) -> None:
        for number in range(50):
            History(path).append(numbered(child * 50 + number))

    assert in_children(4, work) == [0] * 4
    assert sorted(ids(path)) == list(range(200))


def test_the_size_is_bounded_and_the_newest_are_kept(path: Path) -> None:
    """Also when several processes find the file full at once."""
    bound = 5000

    def work(child: int) -> None:
        for number in range(100):
            History(path, bound).append(numbered(number * 4 + child))

    assert in_children(4, work) == [0] * 4
    sizes = [file.stat().st_size for file in path.parent.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= bound
    kept = ids(path)
    assert len(kept) > bound / 400
    assert len(set(kept)) == len(kept)
    for child in range(4):
        own = [number for number in kept if number % 4 == child]
        assert own == sorted(own)
    History(path, bound).append(numbered(10**6))
    assert ids(path)[-1] == 10**6


def test_a_reader_sees_every_record_once_while_the_file_is_replaced(path: Path) -> None:
    """The two files are read as they were at one moment: what is read has no gap."""
    History(path, 4000).append(numbered(0))
    pid = os.fork()
    if pid == 0:
        for number in range(1, 400):
            History(path, 4000).append(numbered(number))
        os._exit(0)
    try:
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            found = ids(path)
            assert found == list(range(found[0], found[-1] + 1))
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def test_a_writer_that_is_killed_in_the_middle_spoils_nothing(path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        number = 0
        while True:
            History(path, 20_000).append(numbered(number))
            number += 1
    while not path.exists() or path.stat().st_size < 10_000:
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    before = ids(path)
    History(path, 20_000).append(numbered(10**6))
    assert ids(path)[-1] == 10**6
    assert before == list(range(before[0], before[-1] + 1))


def test_a_disk_that_fills_up_takes_back_the_half_line(path: Path) -> None:
    """RLIMIT_FSIZE stands in for it: the kernel takes a part of the line first, and then refuses."""
    History(path).append(numbered(1))
    before = path.read_bytes()

    def work(_: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, len(before) + 10))
        with pytest.raises(HostError):
            History(path).append(numbered(2))

    assert in_children(1, work) == [0]
    assert path.read_bytes() == before


def test_a_lock_that_is_kept_is_an_error_and_not_a_hang(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_LOCK_SECONDS", 0.1)
    History(path).append(ONE)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(HostError, match="locked"):
            History(path).append(ONE)
        with pytest.raises(HostError, match="locked"):
            History(path).recent(1)


def test_a_link_in_its_place_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    (tmp_path / "other").write_text("")
    path.symlink_to(tmp_path / "other")
    for call in (lambda: History(path).append(ONE), lambda: History(path).recent(1)):
        with pytest.raises(HostError, match="plain file"):
            call()
    assert (tmp_path / "other").read_text() == ""


def test_no_descriptor_is_left_open(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(30):
        History(path, 1000).append(numbered(number))
        History(path, 1000).recent(3)
    assert len(os.listdir("/proc/self/fd")) == before
