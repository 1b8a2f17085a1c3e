"""Making room for others: a table of samples and what follows from them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchns.supervise.neighbourly import Neighbourly

NOT_KNOWN = None
BUSY, BETWEEN, QUIET = 0.9, 0.5, 0.1  # around 0.6 and 0.3

# Samples a second apart, thresholds 0.6 and 0.3 to hold for 2 s: after each of them, y where jobs make room.
TABLE = {
    "a peak is borne": ([QUIET, BUSY, BUSY, QUIET, BUSY, BUSY, QUIET], "......."),
    "two seconds are not": ([BUSY, BUSY, BUSY, BUSY], "..yy"),
    "between the thresholds all stays as it is": ([BUSY] * 3 + [BETWEEN] * 9, "..y" + "y" * 9),
    "and as it was": ([BETWEEN] * 9, "." * 9),
    "a lull is not the end": ([BUSY] * 3 + [QUIET, QUIET, BETWEEN, QUIET, QUIET], "..yyyyyy"),
    "two quiet seconds are": ([BUSY] * 3 + [QUIET] * 4, "..yyy.."),
    "then it begins anew": ([BUSY] * 3 + [QUIET] * 3 + [BUSY] * 3, "..yyy...y"),
    "what is not known counts for nothing": ([BUSY, BUSY, NOT_KNOWN, BUSY, BUSY, BUSY], ".....y"),
    "nor does it thaw": ([BUSY] * 3 + [QUIET, NOT_KNOWN, QUIET, QUIET, QUIET], "..yyyyy."),
    "a threshold itself is not above": ([0.6] * 4, "...."),
    "nor below": ([BUSY] * 3 + [0.3] * 4, "..yyyyy"),
}


@pytest.mark.parametrize(("samples", "expected"), TABLE.values(), ids=TABLE.keys())
def test_room_is_made_and_taken_back(samples: list[float | None], expected: str) -> None:
    rule = Neighbourly(0.6, 0.3, 2)
    assert "".join("y" if rule.told(sample, now) else "." for now, sample in enumerate(samples)) == expected


def test_without_a_duration_the_first_sample_decides() -> None:
    rule = Neighbourly(0.6, 0.3, 0)
    assert [rule.told(sample, 5) for sample in (BUSY, BETWEEN, QUIET, BETWEEN)] == [True, True, False, False]


def test_thresholds_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ValueError, match="larger"):
        Neighbourly(0.3, 0.6, 1)


@given(
    st.lists(
        st.tuples(st.one_of(st.none(), st.floats(0, 1)), st.floats(0.1, 5)),
        max_size=40,
    )
)
def test_changes_are_never_closer_than_the_duration(steps: list[tuple[float | None, float]]) -> None:
    rule, now, changes = Neighbourly(0.5, 0.5, 3), 0.0, [0.0]
    before = False
    for sample, pause in steps:
        now += pause
        if rule.told(sample, now) != before:
            before = not before
            changes.append(now)
    assert all(later - earlier >= 3 for earlier, later in pairwise(changes))
