"""PromQL in words: which series an expression reads, and which labels it names. Nothing is evaluated."""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import field, frozen

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<range>\[[^\]]*\])
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?:ms|[smhdwy])?)
    |(?P<word>[A-Za-z_:][A-Za-z0-9_:]*)
    |(?P<sign>=~|!~|!=|==|<=|>=|[-+*/%^=<>(){},@])""",
    re.VERBOSE,
)
_GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_OPERATORS = {"and", "or", "unless", "atan2", "bool", "offset", "inf", "nan"}


@frozen
class Selector:
    """`matchers`: (label, operator, value)."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()


@frozen
class Read:
    """`labels`: of by, on and the like."""

    selectors: list[Selector] = field(factory=list)
    labels: set[str] = field(factory=set)


def tokens(text: str) -> Iterator[tuple[str, str]]:
    """Kind and text. Raises ValueError at what is none."""
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found:
            raise ValueError(f"not PromQL from here on: {text[at:]!r}")
        at = found.end()
        if found.lastgroup != "space":
            yield str(found.lastgroup), found[0]


def read(text: str) -> Read:
    found, words = Read(), [*tokens(text), ("end", "")]
    at = 0
    while at < len(words):
        kind, word = words[at]
        at += 1
        if kind != "word" or word.lower() in _OPERATORS:
            continue
        after = words[at][1]
        if word in _GROUPING:
            if after == "(":
                names, at = _list(words, at, ")")
                found.labels.update(names)
        elif after == "{":
            matchers, at = _matchers(words, at)
            found.selectors.append(Selector(word, matchers))
        elif after != "(" and after not in _GROUPING:  # else a function, or an aggregation
            found.selectors.append(Selector(word))
    return found


def _list(words: list[tuple[str, str]], at: int, end: str) -> tuple[list[str], int]:
    """What is named between the sign at `at` and `end`, and where it goes on."""
    names = []
    while words[at][1] != end:
        if words[at][0] == "word":
            names.append(words[at][1])
        at += 1
    return names, at + 1


def _matchers(words: list[tuple[str, str]], at: int) -> tuple[tuple[tuple[str, str, str], ...], int]:
    found = []
    while words[at][1] != "}":
        if words[at][0] == "word":
            found.append((words[at][1], words[at + 1][1], words[at + 2][1][1:-1]))
            at += 2
        at += 1
    return tuple(found), at + 1
