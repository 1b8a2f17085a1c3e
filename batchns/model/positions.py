"""Where the keys and values of a TOML document are: a light scan beside the real parser.

1. `scan` never fails, whatever the bytes: it runs before the parser, to refuse nesting that would exhaust the stack.
2. `positions` trusts its input: it runs on documents that the parser has accepted, whose nesting is bounded.
3. Lines count from 1 and are those of the file, whatever line endings it has.

The parser gives values without places, and tomlkit keeps text but no line numbers; hence this.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

import tomli
from attrs import field, frozen

from batchns.model.problems import Path

# Strings first, the triple-quoted ones before the plain: an unclosed one runs to the end of its line or of the text.
# Three quotes may be preceded by one or two more that belong to the string.
_TOKEN = re.compile(
    r'''
      (?P<string> """(?:[^"\\]|\\.|"(?!""))*(?:"{3,5}|\Z)
                | \'\'\'(?:[^']|'(?!''))*(?:'{3,5}|\Z)
                | "(?:[^"\\\n]|\\[^\n])*"?
                | '[^'\n]*'? )
    | (?P<comment> \#[^\n]* )
    | (?P<space> [ \t\r]+ )
    | (?P<mark> [\n\[\]{}=,.] )
    | (?P<bare> [^\s\[\]{}=,."'\#]+ )
    | (?P<other> . )
    ''',
    re.VERBOSE | re.DOTALL,
)


@frozen
class Token:
    kind: str  # "string", "bare", "other", or the mark itself
    text: str
    line: int


@frozen
class Places:
    """Lines by path. `line(path)` is that of the path, or of the nearest table or list around it."""

    lines: dict[Path, int] = field(factory=dict)

    def line(self, path: Path) -> int:
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return 1


def scan(text: str) -> list[Token]:
    """The tokens of a TOML document without blanks and comments. Never raises."""
    ends = list(accumulate(len(line) + 1 for line in text.split("\n")))
    tokens = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind not in {"comment", "space"}:
            line = bisect_right(ends, match.start()) + 1
            tokens.append(Token(match[0] if kind == "mark" else kind, match[0], line))
    return tokens


def too_deep(tokens: list[Token], limit: int) -> int:
    """The line where brackets nest, or the parts of a dotted key chain, deeper than `limit`; 0: nowhere."""
    depth = dots = 0
    for token in tokens:
        match token.kind:
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth = max(0, depth - 1)
            case ".":
                dots += 1
        if token.kind not in {".", "bare", "string"}:
            dots = 0
        if depth > limit or dots > limit:
            return token.line
    return 0


def positions(tokens: list[Token]) -> Places:
    """The line of every key, table and list element of a valid document."""
    return _Walk(tokens).document()


class _Walk:
    """Recursive descent over the tokens of a valid document; depth is bounded by `too_deep`."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = [*tokens, Token("end", "", tokens[-1].line if tokens else 1)]
        self._next = 0
        self._places = Places()
        self._tables: dict[Path, int] = {}  # how many [[...]] of this path there are so far

    def document(self) -> Places:
        table: Path = ()
        while self._peek().kind != "end":
            token = self._peek()
            if token.kind == "\n":
                self._take()
            elif token.kind == "[":
                table = self._header()
            else:
                self._pair(table)
        return self._places

    def _header(self) -> Path:
        line = self._take().line
        listed = self._peek().kind == "["
        if listed:
            self._take()
        path: Path = ()
        parts = list(self._key())
        for number, part in enumerate(parts, 1):
            path = (*path, part)
            self._note(path, line)
            if listed and number == len(parts):
                self._tables[path] = self._tables.get(path, 0) + 1
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
                self._note(path, line)
        for _ in range(1 + listed):
            self._take()
        return path

    def _pair(self, table: Path) -> None:
        path, line = table, self._peek().line
        for part in self._key():
            path = (*path, part)
            self._note(path, line)
        self._take()  # =
        self._value(path)

    def _value(self, path: Path) -> None:
        match self._take().kind:
            case "[":
                self._elements(path)
            case "{":
                self._inline_table(path)
            case _:  # one string, or the pieces of a number or date: 1.5, 10:00 is bare, -1e-3 too
                while self._peek().kind in {"bare", ".", "other"}:
                    self._take()

    def _elements(self, path: Path) -> None:
        index = 0
        while True:
            self._skip_lines()
            if self._peek().kind == "]":
                break
            self._note((*path, index), self._peek().line)
            self._value((*path, index))
            index += 1
            self._skip_lines()
            if self._peek().kind != ",":
                break
            self._take()
        self._take()

    def _inline_table(self, path: Path) -> None:
        while True:
            self._skip_lines()
            if self._peek().kind == "}":
                break
            self._pair(path)
            self._skip_lines()
            if self._peek().kind != ",":
                break
            self._take()
        self._take()

    def _key(self) -> Iterator[str]:
        yield _key_part(self._take())
        while self._peek().kind == ".":
            self._take()
            yield _key_part(self._take())

    def _note(self, path: Path, line: int) -> None:
        self._places.lines.setdefault(path, line)

    def _skip_lines(self) -> None:
        while self._peek().kind == "\n":
            self._take()

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token


def _key_part(token: Token) -> str:
    """A key's text; quoted ones are unescaped by the parser itself."""
    if token.kind != "string":
        return token.text
    key: str = tomli.loads(f"key = {token.text}")["key"]
    return key
