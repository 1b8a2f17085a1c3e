"""What is wrong with a file, gathered: all of it at once, each with its place.

1. A check of one value raises `UserError`; a table or list collects its own (`Findings`) and raises `Refusals`.
2. A path is relative to where it is raised, and grows on its way up; only the top knows file and line.
3. Text from the input reaches a message through `quote`, `key_text` or `describe` only: never a raw control character.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import TracebackType

from attrs import frozen

from batchns.errors import UserError
from batchns.units import printable, quote

Path = tuple[str | int, ...]
Finding = tuple[Path, UserError]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Refusals(Exception):
    """Everything wrong inside one table or list. Never leaves `batchns.model`."""

    def __init__(self, found: Iterable[Finding]) -> None:
        super().__init__()
        self.found = tuple(found)


class _At:
    """A class: every key of every job is read in one, and a generator would take as long as the reading."""

    __slots__ = ("_found", "_path")

    def __init__(self, found: list[Finding], path: Path) -> None:
        self._found, self._path = found, path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, UserError):
            self._found.append((self._path, error))
        elif isinstance(error, Refusals):
            self._found += [((*self._path, *below), one) for below, one in error.found]
        else:
            return False
        return True


class Findings:
    """Collects what is wrong below one table or list, so that one bad key does not hide the next."""

    def __init__(self) -> None:
        self._found: list[Finding] = []

    def at(self, *path: str | int) -> AbstractContextManager[None]:
        """What the body raises is wrong at `path`."""
        return _At(self._found, path)

    def add(self, found: Iterable[Finding]) -> None:
        self._found += found

    def close(self) -> None:
        """
        Raises:
            Refusals: something was found.
        """
        if self._found:
            raise Refusals(self._found)


@frozen
class Problem:
    """One mistake: `file:line: path: what is wrong - what to write`. `line` 0 and `path` "": none to name."""

    file: str
    line: int
    path: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        place = [printable(self.file), str(self.line) if self.line else ""]
        head = ":".join(part for part in place if part)
        text = f"{self.what} - {self.hint}" if self.hint else self.what
        return ": ".join(part for part in (head, self.path, text) if part)


class JobFileErrors(UserError):
    """All problems of one file, or of one run's files; `str()` is one line for each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def path_text(path: Path) -> str:
    """`("job", 2, "resources", "memory")` as "job[2].resources.memory"."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{key_text(part)}" if text else key_text(part)
    return text


def key_text(key: str) -> str:
    """A key as TOML would have it: bare where it can be, else in quotes."""
    return key if _BARE_KEY.fullmatch(key) else quote(key)


def describe(value: object) -> str:
    """A value of a TOML file in a few words, for "must be ..., not ..."."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, int):
        # Past 4300 digits str() of an int raises ValueError, and a hexadecimal literal gets there.
        return str(value) if abs(value) < 1 << 64 else "a number of more than 64 bits"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, (list, tuple)) else "a date or time"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The nearest of `known`, or "": for typing mistakes, not for other words."""
    if len(word) > 40:
        return ""  # difflib takes quadratic time, and nothing of ours is that long
    candidates = list(known)
    near = difflib.get_close_matches(word.lower().replace("-", "_"), candidates, n=1, cutoff=0.6)
    return near[0] if near else ""
