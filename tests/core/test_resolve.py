"""Dependencies across submissions and users: what a name or an id means, and what is refused."""

from __future__ import annotations

import pytest
from core_helpers import GIB, launched, node, settle, spec, submit

from batchns.core.explain import explain
from batchns.core.job import Edge
from batchns.core.reasons import Why, render
from batchns.core.schedule import Schedule
from batchns.errors import UserError
from batchns.model.job import Condition
from batchns.model.lifecycle import Event, State


def empty(cpus: int = 8) -> Schedule:
    return Schedule(node(cpus))


def end(schedule: Schedule, job_id: str, event: Event = Event.EXITED_OK, now: float = 1.0) -> None:
    schedule.finish(job_id, event, now)


def arrays(schedule: Schedule, job_id: str) -> list[tuple[str, ...]]:
    return [edge.arrays for edge in schedule[job_id].edges]


def test_a_name_means_the_jobs_of_the_same_submission_before_any_other() -> None:
    schedule = empty()
    submit(schedule, spec("prep"), user="alice")
    submit(schedule, spec("prep"), spec("prep"), spec("main", after=["afterok:prep"]), user="alice")
    assert arrays(schedule, "4") == [("2", "3")]


def test_else_it_means_the_users_last_submission_that_has_it() -> None:
    schedule = empty()
    submit(schedule, spec("prep"), user="alice")
    submit(schedule, spec("prep"), spec("prep"), user="alice")
    submit(schedule, spec("other"), user="alice")
    submit(schedule, spec("prep"), user="bob")
    submit(schedule, spec("main", after=["afterok:prep"]), user="alice")
    assert arrays(schedule, "6") == [("2", "3")]
    settle(schedule, 0.0)
    end(schedule, "2")
    assert render(explain(schedule, "6")) == "waits for afterok:prep"
    end(schedule, "3")
    assert launched(settle(schedule, 1.0)) == ["6"]


def test_a_later_submission_of_that_name_changes_nothing_for_who_waits_already() -> None:
    schedule = empty()
    submit(schedule, spec("prep"), user="alice")
    submit(schedule, spec("main", after=["afterok:prep"]), user="alice")
    submit(schedule, spec("prep"), user="alice")
    settle(schedule, 0.0)
    end(schedule, "1")
    assert launched(settle(schedule, 1.0)) == ["2"]


@pytest.mark.parametrize(("event", "starts"), [(Event.EXITED_OK, True), (Event.EXITED_BAD, False)])
def test_an_edge_on_a_job_that_is_over_is_settled_at_once(event: Event, starts: bool) -> None:
    schedule = empty()
    submit(schedule, spec("prep"))
    settle(schedule, 0.0)
    end(schedule, "1", event)
    submit(schedule, spec("main", after=["afterok:1"]), spec("plan", after=["afternotok:prep"]), now=2.0)
    settle(schedule, 2.0)
    assert [schedule[job_id].state for job_id in "23"] == (
        [State.RUNNING, State.CANCELLED] if starts else [State.CANCELLED, State.RUNNING]
    )


def test_a_retry_that_is_still_due_is_no_end() -> None:
    schedule = empty()
    submit(schedule, spec("prep", max_retries=1))
    settle(schedule, 0.0)
    end(schedule, "1", Event.EXITED_BAD)
    submit(schedule, spec("main", after=["afterok:1"]), now=2.0)
    assert explain(schedule, "2").why is Why.DEPENDENCY


def test_after_counts_a_job_that_has_started_before() -> None:
    schedule = empty()
    submit(schedule, spec("server"))
    settle(schedule, 0.0)
    submit(schedule, spec("client", after=["after:server"]), now=1.0)
    assert launched(settle(schedule, 1.0)) == ["2"]


def test_an_id_of_a_task_is_that_task_alone() -> None:
    schedule = empty()
    submit(schedule, spec("sweep", tasks=3))
    submit(schedule, spec("plot", after=["afterok:1_1"]), spec("all", after=["afterok:1"]))
    assert schedule["2"].edges == (Edge(Condition.AFTEROK, "1_1", ("1",), 1),)
    settle(schedule, 0.0)
    end(schedule, "1_1")
    assert launched(settle(schedule, 1.0)) == ["2"]
    end(schedule, "1_0")
    end(schedule, "1_2")
    assert launched(settle(schedule, 1.0)) == ["3"]


def test_task_by_task_across_submissions() -> None:
    schedule = empty()
    submit(schedule, spec("first", tasks=3, memory=GIB))
    settle(schedule, 0.0)
    end(schedule, "1_2")
    submit(schedule, spec("second", tasks=3, after=["aftercorr:1"], memory=GIB), now=1.0)
    assert launched(settle(schedule, 1.0)) == ["2_2"]
    end(schedule, "1_0", Event.EXITED_BAD)
    end(schedule, "1_1")
    assert launched(settle(schedule, 1.0)) == ["2_1"]
    assert schedule["2_0"].state is State.CANCELLED


def test_a_number_that_is_a_name_here_is_the_name() -> None:
    schedule = empty()
    submit(schedule, spec("a"), user="alice")
    submit(schedule, spec("1"), spec("b", after=["afterok:1"]), user="alice")
    assert arrays(schedule, "3") == [("2",)]


def test_singletons_wait_for_those_of_their_user_over_all_submissions() -> None:
    schedule = empty()
    for user in ("alice", "bob", "alice", "alice"):
        submit(schedule, spec("only", after=["singleton"]), user=user)
    assert launched(settle(schedule, 0.0)) == ["1", "2"]
    assert render(explain(schedule, "4")) == "waits for other jobs of its name"
    schedule.finish("3", Event.CANCEL, 1.0)
    assert not settle(schedule, 1.0)
    end(schedule, "1")
    assert launched(settle(schedule, 1.0)) == ["4"]


NOBODYS = "main: dependency on {}: you have no job of this id that is known"


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        ("afterok:2", NOBODYS.format("2")),  # bob's
        ("afterok:99", NOBODYS.format("99")),
        ("afterok:2_0", NOBODYS.format("2_0")),
        ("afterok:3", NOBODYS.format("3")),  # what this very submission is about to be
        ("afterok:hers", "main: dependency on 'hers': no such job here, and none of yours that is known"),
        ("afterok:1_7", "main: dependency on 1_7: job 1 has no task 7 - write 1 for all"),
        ("aftercorr:1_0", "main: aftercorr:1_0 names one task - write aftercorr:1, or afterok:1_0"),
        ("aftercorr:1", "main: aftercorr:1: it has no task 2 - give both the same array"),
        ("aftercorr:sweep", "main: aftercorr:sweep: it has no task 2 - give both the same array"),
    ],
)
def test_what_points_nowhere_is_refused_and_others_jobs_are_as_if_they_were_not(edge: str, message: str) -> None:
    schedule = empty()
    submit(schedule, spec("sweep", tasks=2), user="alice")
    submit(schedule, spec("hers"), user="bob")
    with pytest.raises(UserError) as caught:
        submit(schedule, spec("main", tasks=3, after=[edge]), user="alice")
    assert str(caught.value).startswith(message)
    assert len(schedule) == 3


# What is over is forgotten.


def test_a_job_is_forgotten_only_when_it_is_over_and_nobody_who_waits_depends_on_it() -> None:
    schedule = empty(1)
    submit(
        schedule, spec("prep", max_retries=1), spec("main", after=["afterany:prep"]), spec("x", after=["after:prep"])
    )
    assert schedule.forget("1") == ()
    settle(schedule, 0.0)
    assert schedule.forget("1") == ()
    end(schedule, "1", Event.EXITED_BAD)
    assert schedule.forget("1") == ()  # a retry is due
    settle(schedule, 1.0)
    end(schedule, "1")
    assert schedule.forget("1") == ()  # jobs 2 and 3 have not started
    settle(schedule, 2.0)
    assert schedule["2"].state is State.RUNNING
    assert schedule.forget("1") == ()
    end(schedule, "2", now=3.0)
    settle(schedule, 3.0)
    assert schedule.forget("1") == ("1",)
    assert schedule.forget("1") == ("1",)
    assert "1" not in schedule
    assert not schedule.finished


def test_an_array_is_forgotten_as_a_whole() -> None:
    schedule = empty()
    submit(schedule, spec("sweep", tasks=3, memory=GIB))
    settle(schedule, 0.0)
    end(schedule, "1_0", Event.EXITED_BAD)
    assert schedule.forget("1_0") == ()
    submit(schedule, spec("main", after=["afterok:sweep"]), now=2.0)
    settle(schedule, 2.0)
    assert schedule["2"].state is State.CANCELLED
    end(schedule, "1_1")
    end(schedule, "1_2")
    assert schedule.forget("1_1") == ("1_0", "1_1", "1_2")


def test_a_name_is_forgotten_with_its_jobs() -> None:
    schedule = empty()
    submit(schedule, spec("prep"), spec("prep"))
    settle(schedule, 0.0)
    end(schedule, "1")
    end(schedule, "2")
    schedule.forget("1")
    assert schedule.named("", "prep") == ("2",)
    schedule.forget("2")
    with pytest.raises(UserError, match="no such job here"):
        submit(schedule, spec("main", after=["afterok:prep"]))
    assert not schedule._dependencies._names
