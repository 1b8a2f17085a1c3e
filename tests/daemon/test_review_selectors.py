"""Selectors: which jobs they mean, and that many of them cost no more than one."""

from __future__ import annotations

import random
import time

import pytest

from batchns.daemon import selectors
from batchns.daemon.service import Refused

TASKS = [(f"8_{index}", "8", "many") for index in range(20)]
JOBS = [("7", "7", "one"), *TASKS, ("12", "12", "one"), ("15", "15", "x")]


def meant(*texts: str) -> list[str]:
    selection = selectors.parse(texts)
    return [job_id for job_id, array_id, name in JOBS if selection.meets(job_id, array_id, name)]


@pytest.mark.parametrize(
    ("texts", "ids"),
    [
        (["7"], ["7"]),
        (["8_3"], ["8_3"]),
        (["8_[1-2,5]", "8_2-3"], ["8_1", "8_2", "8_3", "8_5"]),
        (["9-13"], ["12"]),
        (["7-7"], ["7"]),
        (["one"], ["7", "12"]),
        (["one", "15", "15"], ["7", "12", "15"]),
        (["7_0"], []),
        (["80", "1"], []),
    ],
)
def test_a_selection_means_what_each_of_its_selectors_means(texts: list[str], ids: list[str]) -> None:
    assert meant(*texts) == ids


def test_selectors_that_mean_no_job_are_told() -> None:
    selection = selectors.parse(["7", "9", "8_19", "8_20", "8_18-25", "one", "two", "13-14", "11-13", "7_0"])
    found = [job for job in JOBS if selection.meets(*job)]
    assert selection.missing(found) == ["9", "8_20", "two", "13-14", "7_0"]


def test_only_ids_say_which_arrays_are_meant() -> None:
    assert selectors.parse(["7", "8_3"]).spans == [(7, 7), (8, 8)]
    assert selectors.parse(["7", "one"]).spans is None
    assert selectors.parse(["7", "8-9"]).spans == [(7, 7), (8, 9)]


def test_a_thousand_selectors_of_a_hundred_spans_are_looked_through_in_no_time() -> None:
    """Asked of each job by everybody who likes to, in the task that answers all users."""
    draw = random.Random(5)
    texts = ["8_" + ",".join(str(draw.randrange(1_000_000)) for _ in range(25)) for _ in range(900)]
    texts += [f"{100 + 2 * number}-{300 + 3 * number}" for number in range(100)]
    selection = selectors.parse(texts)
    begun = time.process_time()
    found = [job for number in range(100_000) if selection.meets(*(job := (f"8_{number}", "8", "job")))]
    selection.missing(found)
    assert time.process_time() - begun < 2.0


@pytest.mark.parametrize(("text", "hint"), [("15-12", "write 12-15"), ("8_5-3", "write 3-5"), ("8_1,9-2", "write 2-9")])
def test_a_range_that_runs_backwards_is_a_mistake_and_no_job(text: str, hint: str) -> None:
    with pytest.raises(Refused, match="ends before it begins") as refused:
        selectors.parse([text])
    assert refused.value.hint == hint


def test_more_than_a_thousand_selectors_are_refused() -> None:
    with pytest.raises(Refused):
        selectors.parse(["1"] * 1001)
