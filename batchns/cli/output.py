"""How commands print: JSON for programs, lines for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from batchns.wire.codec import encode


def print_json(values: Iterable[object]) -> None:
    """Each on a line, keys as the wire has them, plain ASCII."""
    out = sys.stdout
    for value in values:
        # The one control character that JSON lets through.
        out.write(encode(value).decode("ascii").replace("\x7f", "\\u007f") + "\n")


def print_lines(lines: Iterable[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
