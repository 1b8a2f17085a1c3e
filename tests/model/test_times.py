"""Moments and warnings: what a text means in seconds, in this machine's time zone and in others."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchns.errors import UserError
from batchns.model.codec import parse_jobs
from batchns.model.config import Config
from batchns.model.job import JobSpec, WarnSignal
from batchns.model.signals import UNSTOPPABLE, parse_signal, signal_name
from batchns.model.times import After, parse_moment, parse_warn_signal

EIGHT = 1796112000.0  # 2026-12-01 08:00 UTC


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A time zone with summer time, written out: it needs no time zone database."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def job(line: str) -> JobSpec:
    text = f'name = "x"\ncommand = ["true"]\n{line}\n'
    return parse_jobs(text.encode(), file="f", folder="/", config=Config())[0]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-12-01T08:00Z", EIGHT),
        ("2026-12-01 08:00:00Z", EIGHT),
        ("2026-12-01T08:00:00.25+00:00", EIGHT + 0.25),
        ("2026-12-01T03:00-05:00", EIGHT),
        ("2026-12-01T13:45+05:45", EIGHT),
        ("+2h", After(7200.0)),
        ("2h", After(7200.0)),
        ("1d12h", After(129600.0)),
        ("+500ms", After(0.5)),
    ],
)
def test_a_moment_is_seconds(text: str, moment: float | After) -> None:
    assert parse_moment(text) == moment


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-12-01T09:00", EIGHT),
        ("2026-07-01T10:00", datetime(2026, 7, 1, 8, tzinfo=UTC).timestamp()),
        ("2026-10-25T02:30", datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()),  # there twice: the first
        ("2026-12-01T09:00Z", EIGHT + 3600),
    ],
)
def test_a_moment_without_an_offset_is_local(text: str, moment: float) -> None:
    assert parse_moment(text) == moment
    assert job(f'begin = "{text}"').begin == moment


@pytest.mark.usefixtures("in_berlin")
def test_tomls_own_dates_and_their_text_are_the_same() -> None:
    for value in ("2026-12-01T09:00:00", "2026-12-01 08:00:00Z", "2026-12-01T08:00:00+00:00"):
        assert job(f"begin = {value}").begin == job(f'begin = "{value}"').begin == EIGHT
    assert job(f"begin = {value}").begin_after is None


def test_a_duration_counts_from_the_submission() -> None:
    spec = job('begin = "1h"\ndeadline = "+2h"')
    assert (spec.begin, spec.begin_after, spec.deadline, spec.deadline_after) == (None, 3600.0, None, 7200.0)


def test_a_moment_and_a_duration_cannot_be_compared_without_a_clock() -> None:
    spec = job('begin = "2030-01-01T00:00Z"\ndeadline = "+1h"')
    assert spec.begin == 1893456000.0 and spec.deadline_after == 3600.0


@given(st.text("0123456789-:T+Z.hms ", max_size=25) | st.text(max_size=25))
def test_any_text_is_a_moment_or_a_message(text: str) -> None:
    try:
        moment = parse_moment(text)
    except UserError as error:
        assert error.hint and str(error).isprintable()
    else:
        assert (moment.seconds if isinstance(moment, After) else moment) > 0


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("USR1@60s", WarnSignal(signal.SIGUSR1, 60.0)),
        ("SIGTERM@1m30s", WarnSignal(signal.SIGTERM, 90.0)),
        ("RTMIN+1@500ms", WarnSignal(signal.SIGRTMIN + 1, 0.5)),
        ("RTMAX@1s", WarnSignal(signal.SIGRTMAX, 1.0)),
    ],
)
def test_a_warning_is_a_signal_and_a_time(text: str, warning: WarnSignal) -> None:
    assert parse_warn_signal(text) == warning
    assert job(f'time_limit = "1h"\nwarn_signal = "{text}"').warn == warning


@pytest.mark.parametrize("number", sorted({*map(int, signal.valid_signals())} - UNSTOPPABLE))
def test_every_signal_that_can_be_handled_can_be_asked_for_by_name(number: int) -> None:
    name = signal_name(number)
    assert parse_signal(name) == parse_signal(name.removeprefix("SIG")) == number


@pytest.mark.parametrize("text", ["RTMIN+99", "RTMAX+1", "USR3", "", "+1", "SIG", "SIGSIGUSR1", "USR1 ", "99"])
def test_other_words_are_no_signals(text: str) -> None:
    with pytest.raises(UserError, match=r"is no signal - (write its name|did you mean)"):
        parse_signal(text)
