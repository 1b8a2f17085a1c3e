"""Sizes, rates and durations as users write and read them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchns.errors import UserError
from batchns.units import (
    DURATION_UNITS,
    LARGEST,
    LONGEST,
    RATE_UNITS,
    SIZE_UNITS,
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
    printable,
    quote,
)

PARSERS = [parse_size, parse_rate, parse_duration]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0B", 0),
        ("1023B", 1023),
        ("1KiB", 1024),
        ("1K", 1024),
        ("1kB", 1000),
        ("512MiB", 512 << 20),
        ("512M", 512 << 20),
        ("4GiB", 4 << 30),
        ("4GB", 4_000_000_000),
        ("1.5GiB", 3 << 29),
        ("4 GiB", 4 << 30),
        ("2T", 2 << 40),
        ("1TiB", 1 << 40),
        ("0.1GiB", 107374182),
    ],
)
def test_a_size_is_bytes(text: str, size: int) -> None:
    """KiB to TiB and K to T are powers of 1024, kB to TB of 1000."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("8000bit", 8000),
        ("50mbit", 50_000_000),
        ("1.5gbit", 1_500_000_000),
        ("100gbit", 10**11),
        ("400gbit", 4 * 10**11),
        ("2tbit", 2 * 10**12),
        ("64kbit", 64_000),
    ],
)
def test_a_rate_is_bits_per_second(text: str, rate: int) -> None:
    """Past 34 Gbit/s too, where 32-bit byte rates end."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2h30m", 9000.0),
        ("90s", 90.0),
        ("1d", 86400.0),
        ("500ms", 0.5),
        ("1.5h", 5400.0),
        ("1d 2h", 93600.0),
        ("0s", 0.0),
    ],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_size, "4", '"4" has no unit - write "4MiB" or "4GiB"'),
        (parse_size, "4gib", '"4gib" has an unknown unit - write "4GiB"'),
        (parse_size, "4KB", '"4KB" has an unknown unit - write "4kB" (1000 bytes each) or "4KiB" (1024)'),
        (
            parse_size,
            "4mbit",
            '"4mbit" has an unknown unit - the units are B, KiB, MiB, GiB, TiB (1024) and kB, MB, GB, TB (1000)',
        ),
        (parse_size, "-1MiB", '"-1MiB" is not a size - write for example "512MiB" or "4GiB"'),
        (parse_size, "1e3MiB", '"1e3MiB" is not a size - write for example "512MiB" or "4GiB"'),
        (parse_size, "٤GiB", '"٤GiB" is not a size - write for example "512MiB" or "4GiB"'),
        (parse_size, "1MiB\n", '"1MiB\\n" is not a size - write for example "512MiB" or "4GiB"'),
        (parse_size, "9999999999TiB", '"9999999999TiB" is too large - the largest number is 2^63 - 1'),
        (parse_rate, "100", '"100" has no unit - write "100mbit" or "100gbit"'),
        (
            parse_rate,
            "100mbps",
            '"100mbps" has an unknown unit - write "100mbit" for bits per second, "800mbit" where bytes are meant',
        ),
        (parse_rate, "12MB/s", '"12MB/s" has an unknown unit - rates are in bits per second: write "96mbit"'),
        (parse_rate, "100Mbit/s", '"100Mbit/s" has an unknown unit - write "100mbit"'),
        (parse_rate, "1furlong", '"1furlong" has an unknown unit - the units are bit, kbit, mbit, gbit and tbit'),
        (parse_duration, "90", '"90" has no unit - write "90s", "90m" or "90h"'),
        (parse_duration, "30min", '"30min" has an unknown unit - write "30m"'),
        (parse_duration, "3 weeks", '"3 weeks" has an unknown unit - the units are d, h, m, s and ms'),
        (parse_duration, "02:30:00", '"02:30:00" can be read in two ways - write "2h30m"'),
        (parse_duration, "1-12:30", '"1-12:30" can be read in two ways - write "1d12h30m"'),
        (parse_duration, "10:30", '"10:30" can be read in two ways - write "10m30s"'),
        (parse_duration, "30m2h", '"30m2h" is out of order - write larger units first, each once: "1d2h30m"'),
        (parse_duration, "1s1s", '"1s1s" is out of order - write larger units first, each once: "1d2h30m"'),
        (parse_duration, "", '"" is not a duration - write for example "90s", "2h30m" or "500ms"'),
        (parse_duration, "forever", '"forever" is not a duration - write for example "90s", "2h30m" or "500ms"'),
        (
            parse_duration,
            "99999d",
            '"99999d" is more than 100 years - leave the setting away where there is no limit',
        ),
    ],
)
def test_a_mistake_says_what_to_write(parse: object, text: str, message: str) -> None:
    assert callable(parse)
    with pytest.raises(UserError) as raised:
        parse(text)
    assert str(raised.value) == message


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.text())
def test_any_text_gives_a_value_or_a_printable_message(parse: object, text: str) -> None:
    """No other exception, and no control character of the input reaches a terminal."""
    assert callable(parse)
    try:
        assert parse(text) >= 0
    except UserError as error:
        assert str(error).isprintable()


@pytest.mark.parametrize("parse", PARSERS)
def test_a_number_of_64_kib_is_refused_at_once(parse: object) -> None:
    """It is never computed with: CPython takes quadratic time for it."""
    assert callable(parse)
    with pytest.raises(UserError):
        parse("9" * 65536 + "s")


@given(st.integers(0, LARGEST))
def test_exact_sizes_and_rates_come_back(value: int) -> None:
    assert parse_size(f"{value}B") == value
    assert parse_rate(f"{value}bit") == value


@given(st.integers(1, 999), st.sampled_from(sorted(SIZE_UNITS)), st.sampled_from(sorted(RATE_UNITS)))
def test_a_unit_multiplies(count: int, size_unit: str, rate_unit: str) -> None:
    assert parse_size(f"{count}{size_unit}") == count * SIZE_UNITS[size_unit]
    assert parse_rate(f"{count}{rate_unit}") == count * RATE_UNITS[rate_unit]


@given(st.lists(st.integers(0, 20), min_size=5, max_size=5))
def test_units_of_a_duration_add_up(counts: list[int]) -> None:
    parts = list(zip(counts, DURATION_UNITS.items(), strict=True))
    written = "".join(f"{count}{unit}" for count, (unit, _) in parts)
    assert parse_duration(written) == float(sum(count * seconds for count, (_, seconds) in parts))


@given(st.integers(0, 1 << 50))
def test_what_is_shown_of_a_size_or_rate_can_be_typed_and_is_within_a_percent(value: int) -> None:
    for show, parse in ((format_size, parse_size), (format_rate, parse_rate)):
        assert parse(show(value)) == pytest.approx(value, rel=0.01, abs=0.5)
        assert len(show(value)) <= 10


@given(st.floats(0.001, LONGEST))
def test_what_is_shown_of_a_duration_can_be_typed_and_is_within_five_percent(seconds: float) -> None:
    shown = format_duration(seconds)
    assert parse_duration(shown) == pytest.approx(seconds, rel=0.05, abs=0.0005)
    assert len(shown) <= 9
    assert format_duration(parse_duration(shown)) == shown


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (format_size(0), "0B"),
        (format_size(1023), "1023B"),
        (format_size(4 << 30), "4GiB"),
        (format_size(3 << 29), "1.5GiB"),
        (format_size((1 << 20) - 1), "1MiB"),
        (format_rate(50_000_000), "50mbit"),
        (format_rate(1_500_000_000), "1.5gbit"),
        (format_rate(999_999), "1mbit"),
        (format_duration(0), "0s"),
        (format_duration(0.42), "420ms"),
        (format_duration(0.9996), "1s"),
        (format_duration(4.2), "4.2s"),
        (format_duration(59.6), "1m"),
        (format_duration(90), "1m30s"),
        (format_duration(3599.8), "1h"),
        (format_duration(9000), "2h30m"),
        (format_duration(93784), "1d2h"),
    ],
)
def test_what_people_read_is_short(shown: str, expected: str) -> None:
    assert shown == expected


@given(st.text(alphabet=st.characters()))
def test_quoted_text_is_one_printable_line(text: str) -> None:
    assert quote(text).isprintable()
    assert len(quote(text)) <= 2 + 60 * 10
    assert printable(text).isprintable()
    assert not re.search("[\x00-\x1f\x7f\u202e]", printable(text))
