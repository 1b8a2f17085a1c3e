"""Who is frozen, squeezed or ended for whom."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from attrs import evolve
from core_helpers import GIB, node, settle, spec

from batchns.core.actions import Action, Freeze, Launch, Reclaim, Requeue, Stop, Thaw
from batchns.core.admit import admit, expand
from batchns.core.decide import decide
from batchns.core.demand import Demand
from batchns.core.explain import explain
from batchns.core.job import Cause, FreezeCause
from batchns.core.node import NodeCapacity
from batchns.core.reasons import Why
from batchns.core.schedule import Schedule
from batchns.model.config import Bound, Config, FairShare, Order, Preemption, Queue, ScheduleSettings
from batchns.model.job import JobSpec, Network, Preempt, PreemptMode
from batchns.model.lifecycle import Event, State

QUEUES = {
    "normal": Queue(),
    "idle": Queue(priority=10),
    "urgent": Queue(priority=90, preempts=("normal", "idle")),
}


def config(**settings: object) -> Config:
    return Config(
        queues=QUEUES,
        schedule=ScheduleSettings(**settings),
        fair_share=FairShare(enabled=False),  # type: ignore[arg-type]
    )


class Bench:
    """Jobs come one after the other; ids are numbers from 1."""

    def __init__(self, chosen: Config | None = None, capacity: NodeCapacity | None = None) -> None:
        self.config = chosen or config()
        self.schedule = Schedule(capacity or node(4), self.config)

    def submit(self, *specs: JobSpec, now: float = 0.0) -> None:
        capacity = self.schedule.capacity
        made = expand(admit(specs, capacity, self.config), len(self.schedule) + 1, self.config, now)
        self.schedule.submit(made)

    def settle(self, now: float) -> list[Action]:
        return settle(self.schedule, now)

    def states(self) -> str:
        """R: running, S: frozen, P: pending, else the first letter of the state."""
        return "".join(job.state.name[0] for job in self.schedule)


def small(name: str = "job", **more: object) -> JobSpec:
    return spec(name, **{"memory": GIB, "time_limit": 1000.0, **more})  # type: ignore[arg-type]


def frozen(actions: Sequence[Action]) -> list[str]:
    return [action.job for action in actions if isinstance(action, Freeze)]


def test_an_urgent_job_takes_the_place_of_the_least_important_and_of_those_the_newest():
    bench = Bench()
    for now in range(4):
        bench.submit(small(queue="idle" if now in (1, 2) else "normal"), now=now)
        bench.settle(now)
    bench.submit(small(queue="urgent"), now=10)
    assert decide(bench.schedule, 10) == [Freeze("3", FreezeCause.PREEMPTED, "5", 10 + 172800.0)]
    bench.settle(10)
    assert bench.states() == "RRSRR"


def test_a_job_without_a_time_limit_is_frozen_for_another_without_one_again_and_again():
    """Nothing is known of either: no promise can stand in the way."""
    bench = Bench()
    bench.submit(spec(cpus=4, memory=GIB))
    for now in (0.0, 100.0, 200.0):
        bench.settle(now)
        bench.submit(spec(memory=GIB, queue="urgent"), now=now + 1)
        assert frozen(bench.settle(now + 1)) == ["1"]
        bench.schedule.finish(str(len(bench.schedule)), Event.EXITED_OK, now + 50)


def test_who_turns_out_not_to_be_needed_is_spared():
    """The newest has one CPU, the next one three: the three are enough."""
    bench = Bench()
    bench.submit(small(cpus=3), now=0)
    bench.settle(0)
    bench.submit(small(cpus=1), now=1)
    bench.settle(1)
    bench.submit(small(cpus=3, queue="urgent"), now=2)
    assert frozen(decide(bench.schedule, 2)) == ["1"]


def test_a_freeze_that_would_not_admit_the_one_that_waits_does_not_happen():
    """Memory stays with the frozen, and nobody has agreed to be ended."""
    bench = Bench(capacity=node(4, memory=8 * GIB))
    bench.submit(small(cpus=4, memory=6 * GIB))
    bench.settle(0)
    bench.submit(small(cpus=1, memory=4 * GIB, queue="urgent"), now=1)
    assert decide(bench.schedule, 1) == []
    assert explain(bench.schedule, "2", 1).why is Why.RESOURCES


def test_a_job_that_may_not_be_preempted_is_not():
    bench = Bench()
    bench.submit(small(cpus=4, preempt=Preempt(mode=PreemptMode.OFF)))
    bench.settle(0)
    bench.submit(small(queue="urgent"), now=1)
    assert decide(bench.schedule, 1) == []


def test_memory_that_is_lacking_is_taken_from_the_frozen_first():
    """1 is frozen for 2; 3 has the CPUs that it needs, but not the memory."""
    bench = Bench(config(frozen_memory=8 * GIB), node(4, memory=8 * GIB))
    bench.submit(small(cpus=4, memory=5 * GIB))
    bench.settle(0)
    bench.submit(small(cpus=1, queue="urgent"), now=1)
    bench.settle(1)
    bench.submit(small(cpus=1, memory=3 * GIB, queue="urgent"), now=2)
    assert decide(bench.schedule, 2) == [Reclaim("1")]
    bench.schedule.reclaiming("1")
    assert decide(bench.schedule, 2) == []  # what it can do without is still to be heard
    bench.schedule.reclaimed("1", 2 * GIB, 3)
    assert [action.job for action in decide(bench.schedule, 3)] == ["3"]


@pytest.mark.parametrize(("mode", "ends"), [("requeue", True), ("cancel", True), ("suspend", False)])
def test_those_that_said_so_are_ended_where_nothing_else_helps_and_no_others(mode: str, ends: bool):
    bench = Bench(capacity=node(4, memory=8 * GIB))
    bench.submit(small(memory=6 * GIB, preempt=Preempt(mode=PreemptMode(mode))))
    bench.settle(0)
    bench.submit(small(memory=4 * GIB, queue="urgent"), now=1)
    expected = [Stop("1", Cause.PREEMPTED, "2")] if ends else []
    assert decide(bench.schedule, 1) == expected


def test_a_requeued_job_starts_again_behind_the_urgent_one_and_uses_up_no_retry():
    bench = Bench(capacity=node(4, memory=8 * GIB))
    bench.submit(small(memory=6 * GIB, preempt=Preempt(mode=PreemptMode.REQUEUE)))
    bench.settle(0)
    bench.submit(small(memory=4 * GIB, queue="urgent"), now=1)
    bench.settle(1)
    bench.schedule.finish("1", Event.CANCEL, 2)
    actions = bench.settle(2)
    assert [type(action) for action in actions] == [Requeue, Launch]
    assert (bench.states(), bench.schedule["1"].attempt, bench.schedule["1"].requeues) == ("PR", 2, 1)


def test_a_job_that_was_done_before_it_was_ended_for_another_is_done():
    bench = Bench(capacity=node(4, memory=8 * GIB))
    bench.submit(small(memory=6 * GIB, preempt=Preempt(mode=PreemptMode.REQUEUE)))
    bench.settle(0)
    bench.submit(small(memory=4 * GIB, queue="urgent"), now=1)
    bench.settle(1)
    bench.schedule.finish("1", Event.EXITED_OK, 2)
    assert not bench.schedule.to_retry


def test_the_frozen_hold_no_more_memory_together_than_they_may():
    bench = Bench(config(frozen_memory=3 * GIB))
    bench.submit(small(cpus=4, memory=4 * GIB))
    bench.settle(0)
    bench.submit(small(queue="urgent"), now=1)
    assert decide(bench.schedule, 1) == []


def test_a_frozen_job_goes_on_wherever_there_is_room():
    bench = Bench()
    bench.submit(small(cpus=2), small(cpus=2))
    bench.settle(0)
    bench.submit(small(cpus=2, queue="urgent"), now=1)
    assert frozen(bench.settle(1)) == ["2"]
    bench.schedule.finish("1", Event.EXITED_OK, 2)
    thaw = bench.settle(2)[0]
    assert isinstance(thaw, Thaw)
    assert thaw.placement is not None
    assert thaw.placement.cpus == (0, 1)


@pytest.mark.parametrize("order", Order)
def test_a_frozen_job_whose_time_has_come_goes_before_everything(order: Order):
    """Whatever else of its user waits in front of it."""
    bench = Bench(config(max_frozen=50.0, order=order))
    bench.submit(small(cpus=1, time_limit=2000.0, priority=10, preempt=Preempt(grace_time=0.0)), *[small()] * 3)
    bench.settle(0)
    bench.submit(small(cpus=1, queue="urgent", time_limit=30.0, preempt=Preempt(grace_time=0.0)), now=1)
    assert frozen(bench.settle(1)) == ["1"]
    bench.submit(*[small(time_limit=10.0) for _ in range(3)], now=2)
    bench.schedule.finish("5", Event.EXITED_OK, 51)
    assert isinstance(decide(bench.schedule, 51)[0], Thaw)


def test_nobody_takes_the_parts_of_a_place_that_is_being_made():
    """The freeze is asked for, not yet confirmed; half of the place is free already."""
    bench = Bench()
    bench.submit(small(cpus=2))
    bench.settle(0)
    bench.submit(small(cpus=4, queue="urgent"), now=1)
    (freeze,) = decide(bench.schedule, 1)
    assert isinstance(freeze, Freeze)
    bench.schedule.freezing("1", 1, freeze.cause, by=freeze.by, thaw_by=freeze.thaw_by)
    bench.submit(small(cpus=1, queue="urgent", priority=90), now=2)
    assert decide(bench.schedule, 2) == []
    assert explain(bench.schedule, "2").why is Why.CLEARING
    bench.schedule.frozen("1", 3, confirmed=True)
    assert [action.job for action in decide(bench.schedule, 3)] == ["2"]


def test_a_freeze_that_fails_gives_up_the_place_and_is_not_tried_again():
    bench = Bench()
    bench.submit(small(cpus=4))
    bench.settle(0)
    bench.submit(small(cpus=1, queue="urgent"), now=1)
    bench.schedule.freezing("1", 1, FreezeCause.PREEMPTED, by="2", thaw_by=1000)
    bench.schedule.frozen("1", 2, confirmed=False)
    assert not bench.schedule.claims
    assert decide(bench.schedule, 2) == []


def test_one_that_was_made_room_for_does_not_start_past_a_bound_of_its_queue():
    """Another job of its user, that wants other things, has started while the freeze was being confirmed."""
    queues = {**QUEUES, "urgent": evolve(QUEUES["urgent"], per_user=Bound(jobs=1))}
    bench = Bench(evolve(config(), queues=queues), node(4, egress=100))
    bench.submit(small(network=Network(egress=100)))
    bench.settle(0)
    bench.submit(small(queue="urgent", network=Network(egress=50)), now=1)
    bench.schedule.freezing("1", 1, FreezeCause.PREEMPTED, by="2", thaw_by=5000.0)
    bench.submit(small(queue="urgent"), now=2)
    bench.settle(2)
    bench.schedule.frozen("1", 3, confirmed=True)
    bench.settle(3)
    assert bench.states() == "RPR"


def test_equals_give_way_to_each_other_after_a_slice_of_time():
    bench = Bench(config(time_slice=60.0), node(1))
    bench.submit(small(), small())
    bench.settle(0)
    assert bench.schedule.next_deadline() == 60.0
    assert decide(bench.schedule, 59.0) == []
    bench.settle(60.0)
    assert bench.states() == "SR"
    bench.settle(120.0)
    assert bench.states() == "RS"


def test_no_slice_is_given_to_a_job_of_less_priority():
    bench = Bench(config(time_slice=60.0), node(1))
    bench.submit(small(priority=60), small())
    bench.settle(0)
    assert decide(bench.schedule, 70.0) == []


def test_a_shorter_job_of_the_same_queue_takes_a_longer_ones_place_where_the_order_is_by_length():
    for order, states in ((Order.SHORTEST, "SR"), (Order.SUBMITTED, "RP")):
        bench = Bench(config(order=order, preempt=Preemption.SHORTER), node(1))
        bench.submit(small(time_limit=5000.0))
        bench.settle(0)
        bench.submit(small(time_limit=100.0), now=1)
        bench.settle(1)
        assert bench.states() == states


def test_a_shorter_job_of_another_queue_does_not():
    bench = Bench(config(order=Order.SHORTEST, preempt=Preemption.SHORTER), node(1))
    bench.submit(small(time_limit=5000.0, queue="idle"))
    bench.settle(0)
    bench.submit(small(time_limit=100.0), now=1)
    assert decide(bench.schedule, 1) == []


def test_a_job_is_left_alone_for_the_time_that_its_queue_says():
    queues = {**QUEUES, "normal": Queue(min_run=30.0)}
    bench = Bench(evolve(config(), queues=queues), node(1))
    bench.submit(small())
    bench.settle(0)
    bench.submit(small(queue="urgent"), now=1)
    assert decide(bench.schedule, 29.0) == []
    assert bench.schedule.next_deadline(1) == 30.0
    assert frozen(decide(bench.schedule, 30.0)) == ["1"]


class TestGoodNeighbour:
    """Jobs of queues that yield stand still while the machine is busy with what is not batchns's."""

    def bench(self) -> Bench:
        queues = {**QUEUES, "idle": Queue(priority=10, yields=True)}
        bench = Bench(evolve(config(), queues=queues))
        bench.submit(small(queue="idle"), small(), small(cpus=3, queue="idle"))
        bench.settle(0)
        assert bench.states() == "RRP"
        return bench

    def test_they_are_frozen_and_start_nothing(self):
        bench = self.bench()
        bench.schedule.yield_to_others(on=True)
        assert bench.settle(1) == [Freeze("1", FreezeCause.NEIGHBOUR)]
        assert explain(bench.schedule, "3").why is Why.YIELDING
        bench.schedule.yield_to_others(on=False)
        assert [type(action) for action in bench.settle(2)] == [Thaw]

    def test_a_pause_meanwhile_changes_nothing_about_it(self):
        bench = self.bench()
        bench.schedule.yield_to_others(on=True)
        bench.schedule.pause()
        bench.schedule.resume()
        assert bench.settle(1) == [Freeze("1", FreezeCause.NEIGHBOUR)]

    def test_one_that_goes_on_after_a_pause_is_frozen_if_the_machine_became_busy(self):
        bench = self.bench()
        bench.schedule.pause()
        bench.settle(1)
        bench.schedule.yield_to_others(on=True)
        bench.schedule.resume()
        bench.settle(2)
        assert bench.states() == "SRP"


def test_a_job_that_somebody_froze_goes_on_when_it_is_released():
    bench = Bench()
    bench.submit(small())
    bench.settle(0)
    bench.schedule.freezing("1", 1, FreezeCause.OWNER)
    bench.schedule.frozen("1", 1, confirmed=True)
    assert bench.settle(2) == []
    assert explain(bench.schedule, "1").why is Why.FROZEN
    bench.schedule.release("1")
    assert [type(action) for action in bench.settle(3)] == [Thaw]


def test_a_hold_on_a_frozen_job_does_not_keep_it_frozen():
    bench = Bench()
    bench.submit(small(cpus=4))
    bench.settle(0)
    bench.submit(small(queue="urgent"), now=1)
    bench.settle(1)
    bench.schedule.hold("1")
    bench.schedule.finish("2", Event.EXITED_OK, 2)
    bench.settle(2)
    assert bench.schedule["1"].state is State.RUNNING


def test_a_frozen_job_whose_memory_was_taken_needs_it_to_go_on_and_no_bound_counts_it_twice():
    queues = {**QUEUES, "normal": Queue(per_user=Bound(memory=5 * GIB))}
    bench = Bench(evolve(config(frozen_memory=8 * GIB), queues=queues), node(4, memory=8 * GIB))
    bench.submit(small(cpus=4, memory=5 * GIB))
    bench.settle(0)
    bench.submit(small(cpus=4, queue="urgent"), now=1)
    bench.settle(1)
    bench.schedule.reclaiming("1")
    bench.schedule.reclaimed("1", GIB, 2)
    assert bench.schedule.room().memory == 6 * GIB
    bench.schedule.finish("2", Event.EXITED_OK, 3)
    bench.settle(3)
    assert bench.states() == "RC"
    assert bench.schedule.room().memory == 3 * GIB


def test_fair_share_counts_a_frozen_job_by_its_memory():
    bench = Bench(capacity=node(4, memory=16 * GIB))
    bench.submit(small(cpus=4, memory=4 * GIB))
    bench.settle(0)
    bench.submit(small(cpus=4, queue="urgent"), now=10)
    bench.settle(10)
    shares = bench.schedule.shares
    assert shares._uses[""].held == shares.part(Demand(whole=4)) + shares.part(Demand(memory=4 * GIB))
    bench.schedule.finish("1", Event.LOST, 20)
    assert shares._uses[""].held == shares.part(Demand(whole=4))
