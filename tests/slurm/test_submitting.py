"""Submissions: all jobs or none, each once, whatever becomes of an answer."""

from __future__ import annotations

import errno
import os

import pytest

from batchns.errors import HostError
from batchns.model.parcel import unpack
from batchns.model.problems import JobFileErrors
from batchns.slurm.tools import Silent, Tools
from batchns.wire.engine import Refusal, Unreachable
from tests.slurm.fake import FakeSlurm, jobs, request


def option(words: list[str], name: str) -> str:
    return next((word.partition("=")[2] for word in words if word.startswith(f"--{name}=")), "")


def test_jobs_get_ids_and_carry_their_submission(fake: FakeSlurm) -> None:
    found = fake.engine().submit(request(jobs("a", "b", b='array = "0-3"'), "k1"))
    assert [(job.id, job.name, job.tasks) for job in found.jobs] == [("101", "a", 1), ("102", "b", 4)]
    assert [option(words, "comment") for words in fake.submissions()] == ["batchns:k1:0", "batchns:k1:1"]
    assert unpack((fake.bin / "script.102").read_text())["spec"]["name"] == "b"


def test_the_same_key_submits_nothing_again(fake: FakeSlurm) -> None:
    first = fake.engine().submit(request(jobs("a", "b"), "k1"))
    assert fake.engine().submit(request(jobs("a", "b"), "k1")) == first
    assert len(fake.submissions()) == 2


def test_a_key_is_of_one_submission(fake: FakeSlurm) -> None:
    fake.engine().submit(request(jobs("a"), "k1"))
    for others in (jobs("a", "b"), jobs("b"), jobs("a", a="max_retries = 1")):
        with pytest.raises(Refusal, match="k1 had other jobs - choose another --key"):
            fake.engine().submit(request(others, "k1"))
    assert len(fake.submissions()) == 1


def test_a_submission_that_was_cut_is_completed_and_what_was_there_is_found(fake: FakeSlurm) -> None:
    engine = fake.engine()
    first = engine.submit(request(jobs("a", "b"), "k1"))
    path = fake.state / "submissions" / "k1.json"
    path.write_text(path.read_text().replace(', "id": "102"', ""))
    assert engine.submit(request(jobs("a", "b"), "k1")) == first
    assert len(fake.submissions()) == 2


def test_an_answer_that_is_lost_is_looked_for_before_anything_is_submitted_again(fake: FakeSlurm) -> None:
    fake.put("silent", "1")
    assert fake.engine().submit(request(jobs("a"))).jobs[0].id == "101"
    assert len(fake.submissions()) == 1


def test_what_did_not_arrive_is_submitted_again(fake: FakeSlurm) -> None:
    fake.put("deaf", "2")
    assert fake.engine().submit(request(jobs("a"))).jobs[0].id == "101"
    assert len(fake.submissions()) == 3


def test_a_controller_that_never_answers_is_given_up_and_the_key_is_good_for_later(fake: FakeSlurm) -> None:
    fake.put("deaf", "3")
    with pytest.raises(Silent):
        fake.engine().submit(request(jobs("a"), "k1"))
    assert fake.engine().submit(request(jobs("a"), "k1")).jobs[0].id == "101"


def test_a_job_that_got_there_twice_is_cancelled_once(fake: FakeSlurm) -> None:
    """The first is accepted so late that nobody sees it before the second is there."""
    fake.put("deaf", "1")
    late = {"id": "90", "state": "PENDING", "comment": "batchns:k1:0", "name": "a"}

    def accept() -> None:
        if len(fake.submissions()) == 2 and not fake.calls("scancel"):
            text = (fake.bin / "squeue.says").read_text()
            fake.queue(late)
            fake.put("squeue.says", (fake.bin / "squeue.says").read_text() + text)

    engine = fake.engine()
    run = engine._tools.run

    class Late:
        environ = engine._tools.environ

        def run(self, *words: str, **more: object) -> str:
            said = run(*words, **more)  # type: ignore[arg-type]
            if words[0] == "sbatch":
                accept()
            return said

    engine._tools = engine._polled._tools = Late()  # type: ignore[assignment]
    assert engine.submit(request(jobs("a"), "k1")).jobs[0].id == "101"
    assert fake.calls("scancel") == [["scancel", "90"]]


def test_a_refusal_takes_back_the_others(fake: FakeSlurm) -> None:
    fake.put("refuse", "b")
    with pytest.raises(Refusal, match="Invalid account"):
        fake.engine().submit(request(jobs("a", "b"), "k1"))
    assert fake.calls("scancel") == [["scancel", "101"]]


def test_dependencies_are_ids_of_this_submission_or_of_an_earlier_one(fake: FakeSlurm) -> None:
    engine = fake.engine()
    engine.submit(request(jobs("prep")))
    depends = {"b": 'dependency = ["afterok:a:prep", "afterany:77_3"]', "a": ""}
    engine.submit(request(jobs("b", "a", **depends)))
    by_name = {option(words, "job-name"): option(words, "dependency") for words in fake.submissions()}
    assert by_name == {"prep": "", "a": "", "b": "afterok:102:101,afterany:77_3"}


def test_many_jobs_are_submitted_side_by_side_and_none_before_what_it_depends_on(fake: FakeSlurm) -> None:
    names = [f"j{number}" for number in range(20)]
    text = jobs("last", *names, last=f'dependency = ["afterok:{":".join(names)}"]')
    found = {job.name: int(job.id) for job in fake.engine().submit(request(text)).jobs}
    assert sorted(found.values()) == list(range(101, 122))
    assert found["last"] == 121


def test_jobs_that_wait_for_each_other_and_unknown_names_are_refused(fake: FakeSlurm) -> None:
    with pytest.raises(Refusal, match="wait for each other: a, b"):
        fake.engine().submit(request(jobs("a", "b", a='dependency = ["afterok:b"]', b='dependency = ["afterok:a"]')))
    with pytest.raises(Refusal, match="no job 'nope'"):
        fake.engine().submit(request(jobs("a", a='dependency = ["afterok:nope"]')))
    assert fake.submissions() == []


def test_what_the_cluster_cannot_do_is_refused_unless_it_is_agreed_to(fake: FakeSlurm) -> None:
    text = jobs("a", a="resources.pids = 10")
    with pytest.raises(JobFileErrors, match="allow-degraded"):
        fake.engine().submit(request(text, "k1"))
    assert fake.submissions() == []
    assert fake.engine(allow_degraded=True).submit(request(text, "k1")).jobs[0].id == "101"


def test_what_cannot_run_there_is_refused_in_any_case(fake: FakeSlurm) -> None:
    with pytest.raises(JobFileErrors, match="no partition"):
        fake.engine(allow_degraded=True).submit(request(jobs("a", a='queue = "nope"')))


def test_without_slurm_it_is_said_what_to_do(fake: FakeSlurm) -> None:
    (fake.bin / "scontrol").unlink()
    engine = fake.engine()
    engine._tools = Tools({"PATH": str(fake.bin)})
    with pytest.raises(Unreachable, match="scontrol is not installed"):
        engine.submit(request(jobs("a")))


def test_what_is_old_is_forgotten_once_a_day(fake: FakeSlurm) -> None:
    engine = fake.engine()
    engine.submit(request(jobs("a"), "k1"))
    kept = fake.state / "submissions" / "k1.json"
    os.utime(kept, (1.0, 1.0))
    fake.now = 1.0 + 91 * 86400
    engine.submit(request(jobs("b"), "k2"))
    assert kept.exists()
    os.utime(fake.state / "pruned", (1.0, 1.0))
    engine.submit(request(jobs("c"), "k3"))
    assert not kept.exists()


class TestOfThoseThatAreOver:
    """A job that is depended on has ended, and Slurm may have forgotten it."""

    @pytest.fixture(autouse=True)
    def _ended(self, fake: FakeSlurm) -> None:
        fake.engine().submit(request(jobs("prep", "many", many='array = "0-1"'), "k"))
        fake.queue()
        fake.now += 500

    def depend(self, fake: FakeSlurm, *edges: str) -> str:
        fake.engine().submit(request(jobs("b", b=f"dependency = {list(edges)}")))
        return option(fake.submissions()[-1], "dependency")

    def test_what_is_satisfied_is_not_asked_of_slurm(self, fake: FakeSlurm) -> None:
        fake.result("101", state="COMPLETED", ended=1900.0)
        assert self.depend(fake, "afterok:prep", "afterany:101", "after:prep", "singleton") == "singleton"

    @pytest.mark.parametrize(
        ("edge", "state"),
        [
            ("afterok:prep", "FAILED"),
            ("afterok:101", "TIMEOUT"),
            ("afterok:prep", None),
            ("afternotok:prep", "COMPLETED"),
            ("afternotok:prep", None),
        ],
    )
    def test_what_never_will_be_is_refused(self, fake: FakeSlurm, edge: str, state: str | None) -> None:
        if state:
            fake.result("101", state=state, ended=1900.0)
        before = len(fake.submissions())
        with pytest.raises(Refusal, match="will never be satisfied"):
            self.depend(fake, edge)
        assert len(fake.submissions()) == before

    def test_slurm_is_not_believed_either_while_it_still_knows(self, fake: FakeSlurm) -> None:
        fake.queue({"id": "101", "state": "FAILED", "comment": "batchns:k:0", "ended": "1900"})
        with pytest.raises(Refusal, match="101 has ended as FAILED"):
            self.depend(fake, "afterok:prep")

    def test_a_task_that_failed_and_is_forgotten_counts(self, fake: FakeSlurm) -> None:
        fake.queue({"id": "102_1", "comment": "batchns:k:1"})
        fake.result("102_0", state="FAILED", ended=1900.0)
        with pytest.raises(Refusal, match="102_0 has ended as FAILED"):
            self.depend(fake, "afterok:many")
        assert self.depend(fake, "afterany:many") == "afterany:102"

    def test_an_id_that_nobody_knows_is_refused(self, fake: FakeSlurm) -> None:
        fake.put("squeue.error", "slurm_load_jobs error: Invalid job id specified")
        engine = fake.engine()
        engine._polled._keep("::alice", "", fake.now)
        with pytest.raises(Refusal, match="there is no job 999 to depend on"):
            engine.submit(request(jobs("b", b='dependency = ["afterany:999"]')))


def test_what_was_taken_back_is_not_found_again_and_has_no_name(fake: FakeSlurm) -> None:
    fake.put("refuse", "b")
    with pytest.raises(Refusal, match="Invalid account"):
        fake.engine().submit(request(jobs("a", "b"), "k1"))
    assert fake.engine()._records.last_of("a") is None
    fake.put("refuse", "")
    fake.now += 10
    before = len(fake.calls("scancel"))
    assert [job.id for job in fake.engine().submit(request(jobs("a", "b"), "k1")).jobs] == ["102", "103"]
    assert fake.calls("scancel")[before:] == [fake.calls("scancel")[0]], "should that have been lost"


def test_a_submission_that_is_cut_names_what_is_there_and_its_key(fake: FakeSlurm) -> None:
    engine = fake.engine()
    run = engine._tools.run

    class Cut:
        environ = engine._tools.environ
        error: BaseException = Silent("away")

        def run(self, *words: str, **more: object) -> str:
            if words[:1] == ("sbatch",) and "--job-name=b" in words:
                raise self.error
            return run(*words, **more)  # type: ignore[arg-type]

    engine._tools = engine._polled._tools = Cut()  # type: ignore[assignment]
    with pytest.raises(Silent, match=r"in the queue: 101 \(a\), of 2 - once more with --key k1"):
        engine.submit(request(jobs("a", "b"), "k1"))
    Cut.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as cut:
        engine.submit(request(jobs("a", "b"), "k1"))
    assert cut.value.__notes__ == ["in the queue: 101 (a), of 2"]
    assert [job.id for job in fake.engine().submit(request(jobs("a", "b"), "k1")).jobs] == ["101", "102"]


def test_a_folder_without_room_is_said_and_nothing_stays(fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*words: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(fake.state))

    engine = fake.engine()
    monkeypatch.setattr(os, "symlink", full)
    with pytest.raises(HostError, match="No space left"):
        engine.submit(request(jobs("a"), "k1"))
    assert fake.calls("scancel") == [["scancel", "101"]]
