"""What was written down, replayed, is the schedule that lived: at any moment, and under another configuration."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from attrs import evolve
from core_helpers import GIB, launched, node, settle, spec, submit
from draws import NODE, configs, jobs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from recorded import LIVELY, Life, crowd, jobs_of, replayed
from same import differences

from batchns.core.actions import Thaw
from batchns.core.decide import decide
from batchns.core.demand import Demand
from batchns.core.explain import explain
from batchns.core.fairshare import Shares
from batchns.core.node import NodeCapacity
from batchns.core.promises import Promise, Promises, used
from batchns.core.reasons import render
from batchns.core.schedule import Schedule
from batchns.model.config import Backfill, Bound, Config, Order, Preemption, Queue, ScheduleSettings
from batchns.model.job import JobSpec
from batchns.model.lifecycle import Event, State

KINDS = (
    *("Submitted", "Launched", "Started", "FreezeAsked", "Freezing", "FreezeEnded", "Thawing", "Thawed"),
    *("Stopped", "Killed", "Finished", "Requeued", "Held", "Released", "Prioritised", "Closed", "Opened"),
)
thorough = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # what is drawn by chance does not shrink
)


def live(config: Config, submissions: list[list[JobSpec]], seed: int, steps: int) -> Life:
    life = Life(Schedule(NODE, config), random.Random(seed))
    for specs in submissions:
        life.submit(specs)
        for _ in range(steps // len(submissions)):
            life.decide()
            life.happen()
    return life


def check(life: Life, again: Schedule) -> None:
    """The same, and the same decisions. What only says that room was made by one who is over may be lost."""
    claims = life.schedule.claims
    for waiting in list(claims):
        if not claims.under_way(waiting) and waiting not in again.claims._open:
            claims.drop(waiting)
    assert not differences(life.schedule, again)
    for later in (0.0, 7.0, 300.0):
        assert decide(life.schedule, life.now + later) == decide(again, life.now + later)


@given(config=configs(), submissions=st.lists(jobs(most=6), min_size=2, max_size=6), seed=st.integers(), data=st.data())
@thorough
def test_a_replay_leads_to_the_same_schedule_and_the_same_decisions(
    config: Config, submissions: list[list[JobSpec]], seed: int, data: st.DataObject
) -> None:
    life = live(config, submissions, seed, data.draw(st.sampled_from((20, 60, 120, 240))))
    check(life, replayed(life, NODE, config))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"time_slice": 5.0},
        {"order": Order.SHORTEST, "preempt": Preemption.SHORTER, "reservations": 0},
        {"backfill": Backfill.SHORTEST, "reservations": None, "preempt": Preemption.SHORTER},
    ],
)
def test_a_crowd_that_is_in_its_own_way_is_replayed_at_every_moment(changed: dict[str, Any]) -> None:
    config = evolve(LIVELY, schedule=evolve(LIVELY.schedule, **changed))
    seen = Counter[str]()
    for seed in range(6):
        chance = random.Random(seed)
        life = Life(Schedule(NODE, config), chance)
        for _ in range(250):
            if chance.random() < 0.12:
                life.submit(crowd(chance))
            life.decide()
            life.happen()
            check(life, replayed(life, NODE, config))
        seen.update(type(change).__name__ for _, change in life.log)
    assert min(seen[kind] for kind in KINDS) > 0, seen


SMALLER = evolve(
    NODE, cpus=(0, 1, 2, 4), memory=6 * GIB, egress=60, named={"gpus": 1}, units=frozenset({"gpus"}), jobs=5
)


@given(
    config=configs(),
    other=configs(),
    capacity=st.sampled_from([NODE, SMALLER]),
    submissions=st.lists(jobs(most=6), min_size=2, max_size=6),
    seed=st.integers(),
    data=st.data(),
)
@thorough
def test_a_schedule_that_is_reconfigured_is_one_that_was_so_from_the_start(
    config: Config,
    other: Config,
    capacity: NodeCapacity,
    submissions: list[list[JobSpec]],
    seed: int,
    data: st.DataObject,
) -> None:
    """With queues that are gone, and CPUs, memory and devices that the node has no longer while jobs have them."""
    # What an attempt after one that was out of memory has more is bounded by the settings of the moment.
    submissions = [[evolve(one, retry_memory=1.0) for one in specs] for specs in submissions]
    life = live(config, submissions, seed, data.draw(st.sampled_from((20, 60, 120, 240))))
    before = jobs_of(life.schedule)
    gone = data.draw(st.sampled_from([(), ("idle",), ("urgent", "idle")]))
    other = evolve(other, queues={name: queue for name, queue in other.queues.items() if name not in gone})
    other = evolve(
        other,
        queues={
            name: evolve(queue, preempts=tuple(one for one in queue.preempts if one not in gone))
            for name, queue in other.queues.items()
        },
    )
    life.exported = life.schedule.shares.export(life.now)
    life.schedule.reconfigure(capacity, other, life.now)
    assert [(job.id, job.state) for job in before] == [(job.id, job.state) for job in jobs_of(life.schedule)]
    check(life, replayed(life, capacity, other))
    for job_id in life.schedule.pending:
        assert render(explain(life.schedule, job_id, life.now))
    for _ in range(40):  # and it lives on, whatever is in the way
        life.decide()
        life.happen()
    check(life, replayed(life, capacity, other))


def test_a_crowd_with_frozen_jobs_in_it_is_reconfigured() -> None:
    """There and back again, the node smaller and larger, urgent jobs no longer urgent."""
    turned = evolve(LIVELY, queues={**LIVELY.queues, "urgent": Queue(priority=20)})
    frozen = 0
    for seed in range(12):
        chance = random.Random(seed)
        life = Life(Schedule(NODE, LIVELY), chance)
        for step in range(200):
            if chance.random() < 0.12:
                life.submit(crowd(chance))
            life.decide()
            life.happen()
            if step % 25 == 24:
                frozen += sum(1 for _ in life.schedule.lending)
                capacity, config = ((NODE, LIVELY), (SMALLER, turned))[chance.random() < 0.5]
                life.exported = life.schedule.shares.export(life.now)
                life.schedule.reconfigure(capacity, config, life.now)
                check(life, replayed(life, capacity, config))
    assert frozen > 10


def test_whoever_cannot_run_any_more_is_told_so_and_is_in_nobodys_way() -> None:
    config = Config(queues={"normal": Queue(), "gone": Queue()}, schedule=ScheduleSettings(backfill=Backfill.OFF))
    schedule = Schedule(node(8), config)
    wide = spec("wide", cpus=6, memory=GIB, priority=90)
    submit(schedule, spec("runs", cpus=8, memory=6 * GIB))
    settle(schedule, 0.0)
    submit(schedule, wide, spec("lost", queue="gone", memory=GIB, priority=80))
    submit(schedule, spec("pinned", cpuset=(5,), memory=GIB, priority=70), spec("small", memory=GIB))
    schedule.reconfigure(node(4, memory=4 * GIB), Config(schedule=config.schedule), 1.0)
    assert schedule["1"].state is State.RUNNING
    assert schedule.room().memory == -2 * GIB
    assert [render(explain(schedule, job_id)) for job_id in "2345"] == [
        "cannot run: cpus 6, this machine has 4",
        "cannot run: there is no queue gone",
        "cannot run: cpuset 1, this machine has 1",
        "waits for cpus: 1 needed, 0 of 4 free",
    ]
    schedule.finish("1", Event.EXITED_OK, 2.0)
    assert launched(settle(schedule, 2.0)) == ["5"]
    assert [schedule[job_id].state for job_id in "234"] == [State.PENDING] * 3
    schedule.reconfigure(node(8), config, 3.0)
    assert launched(settle(schedule, 3.0)) == ["2", "3"]


def test_a_bound_that_became_smaller_than_a_job_is_told() -> None:
    schedule = Schedule(node(4), Config(queues={"normal": Queue()}))
    submit(schedule, spec(cpus=3, memory=GIB, hold=True))
    schedule.release("1")
    schedule.reconfigure(node(4), Config(queues={"normal": Queue(per_user=Bound(cpus=2.0))}), 1.0)
    assert render(explain(schedule, "1")) == "cannot run: cpus 3, its user's limit is 2"
    assert not settle(schedule, 1.0)


def test_a_frozen_job_goes_on_though_the_node_has_less_memory_than_it_holds() -> None:
    schedule = Schedule(node(4), Config())
    submit(schedule, spec(cpus=2, memory=6 * GIB))
    settle(schedule, 0.0)
    schedule.freeze("1", 1.0)
    settle(schedule, 1.0)
    schedule.reconfigure(node(4, memory=4 * GIB), Config(), 2.0)
    schedule.release("1")
    assert [type(action) for action in settle(schedule, 3.0)] == [Thaw]


def test_waiting_jobs_are_ranked_anew() -> None:
    schedule = Schedule(node(4), Config(queues={"normal": Queue(), "urgent": Queue(priority=90)}))
    submit(schedule, spec(cpus=4), spec(cpus=4), spec(cpus=4, queue="urgent"))
    settle(schedule, 0.0)
    turned = Config(queues={"normal": Queue(priority=95), "urgent": Queue(priority=90)})
    assert [job.id for job in schedule if job.state is State.RUNNING] == ["3"]
    schedule.reconfigure(node(4), turned, 1.0)
    submit(schedule, spec(cpus=4, queue="urgent"))
    schedule.finish("3", Event.EXITED_OK, 2.0)
    assert launched(settle(schedule, 2.0)) == ["1"]


def test_past_use_survives_a_restart_and_is_not_counted_twice() -> None:
    first, again = (Shares(node(4), 100.0, {}) for _ in range(2))
    half = Demand(whole=2)
    journal = [("alice", 0.0, 1), ("bob", 10.0, 1), ("alice", 50.0, -1)]
    for user, at, sign in journal:
        first.hold(user, half, at, sign)
    again.restore(first.export(80.0))
    first.hold("bob", half, 90.0, -1)
    for user, at, sign in [*journal[1:2], ("bob", 90.0, -1)]:  # alice's job is over: nothing is left of it
        again.hold(user, half, at, sign)
    for user in ("alice", "bob"):
        assert first.used(user, 200.0) == again.used(user, 200.0) > 0


def test_use_that_has_faded_is_forgotten() -> None:
    shares = Shares(node(4), 100.0, {})
    shares.hold("alice", Demand(whole=2), 0.0, 1)
    shares.hold("alice", Demand(whole=2), 50.0, -1)
    assert shares.export(60.0).keys() == {"alice"}
    assert not shares.export(1e5)


def test_promises_that_a_smaller_node_cannot_keep_bind_nobody_who_makes_it_no_worse() -> None:
    three = used(Demand(whole=3))
    frozen = [(name, Promise(10.0, 100.0, three, 0)) for name in ("one", "other")]
    promises = Promises(0.0, node(4), [], frozen)
    assert promises.start("one", 110.0, three)
    assert promises.start("short", 9.0, used(Demand(whole=1)))
    assert not promises.start("long", 20.0, used(Demand(whole=1)))
