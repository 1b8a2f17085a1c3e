"""The figures, against numbers worked out by hand."""

from __future__ import annotations

from math import nan

import pytest

from batchns.core.demand import Demand
from batchns.simulate.engine import Outcome
from batchns.simulate.statistics import percentile, summarise
from batchns.simulate.workload import Workload


def outcome(**more: object) -> Outcome:
    """Three jobs on four CPUs: one that runs at once, a short one that waits, one that is frozen for 50 s."""
    workload = Workload(
        cpus=4,
        ids=("1", "2", "3"),
        submitted=(100.0, 100.0, 200.0),
        running=(100.0, 2.0, 50.0),
        limit=(None, None, None),
        demand=(Demand(whole=4), Demand(whole=1), Demand(whole=2)),
        user=("", "", ""),
    )
    values = {
        "started": (100.0, 200.0, 250.0),
        "ended": (200.0, 202.0, 350.0),
        "ran": (100.0, 2.0, 50.0),
        "frozen": (0.0, 0.0, 50.0),
        "lost": 0.0,
        "preemptions": 1,
        "segments": (),
        **more,
    }
    return Outcome(workload=workload, **values)


def test_figures_worked_out_by_hand():
    figures = summarise(outcome())
    assert figures.jobs == 3
    # waits: 0 s; 100 s; 100 s, of which 50 s frozen
    assert figures.wait_mean == pytest.approx(200 / 3)
    assert (figures.wait_p50, figures.wait_max) == (100, 100)
    # slowdowns: 1; (100 + 2) / 10, for a run below ten seconds; (100 + 50) / 50
    assert figures.bounded_slowdown_mean == pytest.approx((1 + 10.2 + 3) / 3)
    assert figures.bounded_slowdown_p99 == pytest.approx(10.2)
    assert figures.makespan == 250
    assert figures.utilization == pytest.approx((400 + 2 + 100) / (4 * 250))
    assert (figures.preemptions, figures.frozen_mean, figures.frozen_max) == (1, pytest.approx(50 / 3), 50)


def test_work_that_was_lost_was_work():
    assert summarise(outcome(lost=98.0)).utilization == pytest.approx(600 / 1000)


def test_a_job_that_never_ran_is_counted_and_has_no_wait():
    figures = summarise(outcome(started=(100.0, nan, 250.0), ran=(100.0, 0.0, 50.0)))
    assert (figures.jobs, figures.cancelled) == (3, 1)
    assert figures.wait_mean == 50


def test_a_short_job_is_never_slowed_down_to_less_than_one():
    assert summarise(outcome(ended=(200.0, 202.0, 350.0), started=(100.0, 100.0, 250.0))).bounded_slowdown_mean >= 1


def test_percentiles_are_values_that_occurred():
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, rank) for rank in (0, 1, 50, 99, 100)] == [1, 1, 50, 99, 100]
    assert percentile([], 50) == 0
