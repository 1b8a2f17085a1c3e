"""What a batch script carries for the node: JSON in its comment lines, with the imports of almost nothing."""

from __future__ import annotations

import binascii
import json
import zlib
from collections.abc import Mapping
from typing import Any

MARK = "#BATCHNS "  # begins the lines of a batch script that hold a job
_LINE = 4000
VERSION = 1  # of what is in them: a job may wait while batchns is replaced

# What scancel sends to a batch process; every other signal is for the command. SIGRTMIN is 34: signal(7).
FREEZE, THAW = 35, 36


def pack(content: Mapping[str, Any]) -> str:
    """JSON's own types as comment lines of a script."""
    packed = binascii.b2a_base64(
        zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 1), newline=False
    ).decode()
    return "".join(f"{MARK}{packed[at : at + _LINE]}\n" for at in range(0, len(packed), _LINE))


def unpack(script: str) -> dict[str, Any]:
    """The inverse of `pack`, of a whole script.

    Raises:
        ValueError: there is nothing of the kind in it.
    """
    packed = "".join(line.removeprefix(MARK) for line in script.splitlines() if line.startswith(MARK))
    try:
        content: dict[str, Any] = json.loads(zlib.decompress(binascii.a2b_base64(packed, strict_mode=True)))
    except zlib.error as error:
        raise ValueError(str(error)) from None
    return content
