"""Signals by name, as results and messages have them. signal(7)."""

from __future__ import annotations

import re
import signal

from batchns.errors import UserError
from batchns.units import quote

UNSTOPPABLE = frozenset({signal.SIGKILL, signal.SIGSTOP})  # no process can handle them


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


def parse_signal(text: str) -> int:
    """The number of a signal that a process can handle, from "USR1", "SIGUSR1" or "RTMIN+1".

    Raises:
        UserError: no such signal, a number instead of a name (they differ between machines), KILL or STOP.
    """
    hint = 'write its name: "USR1", "TERM", "RTMIN+1"'
    match = re.fullmatch(r"(?:SIG)?([A-Z][A-Z0-9]{1,9})(?:\+([0-9]{1,2}))?", text)
    if match is None or f"SIG{match[1]}" not in signal.Signals.__members__:
        known = _near(text)
        raise UserError(f"{quote(text)} is no signal", f'did you mean "{known}"?' if known else hint)
    number = signal.Signals[f"SIG{match[1]}"].value
    if match[2]:
        if number != signal.SIGRTMIN or number + int(match[2]) > signal.SIGRTMAX:
            raise UserError(f"{quote(text)} is no signal", hint)
        number += int(match[2])
    if number in UNSTOPPABLE:
        raise UserError(f"{quote(text)} cannot be handled by any process", 'write for example "USR1" or "TERM"')
    return number


def _near(text: str) -> str:
    """The signal that a number or a name in lower case means, or ""."""
    if re.fullmatch("[0-9]{1,2}", text) and int(text) in signal.Signals.__members__.values():
        return signal.Signals(int(text)).name.removeprefix("SIG")
    name = "SIG" + text.upper().removeprefix("SIG")
    return name.removeprefix("SIG") if name in signal.Signals.__members__ else ""
