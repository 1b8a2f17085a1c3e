"""What is read equals what was written, for every class that is stored, whatever its fields hold."""

from __future__ import annotations

import json
from typing import Any, get_args

import attrs
import pytest
from hypothesis import given, settings

from batchns.core.changes import Change, Finished, Started, Submitted
from batchns.core.job import Job
from batchns.model.job import JobSpec
from batchns.model.lifecycle import Event
from batchns.store.codec import CHANGES, DEMAND, SPEC, Unreadable, decode_change, encode_change
from batchns.store.history import ending_of, row_of
from batchns.store.interface import Ending, Entry
from batchns.store.jobs import Reader, encode_jobs
from batchns.store.keys import array_of, first_key, id_of, key_of

from . import batches, made


def back(jobs: list[Job], reader: Reader | None = None) -> list[Job]:
    parts, rows = encode_jobs(jobs)
    reader = reader or Reader()
    return [reader.job(parts.split("\n"), row) for row in rows]


@settings(deadline=None)
@given(made.jobs())
def test_jobs_come_back(jobs: list[Job]) -> None:
    assert back(jobs) == jobs


@settings(deadline=None)
@given(made.ENTRIES)
def test_changes_come_back(entry: Entry) -> None:
    kind, text = encode_change(entry.change)
    found = decode_change(kind, getattr(entry.change, "job", None), text)
    assert found == entry.change
    assert type(found) is type(entry.change)


@settings(deadline=None)
@given(made.ENDINGS)
def test_endings_come_back(ending: Ending) -> None:
    assert ending_of(row_of(ending)) == ending


def test_every_change_has_its_codec() -> None:
    assert set(CHANGES) == {cls.__name__ for cls in get_args(Change)} - {Submitted.__name__}


def test_numbers_are_read_as_what_they_are() -> None:
    """A whole number of seconds stays a float, an index stays an int."""
    job = attrs.evolve(batches.submission(1, batches.spec(time_limit=60)).jobs[0], estimate=5)
    (found,) = back([job])
    assert type(found.spec.time_limit) is float
    assert type(found.estimate) is float
    assert type(found.order[0]) is int


def test_tasks_share_what_is_equal() -> None:
    """An array's tasks are a few numbers each, and share one spec again; so do equal jobs of other submissions."""
    one = list(batches.submission(1, batches.spec(tasks=50)).jobs)
    parts, rows = encode_jobs(one)
    assert len(parts.split("\n")) == 4
    assert len(rows) == 50
    reader = Reader()
    found = back(one, reader) + back(list(batches.submission(9, batches.spec(tasks=50)).jobs), reader)
    assert len({id(job.spec) for job in found}) == 1
    assert len({id(job.demand) for job in found}) == 1
    assert len({id(job.bounds) for job in found}) == 1


class TestVersions:
    def test_an_unknown_field_is_named(self) -> None:
        table = json.loads(SPEC.encode(batches.spec()))
        table["resources"]["warp"] = 9
        with pytest.raises(Unreadable, match="Resources has fields that are not known: warp"):
            SPEC.decode(json.dumps(table))

    def test_an_unknown_field_of_a_job_is_named(self) -> None:
        parts, rows = encode_jobs(batches.submission(1, batches.spec()).jobs)
        lines = parts.split("\n")
        lines[rows[0][4]] = json.dumps({**json.loads(lines[rows[0][4]]), "shade": "red", "colour": 1})
        with pytest.raises(Unreadable, match="Job has fields that are not known: colour, shade"):
            Reader().job(lines, rows[0])

    def test_an_unknown_field_of_a_change_is_named(self) -> None:
        with pytest.raises(Unreadable, match="Finished has fields that are not known: mood"):
            decode_change("Finished", "1", '{"event":"out of memory","retry":true,"mood":"bad"}')

    def test_an_unknown_change_is_named(self) -> None:
        with pytest.raises(Unreadable, match="'Teleported' is not known"):
            decode_change("Teleported", "1", None)

    def test_a_field_that_was_not_known_takes_its_default(self) -> None:
        assert decode_change("Finished", "1", '{"event":"out of memory"}') == Finished("1", Event.OOM)

    def test_a_field_without_a_default_lacks(self) -> None:
        with pytest.raises(Unreadable, match="Finished"):
            decode_change("Finished", "1", '{"retry":true}')

    def test_a_default_that_may_change_is_written(self) -> None:
        """Only what is empty is left away: a later default changes no job that is stored."""
        table = json.loads(SPEC.encode(JobSpec(name="a", command=("true",), cwd="/")))
        assert table["queue"] == "normal"
        assert table["priority"] == 50
        assert "script" not in table
        assert "env" not in table

    @pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"whole": "two"}', '{"named": 3}', "\x00", "[" * 100_000])
    def test_damaged_texts_are_no_surprise(self, text: str) -> None:
        with pytest.raises(Unreadable):
            DEMAND.decode(text)

    @pytest.mark.parametrize("text", ["[]", "7", '"x"'])
    def test_damaged_changes_are_no_surprise(self, text: str) -> None:
        with pytest.raises(Unreadable):
            decode_change("Started", "1", text)


class TestKeys:
    @pytest.mark.parametrize("job_id", ["1", "1_0", "7_3", "7_999999", "1000000000000", "8796093022207_999999"])
    def test_come_back(self, job_id: str) -> None:
        assert id_of(key_of(job_id)) == job_id

    def test_tasks_lie_within_their_array(self) -> None:
        assert first_key(7) <= key_of("7") < key_of("7_0") < key_of("7_999999") < first_key(8)
        assert array_of(key_of("7_999999")) == 7

    @pytest.mark.parametrize(
        "job_id", ["", "0", "07", "7_", "7_03", "7_x", "7_-1", "-7", "7_1048576", "9" * 14, "٣", "7\n"]
    )
    def test_nothing_else_is_an_id(self, job_id: str) -> None:
        with pytest.raises(ValueError, match="job's id"):
            key_of(job_id)


def test_a_change_without_more_takes_no_text() -> None:
    assert encode_change(Started("7")) == ("Started", None)


def test_the_largest_key_fits() -> None:
    value: Any = key_of("8796093022207_999999")
    assert value < 1 << 63
