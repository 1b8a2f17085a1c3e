"""A machine's own records as a workload."""

from __future__ import annotations

import json

import pytest

from batchns.core.reasons import FULL
from batchns.errors import UserError
from batchns.simulate.history import parse_records, read_history

RECORD = {
    "job_id": "7_1",
    "name": "train",
    "user": "alice",
    "queue": "long",
    "submitted": 1000.5,
    "started": 1010.0,
    "ended": 1100.0,
    "running_seconds": 80.0,
    "cpus": 2,
    "memory": 4096,
    "time_limit": None,
}


def lines(*records: dict) -> list[str]:
    return [json.dumps(record) + "\n" for record in records]


def test_a_record_is_a_job():
    found = read_history([RECORD], 4, 8192)
    assert (found.ids, found.submitted, found.running, found.limit) == (("7_1",), (1000.5,), (80.0,), (None,))
    assert (found.demand[0].whole, found.demand[0].memory) == (2, 4096)
    assert (found.user, found.queue, found.name) == (("alice",), ("long",), ("train",))


def test_a_fraction_of_a_cpu_shares_one():
    assert read_history([{**RECORD, "cpus": 0.25}], 4).demand[0].share == FULL // 4


def test_what_is_larger_than_the_machine_takes_all_of_it():
    demand = read_history([{**RECORD, "cpus": 64, "memory": 1 << 40}], 4, 8192).demand[0]
    assert (demand.whole, demand.memory) == (4, 8192)


def test_memory_does_not_count_where_the_machine_has_no_number():
    assert read_history([RECORD], 4).demand[0].memory == 0


@pytest.mark.parametrize("never", [{"started": None, "running_seconds": 0.0}, {"running_seconds": None}])
def test_jobs_that_never_ran_are_left_out(never):
    found = read_history([{**RECORD, **never}, RECORD], 4)
    assert (len(found), found.dropped) == (1, 1)


def test_jobs_are_in_the_order_of_their_submission():
    found = read_history([{**RECORD, "job_id": "9", "submitted": 2000}, RECORD], 4)
    assert found.ids == ("7_1", "9")


def test_a_history_without_jobs_is_refused():
    with pytest.raises(UserError, match="no job has run yet"):
        read_history([], 4)


@pytest.mark.parametrize("wrong", [{"cpus": "two"}, {"submitted": None}, {"memory": "much"}, {"cpus": -1}])
def test_a_value_that_is_no_number_is_refused_with_the_job(wrong):
    with pytest.raises(UserError, match="job 7_1: a value is no number"):
        read_history([{**RECORD, **wrong}], 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_no_run(value):
    assert read_history([{**RECORD, "running_seconds": value}, RECORD], 4).dropped == 1


class TestLines:
    def test_each_line_is_a_record(self):
        assert list(parse_records(["\n", *lines(RECORD, RECORD)], "h")) == [RECORD, RECORD]

    def test_a_last_line_that_was_cut_off_is_left_out(self):
        assert list(parse_records([*lines(RECORD), '{"job_id": "8", "sub'], "h")) == [RECORD]

    @pytest.mark.parametrize("text", ['{"job_id": \n', "[1]\n", '{"job_id": "8"}\n'])
    def test_another_line_that_is_no_record_is_named(self, text):
        with pytest.raises(UserError, match="h:2: "):
            list(parse_records([*lines(RECORD), text, *lines(RECORD)], "h"))
