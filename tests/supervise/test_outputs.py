"""Where a job's output goes, and where it never goes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from attrs import evolve
from supervise_fakes import GIB, inline, spec

from batchns.core.admit import admit, expand
from batchns.core.job import Job
from batchns.core.node import NodeCapacity
from batchns.errors import UserError
from batchns.model.config import Config
from batchns.model.job import JobSpec
from batchns.model.submitter import ROOT
from batchns.supervise import outputs
from batchns.supervise.outputs import Outputs


def job_of(one: JobSpec, attempt: int = 1) -> Job:
    """The job (or task 0) with id 7."""
    capacity = NodeCapacity(cpus=(0,), memory=GIB)
    return evolve(expand(admit([one], capacity, Config()), 7, Config(), 0.0)[0], attempt=attempt)


@contextmanager
def opened(files: Outputs, path: Path | str) -> Iterator[int]:
    fd = files.open("", "stdout", str(path), ROOT)
    try:
        yield fd
    finally:
        os.close(fd)


def write(files: Outputs, path: Path, text: str) -> None:
    with opened(files, path) as fd:
        os.write(fd, text.encode())


def test_output_goes_beside_the_job_file_unless_told_otherwise(tmp_path: Path) -> None:
    files = Outputs(inline)
    job = job_of(spec(tmp_path, "train", stderr="/elsewhere/%x/%j"))
    trio.run(files.anchor, "", [job.spec], ROOT)
    assert files.paths("", job) == (f"{tmp_path}/train-7.out", "/elsewhere/train/7")


def test_a_job_without_a_file_writes_to_its_working_folder(tmp_path: Path) -> None:
    files = Outputs(inline)
    job = job_of(evolve(spec(tmp_path, "train"), source=""))
    trio.run(files.anchor, "", [job.spec], ROOT)
    assert files.paths("", job)[0] == f"{tmp_path}/train-7.out"


@pytest.mark.parametrize(
    ("pattern", "attempt", "path"),
    [
        ("/o/%x-%j.%A.%a.%r.%%", 1, "/o/job-7_0.7.0.1.%"),
        ("/o/%x-%j.out", 2, "/o/job-7_0-r2.out"),
        ("/o/log", 3, "/o/log-r3"),
        ("/o/%%r.out", 2, "/o/%r-r2.out"),
        ("/o/%r/log", 2, "/o/2/log"),
        ("/dev/null", 2, "/dev/null"),
    ],
)
def test_patterns_are_filled_in(tmp_path: Path, pattern: str, attempt: int, path: str) -> None:
    assert outputs.expand(pattern, job_of(spec(tmp_path, tasks=1), attempt)) == path


@pytest.mark.parametrize("pattern", ["/o/%q", "/o/100%"])
def test_an_unknown_pattern_is_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(UserError, match="write %x, %j, %A, %a, %r or %%"):
        outputs.expand(pattern, job_of(spec(tmp_path)))


def test_a_file_is_emptied_once_and_then_appended_to(tmp_path: Path) -> None:
    """Also when two descriptors write in turn, as stdout and stderr of one job do."""
    path = tmp_path / "log"
    path.write_text("of an earlier run")
    files = Outputs(inline)
    with opened(files, path) as first, opened(files, path) as second:
        os.write(first, b"1")
        os.write(second, b"2")
        os.write(first, b"3")
    write(files, path, "4")
    assert path.read_text() == "1234"
    write(Outputs(inline), path, "next run")
    assert path.read_text() == "next run"


def test_the_descriptor_appends_blocks_and_is_closed_on_exec(tmp_path: Path) -> None:
    with opened(Outputs(inline), tmp_path / "log") as fd:
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        assert flags & os.O_APPEND
        assert not flags & os.O_NONBLOCK
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert os.fstat(fd).st_mode & 0o777 == 0o600
    with opened(Outputs(inline, mode=0o640), tmp_path / "for the group") as fd:
        assert os.fstat(fd).st_mode & 0o037 == 0


def test_the_job_files_folder_may_be_reached_through_a_link_but_nothing_below_it(tmp_path: Path) -> None:
    """A job that can write beside its file cannot redirect the next job's output."""
    (tmp_path / "real/logs").mkdir(parents=True)
    (tmp_path / "home").symlink_to(tmp_path / "real")
    (tmp_path / "real/away").symlink_to("/etc")
    files = Outputs(inline)
    good = job_of(evolve(spec(tmp_path / "home"), stdout=f"{tmp_path}/home/logs/o"))
    bad = job_of(evolve(spec(tmp_path / "home"), stdout=f"{tmp_path}/home/away/o"))
    trio.run(files.anchor, "", [good.spec], ROOT)
    with opened(files, files.paths("", good)[0]):
        assert (tmp_path / "real/logs/o").exists()
    with pytest.raises(UserError, match="a symbolic link is in the way"):
        files.open("", "stdout", files.paths("", bad)[0], ROOT)


def test_the_folder_is_what_it_was_before_any_job_ran(tmp_path: Path) -> None:
    """Replaced by a link meanwhile, it is not followed."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    files = Outputs(inline)
    job = job_of(spec(folder))
    trio.run(files.anchor, "", [job.spec], ROOT)
    folder.rename(tmp_path / "moved")
    (tmp_path / "target").mkdir()
    folder.symlink_to(tmp_path / "target")
    with pytest.raises(UserError, match="a symbolic link is in the way"):
        files.open("", "stdout", files.paths("", job)[0], ROOT)


def test_anything_but_a_plain_file_with_one_link_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.link(tmp_path / "secret", tmp_path / "hard")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    refused = {
        "link": "a symbolic link is in the way",
        "hard": "the file has other names",
        "fifo": "it is not a plain file",
        "folder": "it is a folder",
        "none/log": f"its folder does not exist - make it: mkdir -p {tmp_path}/none",
        "secret/log": "a part of the path is not a folder",
        "x" * 300: "the name is too long",
    }
    for name, message in refused.items():
        with pytest.raises(UserError) as caught:
            Outputs(inline).open("", "stderr", str(tmp_path / name), ROOT)
        assert str(caught.value).startswith(f"stderr: {tmp_path / name}: {message}")
    with pytest.raises(UserError, match="it is not a plain file"):
        Outputs(inline).open("", "stdout", "/dev/zero", ROOT)
    assert (tmp_path / "secret").read_text() == "kept"
    assert len(os.listdir("/proc/self/fd")) == before


def test_output_can_be_thrown_away() -> None:
    fd = Outputs(inline).open("", "stdout", "/dev/null", ROOT)
    assert os.write(fd, b"gone") == 4
    os.close(fd)


def test_a_fifo_with_a_reader_is_refused_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(UserError, match="it is not a plain file"):
            Outputs(inline).open("", "stdout", str(tmp_path / "fifo"), ROOT)
    finally:
        os.close(reader)
