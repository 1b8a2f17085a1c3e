"""What is said of jobs, from squeue, sacct and the nodes; and what is done to them, as calls of the tools."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from batchns.slurm.mapping import COMMENT
from batchns.slurm.records import Records
from batchns.wire.engine import Refusal
from batchns.wire.types import ActRequest
from tests.slurm.fake import CONFIG, FakeSlurm, jobs, request

DBD = CONFIG.replace("accounting_storage/none", "accounting_storage/slurmdbd")


def states(fake: FakeSlurm) -> dict[str, str]:
    return {row.id: row.state for row in fake.engine().jobs(ended=True)}


@pytest.mark.parametrize(
    ("slurm", "node", "state"),
    [
        ("PENDING", None, "PENDING"),
        ("CONFIGURING", None, "STARTING"),
        ("RUNNING", None, "RUNNING"),
        ("RUNNING", "RUNNING", "RUNNING"),
        ("RUNNING", "SUSPENDED", "SUSPENDED"),
        ("SUSPENDED", "RUNNING", "SUSPENDED"),
        ("COMPLETING", "COMPLETED", "COMPLETING"),
        ("COMPLETED", "COMPLETED", "COMPLETED"),
        ("COMPLETED", None, "COMPLETED"),
        ("FAILED", None, "FAILED"),
        ("FAILED", "TIMEOUT", "TIMEOUT"),
        ("FAILED", "COMPLETED", "FAILED"),
        ("TIMEOUT", "RUNNING", "TIMEOUT"),
        ("NODE_FAIL", "RUNNING", "NODE_FAIL"),
        ("BOOT_FAIL", None, "NODE_FAIL"),
        ("PREEMPTED", "CANCELLED", "PREEMPTED"),
        ("OUT_OF_MEMORY", "FAILED", "OUT_OF_MEMORY"),
        ("DEADLINE", None, "TIMEOUT"),
        ("CANCELLED", None, "CANCELLED"),
        ("REQUEUED", None, "PENDING"),
    ],
)
def test_slurms_states_and_the_nodes(fake: FakeSlurm, slurm: str, node: str | None, state: str) -> None:
    fake.queue({"id": "7", "state": slurm})
    if node:
        fake.result("7", state=node)
    assert states(fake) == {"7": state}


def test_a_frozen_job_that_runs_again_elsewhere_is_not_frozen(fake: FakeSlurm) -> None:
    """What the first node has written last is not of this attempt."""
    fake.queue({"id": "7", "nodes": "n2"})
    fake.result("7", state="SUSPENDED", host="n1")
    assert states(fake) == {"7": "RUNNING"}


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"host": "n2"}, "another node"),
        ({"since": 1099.0}, "before it was started"),
        ({"state": "PENDING"}, "no command runs"),
        ({"state": "FAILED"}, "it is over"),
    ],
)
def test_what_was_written_of_another_run_lets_no_signal_through(
    fake: FakeSlurm, told: dict[str, Any], why: str
) -> None:
    """It would end one that does not listen yet."""
    fake.queue({"id": "7"})
    fake.result("7", **{"state": "RUNNING", **told})
    assert act(fake, "freeze", "7") == [("7", False, "its node has not said that it runs")], why
    assert act(fake, "signal", "7", signal="USR1")[0][1] is False


def test_an_answer_that_began_before_something_was_changed_is_not_kept(fake: FakeSlurm) -> None:
    """Another process asked, and writes it down after our change."""
    fake.queue()
    ours, theirs = fake.engine(), fake.engine()
    asked = fake.now
    fake.now += 0.5
    ours.submit(request(jobs("a"), "k"))
    theirs._polled._keep("::alice", "", asked)
    assert [row.id for row in ours.jobs()] == ["101"]


def test_an_answer_is_as_old_as_its_question(fake: FakeSlurm) -> None:
    engine = fake.engine()
    run = engine._tools.run

    class Slow:
        environ = engine._tools.environ

        def run(self, *words: str) -> str:
            fake.now += 5
            return run(*words)

    engine._polled._tools = Slow()  # type: ignore[assignment]
    for _ in range(2):
        list(engine.jobs())
    assert len(fake.calls("squeue")) == 2


def test_a_job_whose_comment_the_cluster_has_changed_is_ours(fake: FakeSlurm) -> None:
    fake.engine().submit(request(jobs("a"), "k"))
    fake.queue(
        {"id": "101", "comment": "billed to physics", "state": "FAILED"}, {"id": "1+0", "comment": "batchns:k:0"}
    )
    fake.result("101", state="TIMEOUT", key="k")
    assert states(fake) == {"101": "TIMEOUT"}


def test_jobs_of_others_and_jobs_that_are_not_batchnss_are_left_out(fake: FakeSlurm) -> None:
    fake.queue({"id": "7"}, {"id": "8", "comment": "(null)"}, {"id": "9", "comment": "mine"})
    assert states(fake) == {"7": "RUNNING"}
    assert "--user=alice" in fake.calls("squeue")[0]


def test_one_squeue_answers_for_two_seconds_and_none_after_something_was_done(fake: FakeSlurm) -> None:
    fake.queue({"id": "7"})
    for _ in range(3):
        states(fake)
    assert len(fake.calls("squeue")) == 1
    fake.now += 2.5
    states(fake)
    assert len(fake.calls("squeue")) == 2
    fake.engine().act(ActRequest(verb="cancel", jobs=("7",)))
    states(fake)
    assert len(fake.calls("squeue")) == 4


def test_a_row_has_what_was_asked_for_and_what_the_node_says(fake: FakeSlurm) -> None:
    text = 'name = "a"\ncommand = ["true"]\ntime_limit = "90s"\n[resources]\ncpus = 0.5\nmemory = "1GiB"'
    fake.engine(allow_degraded=True).submit(request(text, "k"))
    fake.queue({"id": "101", "state": "FAILED", "name": "a", "ended": "1500", "cpus": 1})
    fake.result("101", state="FAILED", exit_code=3, reason="exit code 3", running_seconds=4.5, attempts=2)
    (row,) = fake.engine().jobs(ended=True)
    assert (row.cpus, row.memory, row.time_limit, row.queue) == (0.5, 1 << 30, 90.0, "normal")
    assert (row.exit_code, row.reason, row.running_seconds, row.attempt) == (3, "exit code 3", 4.5, 2)
    assert (row.started, row.ended, row.queued_seconds) == (1100.0, 1500.0, 100.0)


def test_why_is_slurms_reason_in_words_and_its_expectation(fake: FakeSlurm) -> None:
    fake.queue({"id": "7", "state": "PENDING", "reason": "Resources", "started": "5000"})
    why = fake.engine().why("7")
    assert (why.text, why.expected) == ("waits for room on the cluster", 5000.0)
    fake.now += 5
    fake.queue({"id": "7", "state": "PENDING", "reason": "QOSMaxJobsPerUserLimit"})
    assert "quality of service" in fake.engine().why("7").text


class TestForgotten:
    """squeue knows a job no longer."""

    @pytest.fixture(autouse=True)
    def _submitted(self, fake: FakeSlurm) -> None:
        fake.engine().submit(request(jobs("a", "b", b='array = "0-1"'), "k"))
        fake.queue()
        fake.now += 100

    def test_its_node_knows(self, fake: FakeSlurm) -> None:
        fake.result("101", state="COMPLETED", exit_code=0, ended=1600.0)
        assert fake.engine().job("101").row.state == "COMPLETED"

    @pytest.mark.parametrize("state", [None, "RUNNING", "SUSPENDED"])
    def test_nobody_knows(self, fake: FakeSlurm, state: str | None) -> None:
        if state:
            fake.result("101", state=state)
        assert fake.engine().job("101").row.state == "LOST"

    def test_a_result_of_another_submission_says_nothing(self, fake: FakeSlurm) -> None:
        fake.result("101", state="COMPLETED", key="other")
        assert fake.engine().job("101").row.state == "LOST"

    def test_its_end_was_seen_before(self, fake: FakeSlurm) -> None:
        fake.queue({"id": "101", "state": "NODE_FAIL", "name": "a", "ended": "1700"})
        fake.now += 10
        states(fake)
        fake.queue()
        fake.now += 10
        row = fake.engine().job("101").row
        assert (row.state, row.ended) == ("NODE_FAIL", 1700.0)

    def test_accounting_knows(self, fake: FakeSlurm) -> None:
        fake.put("config", DBD)
        fake.now += 100
        fake.put(
            "sacct.says", "101|a|alice|batch|OUT_OF_MEMORY|0:125|1000|1100|1200|100|1|100M|UNLIMITED|batchns:k:0\n"
        )
        row = fake.engine().job("101").row
        assert (row.state, row.started, row.ended) == ("OUT_OF_MEMORY", 1100.0, 1200.0)

    def test_all_tasks_of_an_array_by_its_id(self, fake: FakeSlurm) -> None:
        fake.result("102_0", state="COMPLETED", ended=1600.0)
        found = {row.id: row.state for row in fake.engine().jobs(("102",), ended=True)}
        assert found == {"102_0": "COMPLETED", "102_1": "LOST"}

    def test_a_task_that_only_its_node_knows_is_there_beside_those_that_slurm_knows(self, fake: FakeSlurm) -> None:
        fake.queue({"id": "102_1", "comment": "batchns:k:1", "name": "b"})
        fake.result("102_0", state="FAILED", ended=1600.0)
        for select in ("102", "b", "102_0-1"):
            found = {row.id: row.state for row in fake.engine().jobs((select,), ended=True)}
            assert found == {"102_0": "FAILED", "102_1": "RUNNING"}

    def test_history_is_of_the_user_who_is_meant(self, fake: FakeSlurm) -> None:
        assert list(fake.engine().history(user="bob", since=1000.0)) == []

    def test_what_was_just_submitted_is_not_lost(self, fake: FakeSlurm) -> None:
        fake.engine().submit(request(jobs("c"), "k3"))
        fake.queue()
        fake.now += 59
        assert fake.engine().job("103").row.state == "PENDING"
        fake.now += 2
        assert fake.engine().job("103").row.state == "LOST"

    def test_history_without_accounting(self, fake: FakeSlurm) -> None:
        fake.result("101", state="COMPLETED", ended=1900.0)
        fake.result("102_0", state="FAILED", ended=1950.0)
        found = [(row.id, row.state) for row in fake.engine().history(since=1000.0)]
        assert found[:2] in ([("102_1", "LOST"), ("102_0", "FAILED")], [("102_0", "FAILED"), ("101", "COMPLETED")])
        assert set(found) == {("102_1", "LOST"), ("102_0", "FAILED"), ("101", "COMPLETED")}

    def test_history_from_accounting(self, fake: FakeSlurm) -> None:
        fake.put("config", DBD)
        fake.now += 100
        fake.put(
            "sacct.says",
            "101|a|alice|batch|CANCELLED by 1000|0:0|1000|1100|1200|100|1|100M|UNLIMITED|\n"
            f"77|x|alice|batch|COMPLETED|0:0|1000|1100|1300|100|2|50Mc|UNLIMITED|{COMMENT}z:0\n"
            "78|theirs|alice|batch|COMPLETED|0:0|1000|1100|1300|100|1|100M|UNLIMITED|\n",
        )
        found = [(row.id, row.state, row.memory) for row in fake.engine().history(since=1000.0)]
        assert found == [("77", "COMPLETED", 100 << 20), ("101", "CANCELLED", None)]

    def test_there_is_no_such_job(self, fake: FakeSlurm) -> None:
        with pytest.raises(Refusal) as refused:
            fake.engine().job("999")
        assert refused.value.code == "not_found"


def act(fake: FakeSlurm, verb: str, *select: str, **more: Any) -> list[tuple[str, bool, str]]:
    answer = fake.engine().act(ActRequest(verb=verb, jobs=select, **more))
    return [(one.id, one.done, one.text) for one in answer.jobs]


class TestActing:
    @pytest.mark.parametrize("name", ["KILL", "SIGSTOP", "tstp", "9", "18"])
    def test_signals_that_are_not_the_commands(self, fake: FakeSlurm, name: str) -> None:
        fake.queue({"id": "7"})
        fake.result("7", state="RUNNING")
        with pytest.raises(Refusal, match="is not for a command on a cluster - batchns"):
            act(fake, "signal", "7", signal=name)

    def test_it_is_said_that_slurms_clock_goes_on(self, fake: FakeSlurm) -> None:
        fake.queue({"id": "7", "ended": "5000"})
        fake.result("7", state="RUNNING")
        fake.meanwhile.append(lambda: fake.result("7", state="SUSPENDED"))
        assert "Slurm's clock goes on" in act(fake, "freeze", "7")[0][2]

    @pytest.mark.parametrize(
        ("verb", "more", "state", "words"),
        [
            ("cancel", {}, "RUNNING", ["scancel", "7"]),
            ("cancel", {}, "PENDING", ["scancel", "7"]),
            ("cancel", {}, "COMPLETING", ["scancel", "--full", "--signal=KILL", "7"]),
            ("hold", {}, "PENDING", ["scontrol", "hold", "7"]),
            ("release", {}, "PENDING", ["scontrol", "release", "7"]),
            ("requeue", {}, "RUNNING", ["scontrol", "requeue", "7"]),
            ("priority", {"priority": 30}, "PENDING", ["scontrol", "update", "Nice=200", "JobId=7"]),
            ("signal", {"signal": "SIGUSR1"}, "RUNNING", ["scancel", "--batch", "--signal=USR1", "7"]),
        ],
    )
    def test_a_verb_is_a_call(
        self, fake: FakeSlurm, verb: str, more: dict[str, Any], state: str, words: list[str]
    ) -> None:
        fake.queue({"id": "7", "state": state})
        fake.result("7", state="RUNNING")
        assert act(fake, verb, "7", **more) == [("7", True, "")]
        assert fake.calls()[-1] == words

    def test_freezing_is_over_when_the_node_says_so(self, fake: FakeSlurm) -> None:
        fake.queue({"id": "7"}, {"id": "8"})
        fake.result("7", state="RUNNING")
        fake.result("8", state="RUNNING")
        fake.meanwhile.append(lambda: fake.result("7", state="SUSPENDED"))
        found = act(fake, "freeze", "7-8")
        assert [one[:2] for one in found] == [("7", True), ("8", False)]
        assert fake.calls()[-1] == ["scancel", "--batch", "--signal=35", "7", "8"]

    def test_a_frozen_job_is_thawed(self, fake: FakeSlurm) -> None:
        fake.queue({"id": "7"})
        fake.result("7", state="SUSPENDED")
        fake.meanwhile.append(lambda: fake.result("7", state="RUNNING"))
        assert act(fake, "thaw", "7") == [("7", True, "")]
        assert fake.calls()[-1] == ["scancel", "--batch", "--signal=36", "7"]

    @pytest.mark.parametrize(
        ("verb", "slurm", "node", "why"),
        [
            ("freeze", "PENDING", None, "it does not run"),
            ("freeze", "RUNNING", None, "its node has not said that it runs"),
            ("freeze", "RUNNING", "SUSPENDED", "it is frozen"),
            ("thaw", "RUNNING", "RUNNING", "it is not frozen"),
            ("thaw", "SUSPENDED", "RUNNING", "Slurm has suspended it"),
            ("cancel", "COMPLETED", None, "it is over"),
            ("hold", "RUNNING", None, "it has started"),
            ("requeue", "PENDING", None, "it does not run"),
        ],
    )
    def test_what_is_not_done(self, fake: FakeSlurm, verb: str, slurm: str, node: str | None, why: str) -> None:
        fake.queue({"id": "7", "state": slurm})
        if node:
            fake.result("7", state=node)
        assert act(fake, verb, "7") == [("7", False, why)]
        assert {words[0] for words in fake.calls()} == {"squeue"}

    def test_many_are_one_call_and_a_name_means_those_that_are_not_over(self, fake: FakeSlurm) -> None:
        fake.queue({"id": "7"}, {"id": "8_1"}, {"id": "8_2"}, {"id": "9", "state": "COMPLETED"})
        assert [one[:2] for one in act(fake, "cancel", "job")] == [("7", True), ("8_1", True), ("8_2", True)]
        assert fake.calls()[-1] == ["scancel", "7", "8_1", "8_2"]

    def test_each_has_its_own_reason_where_slurm_refuses(self, fake: FakeSlurm) -> None:
        fake.queue({"id": "7", "state": "PENDING"}, {"id": "8", "state": "PENDING"})
        fake.put("scontrol.error", "Access/permission denied")
        assert act(fake, "hold", "7", "8") == [
            ("7", False, "scontrol: Access/permission denied"),
            ("8", False, "scontrol: Access/permission denied"),
        ]


class TestOutput:
    def test_a_file_is_read_and_its_end(self, fake: FakeSlurm) -> None:
        out = fake.folder / "a.out"
        fake.engine().submit(request(jobs("a", a=f'stdout = "{out}"'), "k"))
        out.write_text("1\n2\n3\n")
        assert b"".join(fake.engine().logs("101")) == b"1\n2\n3\n"
        assert b"".join(fake.engine().logs("101", tail=2)) == b"2\n3\n"

    def test_it_is_followed_until_the_node_says_that_the_job_is_over(self, fake: FakeSlurm) -> None:
        out = fake.folder / "a.out"
        fake.engine().submit(request(jobs("a", a=f'stdout = "{out}"'), "k"))
        with fake.engine().logs("101", follow=True) as pieces:
            out.write_text("1\n")
            assert next(pieces) == b"1\n"
            out.write_text("1\n2\n")
            fake.result("101", state="COMPLETED")
            assert list(pieces) == [b"2\n"]

    def test_where_the_file_is_not_here_the_node_is_asked(self, fake: FakeSlurm) -> None:
        fake.engine().submit(request(jobs("a", a='stdout = "/nowhere/a"'), "k"))
        fake.queue({"id": "101", "raw": "300", "name": "a"})
        fake.put("srun.says", "from there\n")
        fake.now += 10
        with fake.engine().logs("101", follow=True) as pieces:
            assert b"".join(pieces) == b"from there\n"
        words = fake.calls("srun")[0]
        assert "--jobid=300" in words and words[-1] == "/nowhere/a"

    def test_what_has_not_started_has_none(self, fake: FakeSlurm) -> None:
        fake.engine().submit(request(jobs("a", a='stdout = "/nowhere/a"'), "k"))
        with pytest.raises(Refusal, match="has not started"):
            fake.engine().logs("101")


def test_events_tell_of_each_change_once(fake: FakeSlurm) -> None:
    fake.queue({"id": "7", "state": "PENDING"})
    fake.meanwhile.append(lambda: fake.queue({"id": "7", "state": "COMPLETED", "ended": "1500"}))
    with fake.engine().events(("7",)) as events:
        found = [next(events) for _ in range(2)]
    assert [event[1].state for event in found if isinstance(event, tuple)] == ["PENDING", "COMPLETED"]


def test_a_disk_without_room_keeps_nobody_from_looking(fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*words: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fake.engine().submit(request(jobs("a"), "k"))
    fake.queue({"id": "101", "state": "NODE_FAIL", "ended": "1500", "comment": "batchns:k:0"})
    monkeypatch.setattr(Records, "_write", full)
    assert states(fake) == {"101": "NODE_FAIL"}


@pytest.mark.parametrize("seen", [True, False])
def test_how_slurm_ended_a_job_is_of_its_last_run(fake: FakeSlurm, seen: bool) -> None:
    """An operator queues it again. `seen`: somebody asks while it runs."""
    fake.engine().submit(request(jobs("a"), "k"))
    fake.queue({"id": "101", "state": "NODE_FAIL", "ended": "1500", "comment": "batchns:k:0"})
    assert states(fake) == {"101": "NODE_FAIL"}
    fake.now += 600
    if seen:
        fake.queue({"id": "101", "state": "RUNNING", "started": "2100", "comment": "batchns:k:0"})
        assert states(fake) == {"101": "RUNNING"}
        fake.now += 600
    fake.result("101", key="k", state="COMPLETED", started=2100.0, ended=2200.0, exit_code=0)
    fake.queue()
    (row,) = fake.engine().jobs(("101",), ended=True)
    assert (row.state, row.ended) == ("COMPLETED", 2200.0)


def test_another_end_takes_the_place_of_the_one_before(fake: FakeSlurm) -> None:
    fake.engine().submit(request(jobs("a"), "k"))
    for state, ended in (("NODE_FAIL", "1500"), ("PREEMPTED", "1700")):
        fake.queue({"id": "101", "state": state, "ended": ended, "comment": "batchns:k:0"})
        assert states(fake) == {"101": state}
        fake.now += 600
    fake.queue()
    (row,) = fake.engine().jobs(("101",), ended=True)
    assert (row.state, row.ended) == ("PREEMPTED", 1700.0)
