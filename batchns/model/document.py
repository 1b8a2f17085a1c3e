"""From the bytes of a TOML file to its values and places: every way in which that can fail is a message.

1. What could exhaust time or stack (size, nesting) is checked before the parser sees it.
2. The parser's own message is kept, with the line, and completed with what to write.
3. No I/O: the caller has read the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import tomli
from attrs import frozen

from batchns.model.positions import Places, Token, positions, scan, too_deep
from batchns.model.problems import JobFileErrors, Problem, Refusals, path_text
from batchns.units import printable

MAX_BYTES = 64 << 10
MAX_DEPTH = 12  # of brackets, and of the parts of a dotted key; the job file needs four

_T = TypeVar("_T")

_AT = re.compile(r" \(at (?:line ([0-9]+), column ([0-9]+)|end of document)\)$")
_HINTS = (
    (r"^Cannot overwrite a value", "the same key is written twice", "keep one of the two"),
    (r"^Cannot declare .* twice", "the same [table] is written twice", "put all its keys below one [table] line"),
    (r"^Cannot mutate immutable", "a table is changed after it was complete", "put all its keys in one place"),
    (r"^Cannot redefine namespace", "the same table is written twice", "put all its keys below one [table] line"),
    (r"^Duplicate inline table key", "the same key is written twice", "keep one of the two"),
    (r"^Invalid value", "this is no TOML value", 'put text in quotes: key = "value"'),
    (r"^Invalid statement", "this is no TOML statement", 'write key = "value", [table] or # comment'),
    (r"^Expected '=' after a key", "a key must be followed by =", 'write key = "value"'),
    (r"^Unclosed array", "a list is not closed", "end it with ]"),
    (r"^Unclosed inline table", "an inline table is not closed", "end it with }"),
    (r"^(Unterminated string|Expected \"['\"]+\")", "a string is not closed", "end it with the quotes it begins with"),
    (r"^Unescaped '\\' in a string", "a backslash that begins no escape", "write \\\\, or use '...' quotes"),
    (
        r"^Illegal character '\\n'",
        "a string is not closed on its line",
        "end it with its quotes; '''...''' holds several lines",
    ),
    (r"^(Found invalid|Illegal) character", "a control character", "write it as an escape: \\n, \\t or \\u001b"),
    (r"^Expected newline or end of document", "something follows the value", "write one key = value per line"),
    (r"^Invalid date or datetime", "this is no date", 'put text in quotes: key = "value"'),
)


@frozen
class Document:
    file: str
    values: dict[str, Any]
    places: Places

    def read(self, reader: Callable[[dict[str, Any]], _T]) -> _T:
        """What `reader` makes of the values.

        Raises:
            JobFileErrors: the reader's refusals, in the order of the file.
        """
        try:
            return reader(self.values)
        except Refusals as refusals:
            problems = [
                Problem(self.file, self.places.line(path), path_text(path), error.what, error.hint)
                for path, error in refusals.found
            ]
        raise JobFileErrors(sorted(problems, key=lambda problem: problem.line))


def parse_document(data: bytes, file: str) -> Document:
    """The values of a TOML file and where they are.

    Raises:
        JobFileErrors: larger than 64 KiB, not UTF-8, nested too deeply, or not TOML.
    """

    def refuse(line: int, what: str, hint: str) -> JobFileErrors:
        return JobFileErrors([Problem(file, line, "", what, hint)])

    if len(data) > MAX_BYTES:
        raise refuse(0, "more than 64 KiB", "split it into several files")
    if data.startswith(b"\xef\xbb\xbf"):
        raise refuse(1, "begins with a byte order mark", "save it as plain UTF-8")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise refuse(line, f"byte 0x{data[error.start]:02x} is not UTF-8", "save the file as UTF-8") from None
    tokens = scan(text)
    if line := too_deep(tokens, MAX_DEPTH):
        raise refuse(line, "nested too deeply", f"nothing here is deeper than {MAX_DEPTH} levels")
    try:
        values = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        line, what, hint = _syntax(str(error), _last_line(tokens))
        raise refuse(line, what, hint) from None
    except ValueError:  # a decimal number beyond CPython's limit of 4300 digits, the one case without a place
        raise refuse(_longest_line(tokens), "a number with too many digits", "TOML's numbers have 64 bits") from None
    return Document(file, values, positions(tokens))


def _syntax(message: str, last_line: int) -> tuple[int, str, str]:
    """Line, what is wrong and what to write, from the parser's message."""
    line, column = last_line, ""
    if at := _AT.search(message):
        message = message[: at.start()]
        if at[1]:
            line, column = int(at[1]), f"column {at[2]}: "
        else:
            column = "end of file: "
    for pattern, what, hint in _HINTS:
        if re.search(pattern, message):
            return line, column + what, hint
    return line, column + "not TOML: " + printable(message), "see https://toml.io"


def _last_line(tokens: list[Token]) -> int:
    return next((token.line for token in reversed(tokens) if token.kind != "\n"), 1)


def _longest_line(tokens: list[Token]) -> int:
    longest = max((token for token in tokens if token.kind == "bare"), key=lambda token: len(token.text), default=None)
    return longest.line if longest else 0
