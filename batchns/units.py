"""Sizes, rates and durations: from the text a user writes, and to the text a user reads.

1. A number without a unit is refused: 512 may be meant as bytes or megabytes, and guessing loses a job.
2. Parsing is exact (fractions, not floats) and bounded: a value that fits no kernel file is refused here.
3. What `format_*` prints is short, rounded for tables, and can be typed back in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

from batchns.errors import UserError

SIZE_UNITS: Mapping[str, int] = {
    "B": 1,
    **{f"{letter}{suffix}": 1 << 10 * n for n, letter in enumerate("KMGT", 1) for suffix in ("", "iB")},
    **{f"{letter}B": 1000**n for n, letter in enumerate("kMGT", 1)},
}
RATE_UNITS: Mapping[str, int] = {"bit": 1, **{f"{letter}bit": 1000**n for n, letter in enumerate("kmgt", 1)}}
DURATION_UNITS: Mapping[str, Fraction] = {
    "d": Fraction(86400),
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
}

LARGEST = (1 << 63) - 1  # what a signed 64-bit field holds: cgroup files, netlink attributes, SQLite
LONGEST = 100 * 365 * 86400  # seconds; a longer time limit is a mistake

# Ten digits after the point are more than any unit needs; the bound keeps a 64 KiB number from being computed with.
_NUMBER = r"([0-9]{1,19}(?:\.[0-9]{1,10})?)"
_QUANTITY = re.compile(rf"{_NUMBER} ?([A-Za-z/]{{0,12}})")
_DURATION_PART = re.compile(rf"{_NUMBER} ?([A-Za-z]{{1,12}}) ?")
_CLOCK = re.compile(r"(?:([0-9]{1,4})-)?([0-9]{1,4}):([0-9]{2})(?::([0-9]{2}))?")

_DURATION_WORDS = {
    **dict.fromkeys(("day", "days", "D"), "d"),
    **dict.fromkeys(("hour", "hours", "hr", "hrs", "H"), "h"),
    **dict.fromkeys(("min", "mins", "minute", "minutes", "M"), "m"),
    **dict.fromkeys(("sec", "secs", "second", "seconds", "S"), "s"),
    **dict.fromkeys(("msec", "millis", "milliseconds", "MS"), "ms"),
}


def parse_size(text: str) -> int:
    """Bytes, from "512MiB", "1.5G", "4kB": K, M, G, T and KiB to TiB are powers of 1024, kB to TB of 1000.

    A part of a byte is dropped.

    Raises:
        UserError: no unit, another unit, no number, or more than 2**63 - 1 bytes.
    """
    number, unit = _split(text, "a size", 'write for example "512MiB" or "4GiB"')
    if not unit:
        raise UserError(f"{quote(text)} has no unit", f'write "{number}MiB" or "{number}GiB"')
    if unit not in SIZE_UNITS:
        raise UserError(f"{quote(text)} has an unknown unit", _size_hint(number, unit))
    return _bounded(text, Fraction(number) * SIZE_UNITS[unit])


def parse_rate(text: str) -> int:
    """Bits per second, from "50mbit" or "1.5gbit": tc's units, powers of 1000.

    "bps" is refused: tc reads it as bytes, everyone else as bits.

    Raises:
        UserError: no unit, another unit, no number, or more than 2**63 - 1 bits per second.
    """
    number, unit = _split(text, "a rate", 'write for example "50mbit" or "1gbit"')
    if not unit:
        raise UserError(f"{quote(text)} has no unit", f'write "{number}mbit" or "{number}gbit"')
    if unit not in RATE_UNITS:
        raise UserError(f"{quote(text)} has an unknown unit", _rate_hint(number, unit))
    return _bounded(text, Fraction(number) * RATE_UNITS[unit])


def parse_duration(text: str) -> float:
    """Seconds, from "2h30m", "90s", "1d", "500ms": larger units first, each at most once.

    Raises:
        UserError: no unit, another unit or order, no number, or more than 100 years.
    """
    if clock := _CLOCK.fullmatch(text):
        raise UserError(f"{quote(text)} can be read in two ways", _clock_hint(clock))
    if re.fullmatch(_NUMBER, text):
        raise UserError(f"{quote(text)} has no unit", f'write "{text}s", "{text}m" or "{text}h"')
    total, position, last = Fraction(0), 0, Fraction(LONGEST)
    while position < len(text):
        part = _DURATION_PART.match(text, position)
        if part is None:
            raise UserError(f"{quote(text)} is not a duration", 'write for example "90s", "2h30m" or "500ms"')
        number, unit = part.groups()
        if unit not in DURATION_UNITS:
            word = _DURATION_WORDS.get(unit) or _DURATION_WORDS.get(unit.lower())
            hint = f'write "{number}{word}"' if word else "the units are d, h, m, s and ms"
            raise UserError(f"{quote(text)} has an unknown unit", hint)
        if DURATION_UNITS[unit] >= last:
            raise UserError(f"{quote(text)} is out of order", 'write larger units first, each once: "1d2h30m"')
        last = DURATION_UNITS[unit]
        total += Fraction(number) * last
        position = part.end()
    if not text or text.endswith(" "):
        raise UserError(f"{quote(text)} is not a duration", 'write for example "90s", "2h30m" or "500ms"')
    if total > LONGEST:
        raise UserError(f"{quote(text)} is more than 100 years", "leave the setting away where there is no limit")
    return float(total)


def format_size(value: int) -> str:
    """Three digits or so and a binary unit: "4GiB", "1.46GiB", "1023B"."""
    return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def format_rate(value: int) -> str:
    """Three digits or so and tc's unit: "50mbit", "1.5gbit"."""
    return _scaled(value, 1000, tuple(RATE_UNITS))


def format_duration(seconds: float) -> str:
    """The two largest units that matter: "420ms", "4.2s", "1m30s", "2h30m", "1d2h"."""
    if round(seconds * 1000) < 1000:
        return f"{round(seconds * 1000)}ms" if seconds else "0s"
    if round(seconds, 1) < 10:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    for larger, smaller in (("d", "h"), ("h", "m"), ("m", "s")):
        per = int(DURATION_UNITS[larger] / DURATION_UNITS[smaller])
        count = round(seconds / int(DURATION_UNITS[smaller]))
        if count >= per:
            head, rest = divmod(count, per)
            return f"{head}{larger}{rest}{smaller}" if rest else f"{head}{larger}"
    return f"{round(seconds)}s"


def quote(text: str) -> str:
    """`text` in quotes, safe for a terminal: shortened, and every character that does not print escaped."""
    shown = text if len(text) <= 60 else text[:57] + "..."
    return '"' + printable(shown).replace('"', '\\"') + '"'


def printable(text: str) -> str:
    """`text` with control, format, surrogate and line-breaking characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _split(text: str, what: str, hint: str) -> tuple[str, str]:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise UserError(f"{quote(text)} is not {what}", hint)
    return match[1], match[2]


def _bounded(text: str, value: Fraction) -> int:
    if value > LARGEST:
        raise UserError(f"{quote(text)} is too large", "the largest number is 2^63 - 1")
    return int(value)


def _size_hint(number: str, unit: str) -> str:
    folded = {known.lower(): known for known in SIZE_UNITS}
    if unit == "KB":
        return f'write "{number}kB" (1000 bytes each) or "{number}KiB" (1024)'
    if unit == "b" or unit.lower() not in folded:
        return "the units are B, KiB, MiB, GiB, TiB (1024) and kB, MB, GB, TB (1000)"
    return f'write "{number}{folded[unit.lower()]}"'


def _rate_hint(number: str, unit: str) -> str:
    """Bits where bits are meant, eight times as many where bytes are; both where nobody can know."""
    prefix = unit[:1].lower() if unit[:1].lower() in {"k", "m", "g", "t"} else ""
    rest = unit[len(prefix) :]
    octets = f"{float(Fraction(number) * 8):.12g}{prefix}bit"
    if rest in {"B/s", "Byte/s", "bytes/s", "iB/s", "B"}:
        return f'rates are in bits per second: write "{octets}"'
    if rest.lower() == "bps":
        return f'write "{number}{prefix}bit" for bits per second, "{octets}" where bytes are meant'
    if rest.lower() in {"bit", "bits", "bit/s", "bits/s", "b/s", "b", ""}:
        return f'write "{number}{prefix}bit"'
    return "the units are bit, kbit, mbit, gbit and tbit"


def _clock_hint(clock: re.Match[str]) -> str:
    """How to write what Slurm would make of D-H:M, D-H:M:S, H:M:S or M:S."""
    days, first, second, third = clock.groups()
    numbers = (first, second) if third is None and days is None else (first, second, third or "0")
    names = ("m", "s") if len(numbers) == 2 else ("h", "m", "s")
    parts = [(days or "0", "d"), *zip(numbers, names, strict=True)]
    written = "".join(f"{int(number)}{unit}" for number, unit in parts if int(number))
    return f'write "{written or "0s"}"'


def _scaled(value: int, step: int, units: tuple[str, ...]) -> str:
    scaled = float(value)
    for unit in units:
        digits = 0 if scaled >= 100 else 1 if scaled >= 10 else 2
        rounded = round(scaled, digits)
        if rounded < step or unit == units[-1]:
            return f"{rounded:.{digits}f}".rstrip("0").rstrip(".") + unit if digits else f"{rounded:.0f}{unit}"
        scaled /= step
    raise AssertionError("the last unit takes every value")
