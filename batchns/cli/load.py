"""Reading job files and batchns.toml from disk, for every command that takes them.

1. A path that is named never makes batchns wait: what is no regular file is refused, a FIFO included.
2. No more than one byte past the limit is read of anything.
3. Mistakes of all files are gathered, then those between the files.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

from attrs import field, frozen

from batchns.model.codec import check_dependencies, check_names, parse_jobs
from batchns.model.config import Config
from batchns.model.config_table import parse_config
from batchns.model.document import MAX_BYTES
from batchns.model.job import JobSpec
from batchns.model.problems import JobFileErrors, Problem

STDIN = "-"
CONFIG_NAME = "batchns.toml"
CONFIG_VARIABLE = "BATCHNS_CONFIG"
SYSTEM_CONFIG = "/etc/batchns/batchns.toml"


@frozen
class Loaded:
    """The jobs of every file that could be read, by the file's name as given, and what is wrong with the others."""

    files: Mapping[str, Sequence[JobSpec]] = field(factory=dict)
    problems: Sequence[Problem] = ()

    @property
    def jobs(self) -> list[JobSpec]:
        return [job for jobs in self.files.values() for job in jobs]


def load_jobs(paths: Iterable[str], config: Config) -> list[JobSpec]:
    """All jobs of the files, checked also against each other.

    Raises:
        JobFileErrors: all that is wrong with any of them.
    """
    loaded = read_files(paths, config)
    if loaded.problems:
        raise JobFileErrors(loaded.problems)
    return loaded.jobs


def read_files(paths: Iterable[str], config: Config) -> Loaded:
    """Files, folders (all *.toml in them but batchns.toml, by name) and "-" for standard input."""
    files: dict[str, list[JobSpec]] = {}
    problems: list[Problem] = []
    for name in expanded(paths, problems):
        try:
            jobs = _read_jobs(name, config)
        except JobFileErrors as errors:
            problems += errors.problems
        else:
            # Given twice is read twice, and its names are then there twice: a mistake that is worth a message.
            files.setdefault(name, []).extend(jobs)
    loaded = Loaded(files)
    for check in (check_names, check_dependencies):
        if not problems:
            try:
                check(loaded.jobs)
            except JobFileErrors as errors:
                problems += errors.problems
    return Loaded(files, problems)


def find_config(
    explicit: str | None,
    *,
    environ: Mapping[str, str] = os.environ,
    system: str = SYSTEM_CONFIG,
) -> Config:
    """The settings of `--config`, else of $BATCHNS_CONFIG, else of /etc/batchns/batchns.toml, else the defaults.

    Raises:
        JobFileErrors: the file named cannot be read, or something is wrong in it.
    """
    path = explicit or environ.get(CONFIG_VARIABLE) or (system if _is_there(system) else None)
    return parse_config(read_bounded(path), path) if path else Config()


def _is_there(path: str) -> bool:
    """False only where there is none: settings that may not be read must not turn into the defaults."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        pass
    return True


def read_bounded(path: str) -> bytes:
    """A file's bytes, at most one more than a file may have; "-" is standard input.

    Raises:
        JobFileErrors: it cannot be read, or is no regular file.
    """
    try:
        if path == STDIN:
            return sys.stdin.buffer.read(MAX_BYTES + 1)
        # O_NONBLOCK: opening a FIFO or a device that nobody serves returns at once.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
                raise _refusal(path, f"is {kind}", "give a file, or - to read standard input")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Whatever the reason, it is about a path that the user typed: said, not raised.
        raise _refusal(path, f"cannot be read: {os.strerror(error.errno or 0)}", _HINTS.get(type(error), "")) from None


_HINTS: Mapping[type[OSError], str] = {
    FileNotFoundError: "check the path",
    PermissionError: "ask its owner for read permission",
}


def _read_jobs(name: str, config: Config) -> list[JobSpec]:
    # Links are followed here, once: the working folder is mounted by a path without any.
    folder = os.getcwd() if name == STDIN else os.path.dirname(os.path.realpath(name))
    return parse_jobs(read_bounded(name), file=name, folder=folder, config=config)


def read_text(path: str) -> str:
    """As `read_bounded`, as text.

    Raises:
        JobFileErrors: also where it is not UTF-8.
    """
    try:
        return read_bounded(path).decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise JobFileErrors([Problem(path, line, "", "not UTF-8", "save it as UTF-8")]) from None


def expanded(paths: Iterable[str], problems: list[Problem]) -> Iterator[str]:
    """The files that `paths` mean: a folder is all *.toml in it but batchns.toml, by name; what is wrong with one joins
    `problems`.
    """
    for path in paths:
        try:
            names = _expand(path)
        except JobFileErrors as errors:
            problems += errors.problems
        else:
            yield from names


def _expand(path: str) -> list[str]:
    if path == STDIN or not os.path.isdir(path):
        return [path]
    try:
        entries = sorted(os.listdir(path))
    except OSError as error:
        raise _refusal(path, f"cannot be read: {os.strerror(error.errno or 0)}", _HINTS.get(type(error), "")) from None
    names = [entry for entry in entries if entry.endswith(".toml") and entry != CONFIG_NAME and entry[0] != "."]
    if not names:
        raise _refusal(path, "is a folder without *.toml files", "give a job file")
    return [os.path.join(path, name) for name in names]


def _refusal(path: str, what: str, hint: str) -> JobFileErrors:
    return JobFileErrors([Problem(path, 0, "", what, hint)])
