"""What is remembered of submissions: links, whatever the file system makes of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from batchns.slurm.records import Records

KEY = "k" * 32


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(str(tmp_path))


def submitted(records: Records, *ids: str, key: str = KEY, name: str = "same") -> None:
    jobs = [{"name": name, "id": job_id} for job_id in ids]
    for number, job in enumerate(jobs):
        records.add(job, key, number)
    records.keep(key, {"key": key, "at": 1.0, "user": "ada", "jobs": jobs})


def test_the_last_job_of_a_name_is_found_and_earlier_ones_by_their_ids(records: Records) -> None:
    submitted(records, "7", "8", "9")
    assert records.last_of("same") == "9"
    assert [(records.job(one) or {}).get("id") for one in ("7", "8", "9", "10")] == ["7", "8", "9", None]
    records.unname("same", "8")
    assert records.last_of("same") == "9"
    records.unname("same", "9")
    assert records.last_of("same") is None


def test_a_cluster_that_counts_from_one_again_gets_new_links(records: Records) -> None:
    submitted(records, "1", key="old")
    submitted(records, "1", key="new", name="other")
    assert (records.job("1") or {})["key"] == "new"
    assert records.last_of("other") == "1"


def test_what_is_added_once_more_leaves_nothing_beside_it(records: Records) -> None:
    submitted(records, "1")
    submitted(records, "1")
    assert os.listdir(records.folder / "jobs") == ["1"] and os.listdir(records.folder / "names") == ["same"]
    assert records.last_of("same") == "1"


def test_where_a_link_has_one_name_only_there_are_two_links(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*words: object, **more: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", none)
    submitted(records, "7", "8")
    assert records.last_of("same") == "8"
    assert (records.folder / "names" / "same").is_symlink()


@pytest.mark.parametrize("text", ["", ":", "no number:x:1", "nothing"])
def test_a_damaged_link_is_as_if_it_had_never_been(records: Records, text: str) -> None:
    for kind in ("jobs", "names"):
        if text:
            (records.folder / kind / "1").symlink_to(text)
        else:
            (records.folder / kind / "1").write_text("no link")
    assert records.job("1") is None and records.last_of("1") is None
