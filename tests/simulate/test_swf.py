"""Traces are read by the conventions of the Standard Workload Format; a mistake is named with its line."""

from __future__ import annotations

import pytest

from batchns.errors import UserError
from batchns.simulate.swf import read_swf

JOB = "{id} {submit} -1 {run} {allocated} -1 -1 {requested} {estimate} -1 1 {user} 1 -1 1 -1 -1 -1"


def line(**fields: object) -> str:
    values = {"id": 1, "submit": 0, "run": 60, "allocated": 4, "requested": -1, "estimate": 100, "user": 7, **fields}
    return JOB.format(**values) + "\n"


def read(*lines: str, cpus: int | None = 8):
    return read_swf(lines, "t.swf", cpus)


def test_a_job_is_its_fields():
    found = read(line(id=12, submit=5))
    assert (found.ids, found.submitted, found.running, found.limit) == (("12",), (5.0,), (60.0,), (100.0,))
    assert found.demand[0].whole == 4
    assert found.user == ("7",)


@pytest.mark.parametrize(
    ("header", "cpus", "expected"),
    [
        (["; MaxProcs: 240\n", "; MaxNodes: 60\n"], None, 240),
        (["; MaxNodes: 60\n", "; MaxProcs: 240\n"], None, 240),
        (["; MaxNodes: 256\n"], None, 256),
        ([";MaxProcs:   12 \n"], None, 12),
        (["; MaxProcs: -1\n", "; MaxNodes: 3\n"], None, 3),
        (["; MaxProcs: 240\n"], 16, 16),
    ],
)
def test_the_size_of_the_machine(header, cpus, expected):
    assert read(*header, line(), cpus=cpus).cpus == expected


def test_a_trace_that_does_not_say_its_size_is_refused_with_what_to_type():
    with pytest.raises(UserError, match=r"t\.swf: .* - give --cpus N"):
        read(line(), cpus=None)


@pytest.mark.parametrize("fields", [{"run": -1}, {"run": 0}, {"allocated": -1}, {"allocated": 0, "requested": 0}])
def test_jobs_without_run_time_or_processors_are_left_out(fields):
    found = read(line(**fields), line(id=2))
    assert found.ids == ("2",)
    assert found.dropped == 1


def test_requested_processors_count_where_none_were_allocated():
    assert read(line(allocated=-1, requested=3)).demand[0].whole == 3
    assert read(line(allocated=2, requested=3)).demand[0].whole == 2


def test_a_missing_estimate_is_the_run_time():
    assert read(line(estimate=-1)).limit == (60.0,)


def test_a_job_wider_than_the_machine_takes_all_of_it():
    assert read(line(allocated=900)).demand[0].whole == 8


def test_jobs_are_sorted_by_submission_and_equal_ones_stay_as_written():
    found = read(line(id=1, submit=9), line(id=2, submit=3), line(id=3, submit=9), line(id=4, submit=3))
    assert found.ids == ("2", "4", "1", "3")


def test_comments_and_empty_lines_may_be_anywhere():
    long = ";   MaxProcs: 4   and more words than eighteen " + "x " * 20
    found = read("; Version: 2.2\n", "\n", line(id=1), long, line(id=2))
    assert found.ids == ("1", "2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3\n", r"t\.swf:2: 3 fields where a job has 18: \"1 2 3\" - "),
        (line(run="nan"), r"t\.swf:2: field 4 \(run time\)"),
        (line(run="x"), r"t\.swf:2: field 4 \(run time\) is \"x\", not a number of seconds"),
        (line(submit="-5"), r"t\.swf:2: field 2 \(submit time\) is \"-5\""),
        (line(submit="inf"), r"t\.swf:2: field 2 \(submit time\)"),
        (line(estimate="nan"), r"t\.swf:2: field 9 \(requested time\)"),
        (line(allocated="2.5"), r"t\.swf:2: field 5 \(allocated processors\) is \"2\.5\", not a whole number"),
        (line(allocated=-1, requested="many"), r"t\.swf:2: field 8 \(requested processors\)"),
        ("\x1b[31m\n", r"t\.swf:2: 1 fields .*\\x1b"),
    ],
)
def test_a_mistake_is_named_with_its_line(text, message):
    with pytest.raises(UserError, match=message):
        read(line(), text)


def test_an_empty_trace_is_refused():
    with pytest.raises(UserError, match="no job to simulate: 1 have no run time"):
        read(line(run=-1))
