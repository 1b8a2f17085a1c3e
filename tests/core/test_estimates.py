"""How long jobs are expected to run: from whom, when not, and how much closer that is than time limits."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st

from batchns.core import estimates
from batchns.core.estimates import Estimates, tells
from batchns.model.lifecycle import State
from batchns.supervise.history import Record

HOUR = 3600.0
DAY = 24 * HOUR


def ended(name: str, seconds: float, limit: float | None = DAY, uid: int = 1, state: State = State.COMPLETED) -> Record:
    return Record(
        job_id="1",
        name=name,
        uid=uid,
        user=f"u{uid}",
        queue="normal",
        submitted=0.0,
        started=0.0,
        ended=seconds,
        running_seconds=seconds,
        frozen_seconds=0.0,
        cpus=1.0,
        time_limit=limit,
        state=state,
    )


def learn(known: Estimates, record: Record) -> None:
    known.learn(record.user, record.name, record.running_seconds, record.time_limit)


def after(*records: Record) -> Estimates:
    known = Estimates()
    for record in records:
        if tells(record.state):
            learn(known, record)
    return known


def test_the_median_of_the_last_five_of_the_same_user_and_name() -> None:
    known = after(*(ended("a", seconds) for seconds in (9000, 100, 110, 120, 130, 9000)))
    assert known.expected("u1", "a", DAY) == 120
    assert known.expected("u2", "a", DAY) is None, "another user's job of that name may be anything"


def test_another_name_of_the_user_goes_by_the_users_last_two() -> None:
    known = after(ended("a", 100), ended("b", 300), ended("c", 200), ended("d", 300))
    assert known.expected("u1", "new", DAY) == 250


def test_never_more_than_the_time_limit() -> None:
    assert after(*[ended("a", 100)] * 3).expected("u1", "a", 60) == 60


def test_history_is_used_only_once_it_has_been_closer() -> None:
    """One job tells nothing yet of how well it tells."""
    assert after(ended("a", 100)).expected("u1", "a", DAY) is None
    assert after(ended("a", 100), ended("a", 100)).expected("u1", "a", DAY) == 100


def test_a_user_whose_limits_are_right_keeps_them() -> None:
    known = after(*(ended("a", seconds, seconds * 1.01) for seconds in (10, 9000, 50, 40000, 20, 7000)))
    assert known.expected("u1", "a", 100) is None
    assert known.expected("u1", "new", 100) is None


def test_a_user_may_change() -> None:
    wild = [ended("a", seconds, seconds) for seconds in (10, 9000, 50, 40000)]
    assert after(*wild, *[ended("a", 100)] * 12).expected("u1", "a", DAY) == 100


def test_the_name_may_tell_where_the_last_two_do_not() -> None:
    """Two kinds of jobs that take turns: each by its name, and a third name by its limit."""
    known = after(*[ended("short", 10, 40), ended("long", 10_000, 40_000)] * 6)
    assert known.expected("u1", "short", 40) == 10
    assert known.expected("u1", "long", 40_000) == 10_000
    assert known.expected("u1", "new", 40) is None


def test_without_a_limit_whatever_is_known_is_told() -> None:
    known = after(ended("a", 100, None))
    assert known.expected("u1", "a", None) == 100
    assert known.expected("u1", "b", None) == 100


@pytest.mark.parametrize("state", [State.CANCELLED, State.NODE_FAIL])
def test_a_job_that_did_not_come_to_its_end_tells_nothing(state: State) -> None:
    assert after(*[ended("a", 5, state=state)] * 3).expected("u1", "a", DAY) is None


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "_KEPT", 3)
    known = after(*(ended(f"job{number}", 100, uid=number // 2) for number in range(20)))
    assert len(known._names) == len(known._users) == 3
    assert known.expected("u0", "job0", None) is None
    assert known.expected("u9", "job19", None) == 100


some_records = st.lists(
    st.builds(
        ended,
        name=st.sampled_from("abc"),
        seconds=st.floats(0, 1e7),
        limit=st.none() | st.floats(1, 1e7),
        uid=st.integers(1, 2),
        state=st.sampled_from([State.COMPLETED, State.FAILED, State.TIMEOUT, State.CANCELLED]),
    ),
    max_size=30,
)


@given(some_records, st.none() | st.floats(1, 1e7))
def test_an_estimate_lies_among_what_was_seen_and_below_the_limit(past: list[Record], limit: float | None) -> None:
    known = after(*past)
    for uid in (1, 2, 3):
        seen = [record.running_seconds for record in past if record.uid == uid and record.state != State.CANCELLED]
        for name in "abcd":
            found = known.expected(f"u{uid}", name, limit)
            assert found is None or seen
            if found is not None:
                assert found == limit or min(seen) <= found <= max(seen)
                assert limit is None or found <= limit


@given(some_records, some_records)
def test_other_users_change_nothing(past: list[Record], others: list[Record]) -> None:
    strangers = [evolve(record, uid=7, user="u7") for record in others]
    mixed = [record for pair in zip(past, strangers, strict=False) for record in pair]
    alone = past[: len(mixed) // 2]
    for name in "abcd":
        assert after(*mixed).expected("u1", name, HOUR) == after(*alone).expected("u1", name, HOUR)


@frozen
class User:
    """`repeats`: has a few programs that take about the same time each time, and asks for far too much.

    Else every job is of its own kind and length, and the limit is right.
    """

    uid: int
    repeats: bool


def trace(user: User, count: int, rng: random.Random) -> list[Record]:
    """Jobs as people submit them: lengths over five orders, limits in round hours."""
    programs = {f"p{number}": math.exp(rng.uniform(math.log(30), math.log(2 * HOUR))) for number in range(4)}
    records = []
    for number in range(count):
        if user.repeats:
            name = rng.choice(sorted(programs))
            seconds = programs[name] * rng.lognormvariate(0, 0.4)
            limit = math.ceil(seconds * rng.uniform(2, 20) / HOUR) * HOUR
        else:
            name = f"once{number}"
            seconds = math.exp(rng.uniform(math.log(30), math.log(DAY)))
            limit = seconds * rng.uniform(1.02, 1.3)
        records.append(ended(name, seconds, limit, user.uid))
    return records


def errors(records: list[Record]) -> tuple[float, float]:
    """The mean |log(estimate / actual)| of what was expected before each job, and of the time limits."""
    known, by_history, by_limit = Estimates(), [], []
    for record in records:
        assert record.time_limit is not None
        found = known.expected(record.user, record.name, record.time_limit)
        by_history.append(abs(math.log((found or record.time_limit) / record.running_seconds)))
        by_limit.append(abs(math.log(record.time_limit / record.running_seconds)))
        learn(known, record)
    return statistics.mean(by_history), statistics.mean(by_limit)


@pytest.mark.parametrize("seed", range(5))
def test_estimates_are_three_times_closer_than_limits_where_people_repeat_themselves(seed: int) -> None:
    by_history, by_limit = errors(trace(User(1, repeats=True), 300, random.Random(seed)))
    assert by_history < by_limit / 3


@pytest.mark.parametrize("seed", range(5))
def test_and_hardly_worse_where_they_do_not(seed: int) -> None:
    by_history, by_limit = errors(trace(User(1, repeats=False), 300, random.Random(seed)))
    assert by_history <= by_limit * 1.05


def test_one_users_habits_do_not_cost_another_user_anything() -> None:
    rng = random.Random(1)
    both = [trace(User(1, repeats=True), 200, rng), trace(User(2, repeats=False), 200, rng)]
    mixed = [record for pair in zip(*both, strict=True) for record in pair]
    assert errors(mixed)[0] == pytest.approx(statistics.mean(errors(records)[0] for records in both))
