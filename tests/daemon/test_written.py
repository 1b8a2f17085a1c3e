"""Files that running jobs write to: known while they run, after a restart too; nobody waits for their file systems."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from batchns.daemon import logs
from batchns.daemon.files import SharedFiles
from batchns.daemon.recorder import Recorder
from batchns.daemon.trim import Trimmer
from batchns.daemon.written import Written
from batchns.model.submitter import ROOT
from batchns.store.interface import Batch
from batchns.supervise.ports import threads


class Notes:
    """A journal that keeps notes only."""

    def __init__(self) -> None:
        self.notes: dict[str, Any] = {}

    def commit(self, batch: Batch) -> int:
        self.notes |= batch.notes
        return 0


@asynccontextmanager
async def written(journal: Notes | None = None) -> AsyncIterator[Written]:
    async with trio.open_nursery() as nursery:
        recorder = Recorder(journal=journal or Notes(), blocking=threads())  # type: ignore[arg-type]
        trimmer = Trimmer(1 << 20, SharedFiles(), threads())
        yield Written(trimmer=trimmer, recorder=recorder, blocking=threads(), start=nursery.start_soon)
        nursery.cancel_scope.cancel()


async def until(done: Any) -> None:
    with trio.fail_after(5):
        while not done():
            await trio.sleep(0.01)


def test_an_attempts_files_are_noted_and_known_again_and_forgotten(tmp_path: Path) -> None:
    journal, path = Notes(), tmp_path / "out"
    path.write_bytes(b"of before")

    async def main() -> None:
        async with written(journal) as first:
            with path.open("ab") as file:
                first.opened("a-1", [(file.fileno(), os.fstat(file.fileno()))])
            await first.recorder.commit()
            assert not first.running("a-1").is_set()
        async with written(journal) as again:
            again.restore("a-1", (str(path), None), ROOT, journal.notes)
            await until(lambda: again._files)
            (known,) = again.trimmer._files.values()
            assert known.start == len(b"of before")
            over = again.running("a-1")
            again.ended("a-1")
            assert over.is_set() and again.running("a-1").is_set()
            await again.recorder.commit()
            assert journal.notes == {"written a-1": None}

    trio.run(main)


def test_where_no_descriptor_is_left_after_a_restart_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"")
    found = path.stat()

    class NoneLeft(Trimmer):
        def add(self, *_: object, **__: object) -> None:  # type: ignore[override]
            raise OSError(errno.EMFILE, "Too many open files")

    async def main() -> None:
        async with written() as again:
            again.trimmer = NoneLeft(1, SharedFiles(), threads())
            again.restore("a-1", (str(path), None), ROOT, {"written a-1": [[found.st_dev, found.st_ino, 0]]})
            await until(again.troubles)
            assert "is not trimmed: no descriptors left - raise LimitNOFILE" in again.troubles()[0]
            again.ended("a-1")
            assert again.troubles() == ()

    trio.run(main)


def test_who_reads_an_attempt_of_an_unknown_user_is_not_told_that_it_is_over() -> None:
    async def main() -> None:
        async with written() as again:
            again.restore("a-1", ("/nowhere", None), None, {})
            assert not again.running("a-1").is_set()

    trio.run(main)


def test_nobody_waits_for_a_file_system_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that starts has many such files, and is to be there for everybody else."""
    monkeypatch.setattr(logs, "TIMEOUT", 0.3)
    monkeypatch.setattr(logs.syscalls, "openat2", lambda *_, **__: time.sleep(2) or os.open("/dev/null", 0))

    async def main() -> None:
        async with written() as again:
            began = time.monotonic()
            for number in range(50):
                again.restore(f"a-{number}", ("/hung/out", None), ROOT, {f"written a-{number}": [[1, 2, 0]]})
            assert time.monotonic() - began < 0.3
            await until(lambda: len(again.troubles()) == 50)
            assert "/hung/out is not trimmed" in again.troubles()[0]
            again.ended("a-0")
            assert len(again.troubles()) == 49

    trio.run(main)


def test_what_ended_while_it_was_opened_is_let_go_of(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.touch()
    found = path.stat()

    async def main() -> None:
        async with written() as again:
            before = set(os.listdir("/proc/self/fd"))
            again.restore("a-1", (str(path),), ROOT, {"written a-1": [[found.st_dev, found.st_ino, 0]]})
            again.ended("a-1")
            await trio.sleep(0.3)
            assert not again._files and not again.trimmer._files
            opened = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in set(os.listdir("/proc/self/fd")) - before]
            assert str(path) not in opened

    trio.run(main)


def test_notes_of_attempts_that_are_no_more_are_removed() -> None:
    journal = Notes()
    journal.notes = {"written a-1": [[1, 2, 0]], "written a-2": [[1, 3, 0]], "shares": {}}

    async def main() -> None:
        async with written(journal) as again:
            again.sweep({"a-2"}, dict(journal.notes))
            await again.recorder.commit()
        assert journal.notes == {"written a-1": None, "written a-2": [[1, 3, 0]], "shares": {}}

    trio.run(main)
