"""Lists on a terminal or in a pipe without rich: ten thousand rows within a blink, and a start that costs nothing.

1. Text from outside passes through `clean` before it meets a terminal.
2. A list fits the width it is given: columns that may shrink do, the widest first; where that is not enough, the last
   one is left out, then those that can be spared.
3. Colour repeats what the words say already: only on a terminal, and never with NO_COLOR.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from attrs import frozen

from batchns.units import printable

PIPE_WIDTH = 80  # columns where there is no terminal to ask
GAP = "  "
_RESET = "\x1b[0m"
BOLD = "\x1b[1m"
DIM = "\x1b[2m"

_YELLOW, _RED, _CYAN = "\x1b[33m", "\x1b[31m", "\x1b[36m"
STATE_COLOURS: Mapping[str, str] = {
    "PENDING": DIM,
    "STARTING": _CYAN,
    "RUNNING": _CYAN,
    "SUSPENDING": _YELLOW,
    "SUSPENDED": _YELLOW,
    "COMPLETING": _CYAN,
    "COMPLETED": "\x1b[32m",
    "FAILED": _RED,
    "CANCELLED": _YELLOW,
    "TIMEOUT": _RED,
    "OUT_OF_MEMORY": _RED,
    "NODE_FAIL": _RED,
    "PREEMPTED": _YELLOW,
    "LOST": _RED,
}


@frozen(kw_only=True)
class Column:
    """`least`: the width down to which it may shrink; None: it does not. `spare`: it may be left out. `colours`: by a
    cell's text.
    """

    title: str
    cells: Sequence[str]
    right: bool = False
    least: int | None = None
    spare: bool = False
    colours: Mapping[str, str] | None = None


def clean(text: str) -> str:
    """`text` as a terminal may have it, on one line."""
    return text if text.isprintable() else printable(text)


def width_of(text: str) -> int:
    """Terminal columns; wide characters count two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(_width(character) for character in text)


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Me", "Mn", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, width: int) -> str:
    """`text` in at most `width` columns, the cut marked by an ellipsis."""
    if width_of(text) <= width:
        return text
    while text and width_of(text) > width - 1:
        text = text[:-1]
    return f"{text}…" if width > 0 else ""


def screen_width(stream: TextIO, environ: Mapping[str, str] = os.environ) -> int:
    """Of the terminal; what COLUMNS says, or 80, where there is none."""
    columns = environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or PIPE_WIDTH
    except (OSError, ValueError):
        return PIPE_WIDTH


def wants_colour(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def paint(text: str, colour: str, *, on: bool) -> str:
    return f"{colour}{text}{_RESET}" if on and colour and text else text


def listing(columns: Sequence[Column], width: int, *, colour: bool = False) -> list[str]:
    """The lines: titles first. Where there is no room for all columns, the last one is left out, if it may shrink, then
    those that can be spared, the last of them first.
    """
    columns = list(columns)
    natural = [_natural(column) for column in columns]
    room = width - len(GAP) * (len(columns) - 1)
    last = columns[-1]
    if last.least is not None and not any(last.cells):
        columns.pop()
        natural.pop()
        room += len(GAP)
    widths = _shrunk(columns, natural, room)
    if sum(widths) > room and (leaving := _left_out(columns)):
        return listing([*columns[:leaving], *columns[leaving + 1 :]], width, colour=colour)
    parts = [_padded(column, size, colour) for column, size in zip(columns, widths, strict=True)]
    titles = [
        column.title.rjust(size) if column.right else column.title.ljust(size)
        for column, size in zip(columns, widths, strict=True)
    ]
    head = paint(GAP.join(titles).rstrip(), BOLD, on=colour)
    return [head, *(GAP.join(cells).rstrip() for cells in zip(*parts, strict=True))]


def _left_out(columns: Sequence[Column]) -> int:
    """Which one gives way to the others; 0: none."""
    if columns[-1].least is not None:
        return len(columns) - 1
    return max((i for i, column in enumerate(columns) if column.spare), default=0)


def _natural(column: Column) -> int:
    longest = max(map(len, column.cells), default=0)
    if longest and not "".join(column.cells).isascii():
        longest = max(map(width_of, column.cells))
    return max(len(column.title), longest)


def _shrunk(columns: Sequence[Column], natural: Sequence[int], room: int) -> list[int]:
    """Widths that fit into `room`: what may shrink gives way, the widest first, by one column at a time."""
    widths = list(natural)
    while sum(widths) > room:
        able = [i for i, column in enumerate(columns) if column.least is not None and widths[i] > column.least]
        if not able:
            break
        widths[max(able, key=widths.__getitem__)] -= 1
    return widths


def _padded(column: Column, width: int, colour: bool) -> list[str]:
    cells = column.cells
    if not "".join(cells).isascii():
        cells = [fit(cell, width) for cell in cells]
        cells = [" " * (width - width_of(c)) + c if column.right else c + " " * (width - width_of(c)) for c in cells]
    else:
        if column.least is not None:
            cells = [cell if len(cell) <= width else fit(cell, width) for cell in cells]
        cells = [cell.rjust(width) for cell in cells] if column.right else [cell.ljust(width) for cell in cells]
    if colour and column.colours:
        known = {text: column.colours.get(text.strip(), "") for text in set(cells)}
        cells = [paint(cell, known[cell], on=True) for cell in cells]
    return list(cells)


def wrap(text: str, width: int, indent: str = "") -> list[str]:
    """Lines of at most `width` columns, broken between words; a word that is longer stands alone and whole."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        grown = f"{line} {word}" if line else indent + word
        if line and width_of(grown) > width:
            lines.append(line)
            grown = indent + word
        line = grown
    return [*lines, line] if line else lines


def hanging(text: str, width: int, indent: int) -> list[str]:
    """As `wrap`, the first line further left than the others by so many columns."""
    lines = wrap(text, width - indent)
    return [*lines[:1], *(" " * indent + line for line in lines[1:])]


def count(number: int, one: str) -> str:
    """As "1 job", "3 jobs", "10,200 jobs"."""
    return f"{number:,} {one if number == 1 else one + 's'}"


def joined(parts: Iterable[str]) -> str:
    return ", ".join(part for part in parts if part)
