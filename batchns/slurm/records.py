"""What is known of submissions beside Slurm, in a folder of the user's that the nodes see, too.

    submissions/KEY   the jobs that were to be submitted, and the ids that they got: one JSON object, and while they
                      are being submitted "NUMBER ID" lines beside it
    jobs/ID           a link that leads nowhere: KEY, of the submission that the job is of
    names/NAME        the same, of the last job of that name
    results/ID        what became of it, or of its task ID_INDEX, written on its node
    ends/ID           how Slurm said that it ended, where the node said otherwise or nothing
    queue, facts      what Slurm has said lately

A file is replaced as a whole. The links of a submission are names of one link, which cost a twentieth of another file.
What is damaged or gone is as if it had never been.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from batchns.errors import HostError

_KEY = re.compile(r"[A-Za-z0-9._-]{1,100}")
_LINE = re.compile(r"([0-9]+) ([0-9]+)\n")  # one that was cut is none
_DAY = 86400.0
_FOLDERS = ("submissions", "jobs", "names", "results", "ends")

Table = dict[str, Any]


class Records:
    """Raises HostError: the folder cannot be made."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).expanduser()
        self._known: dict[str, tuple[object, Table]] = {}  # with the version that was read
        self._numbers: dict[str, dict[str, int]] = {}  # of the same, by id
        self._links: dict[str, str] = {}  # a link of each submission that is under way
        self._lines: dict[str, int] = {}  # descriptors of the lines beside it
        try:
            for name in _FOLDERS:
                (self.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(
                f"{error.filename}: {error.strerror}", "write a folder of yours under [slurm] in batchns.toml"
            ) from None

    @contextmanager
    def submission(self, key: str) -> Iterator[Table]:
        """What is known of this submission, for this process alone; what is changed in the table is kept by `keep`."""
        path = self.folder / "submissions" / f"{_checked(key)}.lock"
        with _said():
            descriptor = _locked(path)
        try:
            yield self._table(key)
        finally:
            self._links.pop(key, None)
            self._close_lines(key)
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def keep(self, key: str, table: Table) -> None:
        """Raises HostError: there is no room for it."""
        with _said():
            self._write("submissions", key, table)
            self._close_lines(key)
            self._beside(key).unlink(missing_ok=True)

    def add(self, job: Table, key: str, number: int) -> None:
        """A job that has an id by now, of a submission that is under way.

        Raises:
            HostError: there is no room for it.
        """
        with _said():
            # The links first: whoever is killed before the line is there finds the job in the queue, and adds it anew.
            here = f"{self.folder}/jobs/{job['id']}"
            if self._name(here, key):
                self._links[key] = here
            self._name(f"{self.folder}/names/{job['name']}", key)
            if key not in self._lines:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                opened = os.open(self._beside(key), flags, 0o600)
                if self._lines.setdefault(key, opened) != opened:  # two of a submission are added side by side
                    os.close(opened)
            line = f"{number} {job['id']}\n".encode()
            if os.write(self._lines[key], line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._beside(key)))

    def _close_lines(self, key: str) -> None:
        if key in self._lines:
            with suppress(OSError):  # what could not be written was told when it was
                os.close(self._lines.pop(key))

    def _name(self, path: str, key: str) -> bool:
        """A link of the submission there. True: one of its own, where there is none yet, or none that takes names."""
        if link := self._links.get(key):
            with suppress(OSError):
                _placed(path, lambda path: os.link(link, path, follow_symlinks=False))
                return False
        _placed(path, lambda path: os.symlink(key, path))
        return True

    def job(self, array_id: str) -> Table | None:
        """The job that Slurm calls so, as it was submitted; with its `id`, `key`, `user` and `submitted`."""
        key = self._link("jobs", array_id)
        number = self._number(key).get(array_id) if key else None
        return None if number is None else self.submitted(key, number, array_id)

    def submitted(self, key: str, number: int, array_id: str) -> Table | None:
        """As `job`, of a comment."""
        table = self._of(key)
        jobs = table.get("jobs", ())
        if not 0 <= number < len(jobs):
            return None
        return {**jobs[number], "id": array_id, "key": key, "user": table["user"], "submitted": table["at"]}

    def last_of(self, name: str) -> str | None:
        """The id of the last job of that name; None also where that was taken back."""
        jobs = self._of(self._link("names", name)).get("jobs", ())
        return next((job["id"] for job in reversed(jobs) if job.get("name") == name and "id" in job), None)

    def _link(self, kind: str, name: str) -> str:
        """The key of the submission; "" where there is no such link."""
        try:
            return os.readlink(self.folder / kind / name)
        except (OSError, ValueError):
            return ""

    def _of(self, key: str) -> Table:
        """The submission as it is now, empty where there is none: somebody may be at it."""
        if not _KEY.fullmatch(key):
            return {}
        version = _version(self.folder / "submissions" / f"{key}.json"), _version(self._beside(key))
        known, table = self._known.get(key, (None, {}))
        if known != version:
            table = self._table(key)
            self._known[key] = version, table
            self._numbers.pop(key, None)
        return table

    def _number(self, key: str) -> dict[str, int]:
        jobs = self._of(key).get("jobs", ())
        if key not in self._numbers:
            self._numbers[key] = {job["id"]: number for number, job in enumerate(jobs) if "id" in job}
        return self._numbers[key]

    def _table(self, key: str) -> Table:
        """With the ids of the lines beside it: it was, or is, being submitted."""
        table = self._read("submissions", key) or {}
        jobs, taken_back = table.get("jobs", []), table.get("taken_back", ())
        try:
            lines = self._beside(key).read_text().splitlines(keepends=True)
        except (OSError, ValueError):
            return table
        for line in lines:
            if (match := _LINE.fullmatch(line)) and int(match[1]) < len(jobs) and match[2] not in taken_back:
                jobs[int(match[1])]["id"] = match[2]
        return table

    def _beside(self, key: str) -> Path:
        return self.folder / "submissions" / f"{key}.ids"

    def result(self, job_id: str, key: str) -> Table | None:
        """What the node has written of this very submission. `key` "": of whichever has the id."""
        found = self._read("results", job_id)
        return found if found is not None and (not key or found.get("key") == key) else None

    def end(self, job_id: str, key: str) -> Table | None:
        found = self._read("ends", job_id)
        return found if found is not None and found.get("key") == key else None

    def remember(self, job_id: str, key: str, **values: Any) -> None:
        """How Slurm says that a job ended: it forgets. Where there is no room for it, it is written next time.

        A job that was queued again may end otherwise than it did: the last end counts.
        """
        noted = {"key": key, **values}
        if self._read("ends", job_id) != noted:
            with suppress(OSError):
                self._write("ends", job_id, noted)

    def recall(self, job_id: str) -> None:
        """It has not ended so: it was queued again, or its node says the same."""
        with suppress(OSError):
            (self.folder / "ends" / f"{job_id}.json").unlink()

    def prune(self, before: float, now: float) -> None:
        """Forget what was written last before that moment; at most once a day. Seconds since the epoch."""
        mark = self.folder / "pruned"
        try:
            if now - mark.stat().st_mtime < _DAY:
                return
        except FileNotFoundError:
            pass
        with _said():
            mark.touch()
        for kind in _FOLDERS:
            for entry in os.scandir(self.folder / kind):
                with suppress(FileNotFoundError):  # somebody else prunes, too
                    if entry.stat(follow_symlinks=False).st_mtime < before:
                        os.unlink(entry.path)

    def ids(self) -> list[str]:
        """Of all jobs that were ever submitted from here, the youngest first."""
        return sorted((name for name in os.listdir(self.folder / "jobs") if name.isdecimal()), key=int, reverse=True)

    def _read(self, kind: str, name: str) -> Table | None:
        try:
            with (self.folder / kind / f"{name}.json").open() as file:
                found = json.load(file)
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _write(self, kind: str, name: str, table: Mapping[str, Any]) -> None:
        path = self.folder / kind / f"{name}.json"
        mine = path.with_name(f".{name}.{os.getpid()}.{id(table)}")
        mine.write_text(json.dumps(table))
        mine.replace(path)


def _locked(path: Path) -> int:
    """A descriptor of the locked file that is there: whoever had it before has removed the one that was."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _placed(path: str, make: Callable[[str], None]) -> str:
    """`path`, made there by `make`; instead of what was there before, which is then not missing for a moment."""
    try:
        make(path)
    except FileExistsError:
        mine = f"{path}.{os.getpid()}.{threading.get_ident()}"
        make(mine)
        os.replace(mine, path)  # where both are the same link already, it is left as it is, and so is `mine`
        with suppress(FileNotFoundError):
            os.unlink(mine)
    return path


@contextmanager
def _said() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        raise HostError(what, "the folder of [slurm] in batchns.toml needs room, and has to be yours") from None


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise HostError(f"{key!r} is no key of a submission", "write letters, digits, ., _ and -")
    return key
