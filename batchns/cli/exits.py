"""Exit codes, as docs/commands.md and every help has them. `run -- COMMAND` and `exec` have the command's own, too."""

from __future__ import annotations

import errno
import signal
from collections.abc import Mapping
from typing import Final

NOT_DONE: Final = 1  # a job did not complete, or something was not done
WRONG_INPUT: Final = 2
HOST: Final = 125
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
SIGNAL: Final = 128  # and the signal's number
INTERRUPTED: Final = SIGNAL + signal.SIGINT

# What becomes of output on a full disk, above a quota or a largest size, on a terminal that has gone.
UNWRITABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

_OF_REFUSALS: Mapping[str, int] = {
    "forbidden": NOT_DONE,
    "conflict": NOT_DONE,
    "invalid": WRONG_INPUT,
    "not_found": WRONG_INPUT,
    "too_large": WRONG_INPUT,
    "command_not_executable": NOT_EXECUTABLE,
    "command_not_found": NOT_FOUND,
}


def of_refusal(code: str) -> int:
    """Of `code` in the daemon's refusal."""
    return _OF_REFUSALS.get(code, HOST)
