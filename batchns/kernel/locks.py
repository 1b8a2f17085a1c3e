"""Locks on files, waited for within a bound: whoever holds one may have been stopped. flock(2)."""

from __future__ import annotations

import fcntl
import time

_PAUSE = 0.01


def lock_within(descriptor: int, operation: int, seconds: float) -> bool:
    """Take the lock (`fcntl.LOCK_SH` or `LOCK_EX`); False when others have kept it for `seconds`."""
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(_PAUSE)
        else:
            return True
