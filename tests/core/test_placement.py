"""Which CPUs a job gets, and what is counted."""

from __future__ import annotations

from core_helpers import GIB, node

from batchns.core.demand import Demand
from batchns.core.placement import Placement, Room
from batchns.core.reasons import FULL, Shortage


def placed(room: Room, demand: Demand) -> Placement | None:
    placement = room.place(demand)
    if placement is not None:
        room.take(demand, placement)
    return placement


def test_whole_cpus_stay_on_one_memory_node_where_they_fit() -> None:
    """Two CPUs of node 1 rather than one of each, and the memory node follows."""
    room = Room(node(4, per_memory_node=2))
    assert placed(room, Demand(whole=1)) == Placement((0,), (0,))
    assert placed(room, Demand(whole=2)) == Placement((2, 3), (1,))


def test_whole_cpus_fill_the_memory_node_they_fill_best() -> None:
    """One CPU goes where one is left, so that the pair stays whole."""
    room = Room(node(4, per_memory_node=2))
    placed(room, Demand(whole=1, cpuset=(2,)))
    assert placed(room, Demand(whole=1)) == Placement((3,), (1,))
    assert placed(room, Demand(whole=2)) == Placement((0, 1), (0,))


def test_whole_cpus_spread_over_memory_nodes_only_when_they_must() -> None:
    room = Room(node(4, per_memory_node=2))
    assert placed(room, Demand(whole=3)) == Placement((0, 1, 2), (0, 1))


def test_shares_are_packed_on_the_fullest_cpu_with_room() -> None:
    room = Room(node(3))
    half, third = Demand(share=FULL // 2), Demand(share=FULL // 3)
    assert [placed(room, demand) for demand in (half, third, half, third)] == [
        Placement((0,), (0,)),
        Placement((0,), (0,)),
        Placement((1,), (0,)),
        Placement((1,), (0,)),
    ]


def test_a_shared_cpu_is_never_handed_out_whole() -> None:
    room = Room(node(2))
    placed(room, Demand(share=1))
    assert placed(room, Demand(whole=2)) is None
    assert placed(room, Demand(whole=1)) == Placement((1,), (0,))


def test_ten_tenths_make_one_cpu() -> None:
    """Shares are counted exactly: no rounding keeps the tenth job out, none lets an eleventh in."""
    room = Room(node(1))
    tenth = Demand(share=FULL // 10)
    assert [placed(room, tenth) is not None for _ in range(11)] == [True] * 10 + [False]


def test_a_cpuset_by_hand_is_taken_literally() -> None:
    room = Room(node(4))
    assert placed(room, Demand(whole=2, cpuset=(1, 3))) == Placement((1, 3), (0,))
    assert placed(room, Demand(whole=1, cpuset=(3,))) is None
    assert placed(room, Demand(share=1, cpuset=(3,))) is None
    assert placed(room, Demand(share=FULL // 2, cpuset=(0,))) == Placement((0,), (0,))
    assert placed(room, Demand(share=FULL // 2, cpuset=(0,))) == Placement((0,), (0,))
    assert placed(room, Demand(share=1, cpuset=(0,))) is None


def test_giving_back_restores_everything() -> None:
    room = Room(node(2, egress=100, named={"gpus": 1}))
    demand = Demand(whole=2, memory=GIB, egress=60, named=(("gpus", 1),))
    placement = placed(room, demand)
    assert placement is not None
    assert not room.fits(demand)
    room.give(demand, placement)
    assert room.place(demand) == placement


def test_a_shortage_names_the_resource_and_the_numbers() -> None:
    room = Room(node(2, memory=4 * GIB, ingress=100, named={"gpus": 1}))
    placed(room, Demand(whole=1, memory=GIB, ingress=60, named=(("gpus", 1),)))
    assert room.shortage(Demand(whole=2)) == Shortage("cpus", 2 * FULL, FULL, 2 * FULL)
    assert room.shortage(Demand(whole=1, memory=4 * GIB)) == Shortage("memory", 4 * GIB, 3 * GIB, 4 * GIB)
    assert room.shortage(Demand(whole=1, ingress=50)) == Shortage("ingress", 50, 40, 100)
    assert room.shortage(Demand(whole=1, named=(("gpus", 1),))) == Shortage("gpus", 1, 0, 1)
    assert room.shortage(Demand(whole=1, cpuset=(0,))) == Shortage("cpuset", 1, 0, 1)
    assert room.shortage(Demand(whole=1)) is None


def test_trying_on_a_copy_leaves_the_room_as_it_is() -> None:
    room = Room(node(2, named={"gpus": 1}))
    demand = Demand(whole=2, memory=GIB, named=(("gpus", 1),))
    assert placed(room.copy(), demand) is not None
    assert room.fits(demand)


def test_units_that_are_told_apart_are_handed_out_from_the_lowest_free_one() -> None:
    room = Room(node(8, named={"gpus": 3, "seats": 9}, units={"gpus"}))
    two, one = Demand(whole=1, named=(("gpus", 2), ("seats", 1))), Demand(whole=1, named=(("gpus", 1),))
    first, second = placed(room, two), placed(room, one)
    assert first is not None
    assert second is not None
    assert (first.units, second.units) == ((("gpus", (0, 1)),), (("gpus", (2,)),))
    assert room.place(one) is None
    room.give(two, first)
    assert placed(room, one) == Placement((0,), (0,), (("gpus", (0,)),))
    room.give(one, second)
    again = placed(room, two)
    assert again is not None
    assert again.units == (("gpus", (1, 2)),)


def test_units_tried_on_a_copy_stay_free() -> None:
    room = Room(node(2, named={"gpus": 1}, units={"gpus"}))
    demand = Demand(whole=1, named=(("gpus", 1),))
    assert placed(room.copy(), demand) == placed(room.copy(), demand) == room.place(demand)


def test_what_is_only_counted_has_no_numbers() -> None:
    placement = Room(node(1, named={"seats": 2})).place(Demand(whole=1, named=(("seats", 2),)))
    assert placement == Placement((0,), (0,))
