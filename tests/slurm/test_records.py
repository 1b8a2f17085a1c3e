"""What is remembered of submissions: links, whatever the file system makes of them."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from batchns.errors import HostError
from batchns.slurm.records import Records

KEY = "k" * 32


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(str(tmp_path))


def submitted(records: Records, *ids: str, key: str = KEY, name: str = "same", cut: bool = False) -> None:
    """`cut`: killed before its end."""
    with records.submission(key) as table:
        jobs = [{"name": name} for _ in ids]
        table.update(key=key, at=1.0, user="ada", jobs=jobs)
        records.keep(key, table)
        for number, (job, job_id) in enumerate(zip(jobs, ids, strict=True)):
            records.add({**job, "id": job_id}, key, number)
            jobs[number]["id"] = job_id
        if not cut:
            records.keep(key, table)


def test_the_last_job_of_a_name_is_found_and_earlier_ones_by_their_ids(records: Records) -> None:
    submitted(records, "7", "8", "9")
    assert records.last_of("same") == "9"
    assert [(records.job(one) or {}).get("id") for one in ("7", "8", "9", "10")] == ["7", "8", "9", None]
    assert len({os.lstat(records.folder / "jobs" / one).st_ino for one in ("7", "8", "9")}) == 1
    assert os.listdir(records.folder / "submissions") == [f"{KEY}.json"]


def test_a_job_that_was_taken_back_is_not_the_last_of_its_name(records: Records) -> None:
    submitted(records, "7", "8")
    with records.submission(KEY) as table:
        table["taken_back"] = [job.pop("id") for job in table["jobs"]]
        records.keep(KEY, table)
    assert records.last_of("same") is None and records.job("7") is None


def test_what_a_submission_got_before_it_was_killed_is_known(records: Records) -> None:
    submitted(records, "7", "8", cut=True)
    later = Records(str(records.folder))
    assert (later.last_of("same"), (later.job("7") or {})["id"]) == ("8", "7")
    with later.submission(KEY) as table:
        assert [job["id"] for job in table["jobs"]] == ["7", "8"]
        later.keep(KEY, table)
    assert [job["id"] for job in Records(str(records.folder))._read("submissions", KEY)["jobs"]] == ["7", "8"]


def test_lines_of_jobs_that_were_taken_back_count_for_nothing(records: Records) -> None:
    """Whoever is killed between writing the table and removing the lines leaves both."""
    submitted(records, "7", "8", cut=True)
    lines = records.folder / "submissions" / f"{KEY}.ids"
    kept = lines.read_text()
    with records.submission(KEY) as table:
        table["taken_back"] = [job.pop("id") for job in table["jobs"]]
        records.keep(KEY, table)
    lines.write_text(kept)
    assert records.last_of("same") is None and records.job("7") is None


def test_somebody_who_reads_while_it_is_submitted_sees_it_grow(records: Records) -> None:
    reader = Records(str(records.folder))
    with records.submission(KEY) as table:
        table.update(key=KEY, at=1.0, user="ada", jobs=[{"name": "a"}, {"name": "b"}])
        records.keep(KEY, table)
        for number, (name, job_id) in enumerate({"a": "7", "b": "8"}.items()):
            assert reader.job(job_id) is None
            records.add({"name": name, "id": job_id}, KEY, number)
            table["jobs"][number]["id"] = job_id
            assert ((reader.job(job_id) or {})["name"], reader.last_of(name)) == (name, job_id)
        records.keep(KEY, table)
    assert [reader.last_of(name) for name in "ab"] == ["7", "8"]


def test_one_at_a_time_though_the_lock_goes_with_who_had_it(records: Records) -> None:
    """The second waits for a file that the first one removes; the third comes while the second is at it."""
    inside: list[str] = []

    def work(name: str, seconds: float) -> None:
        with Records(str(records.folder)).submission(KEY):
            inside.append(name)
            time.sleep(seconds)
            inside.append(name)

    threads = [threading.Thread(target=work, args=one) for one in (("a", 0.4), ("b", 0.6))]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    while "b" not in inside:
        time.sleep(0.01)
    late = threading.Thread(target=work, args=("c", 0.0))
    late.start()
    for thread in (*threads, late):
        thread.join(20)
    assert all(first == second for first, second in zip(inside[::2], inside[1::2], strict=True)), inside
    assert os.listdir(records.folder / "submissions") == []


def test_a_line_that_was_not_written_whole_is_told(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:2]))
    with pytest.raises(HostError, match="No space left"):
        submitted(records, "7")


@pytest.mark.parametrize("line", ["x 9\n", "2 9\n", "0\n", "-1 9\n", "0 \n", "1 9"])
def test_a_line_that_a_kill_has_cut_is_left_out(records: Records, line: str) -> None:
    submitted(records, "7", "8", cut=True)
    with (records.folder / "submissions" / f"{KEY}.ids").open("a") as lines:
        lines.write(line)
    assert records.last_of("same") == "8" and records.job("9") is None


def test_a_link_that_takes_no_more_names_is_followed_by_another(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, left = os.link, iter([None] * 3)

    def few(*words: object, **more: object) -> None:
        if next(left, 1) is not None:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        link(*words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", few)
    submitted(records, "7", "8", "9")
    assert [(records.job(one) or {}).get("id") for one in ("7", "8", "9")] == ["7", "8", "9"]


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


def test_where_a_link_has_one_name_only_there_are_more_links(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*words: object, **more: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", none)
    submitted(records, "7", "8")
    assert records.last_of("same") == "8"
    assert (records.folder / "names" / "same").is_symlink()


@pytest.mark.parametrize("text", ["", ":", "../../../etc/passwd", "nothing"])
def test_a_damaged_link_is_as_if_it_had_never_been(records: Records, text: str) -> None:
    for kind in ("jobs", "names"):
        if text:
            (records.folder / kind / "1").symlink_to(text)
        else:
            (records.folder / kind / "1").write_text("no link")
    assert records.job("1") is None and records.last_of("1") is None
