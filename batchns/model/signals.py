"""Signals by name, as results and messages have them. signal(7)."""

from __future__ import annotations

import signal


def signal_name(number: int) -> str:
    """The name of signal `number`: "SIGTERM" of 15; real-time signals count from the first, "SIGRTMIN+1"."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number > signal.SIGRTMIN else f"SIG{number}"


def signal_number(name: str) -> int:
    """The inverse of `signal_name`."""
    base, _, offset = name.partition("+")
    if base in signal.Signals.__members__:
        return signal.Signals[base].value + int(offset or 0)
    return int(name.removeprefix("SIG"))
