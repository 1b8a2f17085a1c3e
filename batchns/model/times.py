"""Moments, and signals at a time: from the text of a job file to seconds and numbers.

1. No clock is read: what counts from submission stays a duration (`After`) until somebody knows when that was.
2. A moment without an offset is one of this machine's time zone, as the person who wrote it means it.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from attrs import frozen

from batchns.errors import UserError
from batchns.model.job import WarnSignal
from batchns.model.kinds import Kind
from batchns.model.problems import describe
from batchns.model.signals import parse_signal, signal_name
from batchns.units import parse_duration, quote

MOMENT_HINT = 'write for example "2026-12-01T08:00", or "+2h" after it was submitted'
FIRST_YEAR, LAST_YEAR = 1971, 2199  # in every time zone a positive number of seconds, and no typing mistake

_MOMENT = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})?"
_DURATION = r"\+?([0-9]+(\.[0-9]+)? ?(d|h|m|s|ms) ?)+"


@frozen
class After:
    """So many seconds after the job was submitted."""

    seconds: float


Moment = float | After  # seconds since the epoch, or after the submission


def moment() -> Kind[Moment]:
    """A moment as TOML's own date and time, as the text of one, or as a duration from the submission."""

    def read(value: Any) -> Moment:
        if isinstance(value, datetime):
            return _epoch(value, str(value))
        if not isinstance(value, str):
            what = "a day without a time" if hasattr(value, "year") else describe(value)
            raise UserError(f"must be a moment, not {what}", MOMENT_HINT)
        return parse_moment(value)

    return Kind(
        read, {"type": "string", "pattern": f"^({_MOMENT}|{_DURATION})$", "examples": ["2026-12-01T08:00", "+2h"]}
    )


def parse_moment(text: str) -> Moment:
    """From "2026-12-01T08:00", with seconds, "Z" or an offset where they are wanted; or from "+2h" or "2h".

    Raises:
        UserError: neither, no such day or time, or a year that nobody means.
    """
    if re.fullmatch(_MOMENT, text):
        try:
            when = datetime.fromisoformat(text)
        except ValueError as error:
            raise UserError(f"{quote(text)} does not exist: {error}", MOMENT_HINT) from None
        return _epoch(when, text)
    if re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise UserError(f"{quote(text)} names a day without a time", f'write "{text}T08:00"')
    if re.fullmatch("[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?", text):
        raise UserError(
            f"{quote(text)} names a time without a day", f'write "2026-12-01T{text.zfill(5)}", with the day'
        )
    if not re.match(r"\+?[0-9]", text):
        raise UserError(f"{quote(text)} is no moment", MOMENT_HINT)
    seconds = parse_duration(text.removeprefix("+"))
    if not seconds:
        raise UserError(f"{quote(text)} is too small", 'write at least "1ms", or remove it')
    return After(seconds)


def _epoch(when: datetime, text: str) -> float:
    if not FIRST_YEAR <= when.year <= LAST_YEAR:
        raise UserError(f"{quote(text)} is out of range", f"write a year from {FIRST_YEAR} to {LAST_YEAR}")
    return when.timestamp()


WARN_PATTERN = r"^(SIG)?[A-Z][A-Z0-9]*(\+[0-9]+)?@([0-9]+(\.[0-9]+)? ?(d|h|m|s|ms) ?)+$"


def parse_warn_signal(text: str) -> WarnSignal:
    """From "USR1@60s": the signal, and how long before the time limit.

    Raises:
        UserError: no such signal, one that no process can handle, or no time.
    """
    name, _, time = text.partition("@")
    number = parse_signal(name)
    short = signal_name(number).removeprefix("SIG")
    if not time:
        raise UserError(f"{quote(text)} does not say how long before the time limit", f'write "{short}@60s"')
    if re.fullmatch("[0-9]{1,9}", time):
        raise UserError(f"{quote(text)} has no unit", f'write "{short}@{time}s" or "{short}@{time}m"')
    before = parse_duration(time)
    if not before:
        raise UserError(f"{quote(text)} is not before the time limit", f'write "{short}@60s"')
    return WarnSignal(number, before)
