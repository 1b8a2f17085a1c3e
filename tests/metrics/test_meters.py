"""Counting: what is begun is there as a zero, and nothing that is not in the contract can be counted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from batchns.daemon.http.routes import ROUTES
from batchns.daemon.monitor import Monitor
from batchns.metrics.contract import SHORT
from batchns.metrics.counting import OUTCOMES, REASONS, Counting
from batchns.metrics.meters import Meters


def test_a_value_is_in_the_bucket_whose_bound_it_does_not_exceed() -> None:
    meters = Meters()
    for value in (0.0, SHORT[0], SHORT[0] * 1.01, SHORT[-1], SHORT[-1] * 2):
        meters.observe("batchns_schedule_pass_seconds", value)
    found = meters.counted().distributions["batchns_schedule_pass_seconds"][()]
    assert found.counts == (2, 1, *(0,) * (len(SHORT) - 3), 1, 1)
    assert found.sum == pytest.approx(SHORT[0] * 2.01 + SHORT[-1] * 3)


def test_what_was_counted_does_not_change_afterwards() -> None:
    meters = Meters()
    meters.add("batchns_jobs_submitted_total", ("normal",))
    meters.observe("batchns_loop_lag_seconds", 1.0)
    before = meters.counted()
    meters.add("batchns_jobs_submitted_total", ("normal",), 5)
    meters.observe("batchns_loop_lag_seconds", 1.0)
    assert before.counters["batchns_jobs_submitted_total"] == {("normal",): 1}
    assert sum(before.distributions["batchns_loop_lag_seconds"][()].counts) == 1


def test_nothing_but_the_contract_can_be_counted() -> None:
    with pytest.raises(KeyError):
        Meters().add("batchns_jobz_total")
    with pytest.raises(AssertionError):
        Meters().add("batchns_loop_lag_seconds")
    with pytest.raises(AssertionError):
        Meters().observe("batchns_jobs_submitted_total", 1.0)


def test_every_known_value_is_a_zero_before_it_happens() -> None:
    meters = Meters()
    counting = Counting(meters=meters)
    counting.begin(["normal", "urgent"])
    counters = meters.counted().counters
    assert counters["batchns_jobs_finished_total"] == {
        (queue, outcome): 0 for queue in ("normal", "urgent") for outcome in OUTCOMES
    }
    assert counters["batchns_freezes_total"].keys() == {
        (queue, why) for queue in ("normal", "urgent") for why in REASONS
    }
    meters.add("batchns_freezes_total", ("urgent", "owner"))
    counting.begin(["normal", "other"])
    again = meters.counted().counters["batchns_freezes_total"]
    assert again["urgent", "owner"] == 1 and again["other", "owner"] == 0, "nothing is forgotten by a new setting"


def job(user: str, queue: str) -> Any:
    return SimpleNamespace(user=user, spec=SimpleNamespace(queue=queue))


def test_a_users_first_end_is_a_change_from_zero() -> None:
    """A rate and an increase see nothing of a series that begins with its first event."""
    meters = Meters()
    counting = Counting(meters=meters)
    counting.submitted([job("ada", "normal"), job("ada", "normal"), job("bob", "urgent")])
    counters = meters.counted().counters
    users = {("ada", "normal"), ("bob", "urgent")}
    assert counters["batchns_user_jobs_finished_total"] == {(*one, outcome): 0 for one in users for outcome in OUTCOMES}
    for name in ("cpu_seconds", "allocated_cpu_seconds", "memory_peak_bytes", "memory_limit_bytes"):
        assert counters[f"batchns_user_{name}_total"] == dict.fromkeys(users, 0)
    assert counters["batchns_jobs_submitted_total"] == {("normal",): 2, ("urgent",): 1}


def test_the_first_defect_is_a_change_from_zero() -> None:
    meters = Meters()
    nothing: Any = None
    Monitor(exporter=SimpleNamespace(meters=meters), scheduler=nothing, recorder=nothing)  # type: ignore[arg-type]
    begun = meters.counted().distributions["batchns_api_request_seconds"]
    assert begun.keys() == {(route.path, route.method, "500") for route in ROUTES}
    assert all(sum(one.counts) == 0 for one in begun.values())
