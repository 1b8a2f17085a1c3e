"""Output files of many submissions and users, some of whom mean harm."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from attrs import evolve
from supervise_fakes import inline, spec
from test_outputs import job_of

from batchns.errors import UserError
from batchns.model.submitter import ROOT, Submitter
from batchns.supervise.outputs import Outputs

ADA = Submitter(name="ada", uid=31001, gid=31001, groups=(31001,))
EVE = Submitter(name="eve", uid=31002, gid=31002, groups=(31002,))
TRIES = 4000
_RENAME_EXCHANGE = 2  # include/uapi/linux/fs.h
_libc = ctypes.CDLL(None)


def write(files: Outputs, key: str, path: Path, text: str, who: Submitter = ROOT) -> None:
    fd = files.open(key, "stdout", str(path), who)
    os.write(fd, text.encode())
    os.close(fd)


def owned(path: Path, who: Submitter, mode: int = 0o755) -> Path:
    path.mkdir()
    os.chown(path, who.uid, who.gid)
    path.chmod(mode)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that every user can get to."""
    path: Path = tmp_path
    while path != Path("/tmp"):
        path.chmod(path.stat().st_mode | 0o011)
        path = path.parent
    return tmp_path


@contextmanager
def meanwhile(act: Callable[[], None], who: Submitter | None) -> Iterator[None]:
    """A process of this user (None: root) that does it again and again."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(60)
            if who is not None:
                os.setgroups([])
                os.setresgid(who.gid, who.gid, who.gid)
                os.setresuid(who.uid, who.uid, who.uid)
            while True:
                act()
        finally:
            os._exit(1)
    try:
        yield
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it was at it all the time"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def exchange(one: Path, other: Path) -> None:
    assert _libc.renameat2(-100, bytes(one), -100, bytes(other), _RENAME_EXCHANGE) == 0


def test_a_file_is_emptied_once_by_each_submission(tmp_path: Path) -> None:
    files = Outputs(inline)
    path = tmp_path / "log"
    for key, text in (("1", "a"), ("1", "b"), ("2", "c"), ("2", "d")):
        write(files, key, path, text)
    assert path.read_text() == "cd"
    write(files, "1", path, "e")
    assert path.read_text() == "cde"
    files.forget("1")
    write(files, "1", path, "f")
    assert path.read_text() == "f"


def test_after_a_restart_only_what_had_not_launched_empties_its_files(tmp_path: Path) -> None:
    files = Outputs(inline)
    for launched, expected in ((True, "before after"), (False, " after")):
        path = tmp_path / "log"
        path.write_text("before")
        files.restore("1", {}, launched=launched)
        write(files, "1", path, " after")
        assert path.read_text() == expected


def test_the_folder_of_a_submission_is_kept_and_can_be_given_back(tmp_path: Path) -> None:
    """What it resolved to when it was submitted holds, whatever the link leads to by the time of a restart."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    link = tmp_path / "link"
    link.symlink_to("one")
    job = job_of(spec(link))
    first = Outputs(inline)
    stored = trio.run(first.anchor, "1", [job.spec], ROOT)
    assert stored == {str(link): f"{tmp_path}/one"}
    link.unlink()
    link.symlink_to("two")
    assert trio.run(first.anchor, "2", [job.spec], ROOT) == {str(link): f"{tmp_path}/two"}
    second = Outputs(inline)
    second.restore("1", stored, launched=True)
    for files in (first, second):
        assert files.paths("1", job)[0] == f"{tmp_path}/one/job-7.out"
    assert first.paths("2", job)[0] == f"{tmp_path}/two/job-7.out"


def test_whoever_keeps_an_eye_on_files_sees_them_while_they_are_open(tmp_path: Path) -> None:
    """With what fstat(2) said in a thread: it may never answer."""
    seen = []
    (tmp_path / "log").write_text("from before")
    files = Outputs(inline, lambda attempt, some: seen.append((attempt, some)))

    async def main() -> list[int]:
        paths = [("stdout", f"{tmp_path}/log"), ("stderr", os.devnull)]
        return await files.open_all("1", paths, ROOT, attempt="abcde-1")

    fds = trio.run(main)
    ((attempt, ((fd, found),)),) = seen
    assert attempt == "abcde-1" and fd == fds[0]
    for one in fds:
        os.close(one)
    assert (found.st_ino, found.st_size) == ((tmp_path / "log").stat().st_ino, 0)


@pytest.mark.kernel
def test_files_are_made_with_the_rights_of_whoever_submitted_them(place: Path) -> None:
    files = Outputs(inline)
    for who in (ADA, EVE):
        write(files, who.name, owned(place / who.name, who) / "log", who.name, who)
        found = (place / who.name / "log").stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (who.uid, who.gid, 0o600)
    for path in (place / "ada" / "log", place / "ada" / "new"):
        with pytest.raises(UserError, match="permission denied"):
            files.open("eve", "stdout", str(path), EVE)
    assert (place / "ada" / "log").read_text() == "ada"


@pytest.mark.kernel
def test_a_folder_that_is_swapped_for_a_link_leads_nowhere_else(place: Path) -> None:
    """Eve owns the folder that Ada's jobs write to, and wants a file of Ada's emptied; and one of root's."""
    home = owned(place / "home", ADA, 0o700)
    root = owned(place / "root", ROOT, 0o755)
    for folder in (home, root):
        (folder / "job-7.out").write_text("precious")
        os.chown(folder / "job-7.out", *(2 * [folder.stat().st_uid]))
    shared = owned(place / "shared", EVE)
    for name, target in (("jobs", None), ("to-ada", home), ("to-root", root)):
        owned(shared / name, ADA) if target is None else (shared / name).symlink_to(target)
    files = Outputs(inline)
    job = job_of(evolve(spec(shared / "jobs"), stdout=f"{shared}/jobs/job-7.out"))
    trio.run(files.anchor, "1", [job.spec], ADA)
    path = files.paths("1", job)[0]

    def swap() -> None:
        for name in ("to-ada", "to-root"):
            exchange(shared / "jobs", shared / name)
            exchange(shared / name, shared / "jobs")

    outcomes = {"opened": 0, "refused": 0}
    with meanwhile(swap, EVE):
        for _ in range(TRIES):
            try:
                fd = files.open("1", "stdout", path, ADA)
            except UserError as error:
                assert "symbolic link" in str(error) or "another" in str(error), error
                outcomes["refused"] += 1
                continue
            assert os.readlink(f"/proc/self/fd/{fd}").startswith(str(shared))
            os.write(fd, b"x")
            os.close(fd)
            outcomes["opened"] += 1
            files.forget("1")
    for folder in (home, root):
        assert (folder / "job-7.out").read_text() == "precious"
    assert min(outcomes.values()) > TRIES // 1000, f"both happened: {outcomes}"


@pytest.mark.kernel
def test_a_name_of_another_file_that_comes_and_goes_does_not_get_it_emptied(place: Path) -> None:
    """A hard link to Ada's file, made and removed again: its count of names is one at the wrong moment.

    Made by root here: the kernel can be set to refuse it (fs.protected_hardlinks), and mostly is.
    """
    home, shared = owned(place / "home", ADA, 0o700), owned(place / "shared", EVE, 0o777)
    victim, name = home / "precious", shared / "log"
    victim.write_text("precious")
    os.chown(victim, ADA.uid, ADA.gid)

    def link_and_unlink() -> None:
        os.link(victim, shared / "making")
        (shared / "making").rename(name)
        name.unlink(missing_ok=True)

    files = Outputs(inline)
    outcomes: dict[str, int] = {}
    with meanwhile(link_and_unlink, None):
        for _ in range(TRIES):
            try:
                os.close(files.open("1", "stdout", str(name), ADA))
                what = "opened"
            except UserError as error:
                what = str(error).partition("log: ")[2][:20]
            outcomes[what] = outcomes.get(what, 0) + 1
            files.forget("1")
            assert victim.read_text() == "precious", outcomes
    assert outcomes.get("the file has other n", 0) > 0, outcomes
