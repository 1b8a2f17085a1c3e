"""Whole CPUs on made-up machines: cores stay whole, threads of a core together, memory nodes few."""

from __future__ import annotations

import time
from itertools import count as counting

from attrs import frozen
from core_helpers import GIB
from hypothesis import given
from hypothesis import strategies as st

from batchns.core.demand import Demand
from batchns.core.node import NodeCapacity
from batchns.core.placement import Placement, Room
from batchns.core.reasons import FULL


@frozen
class Machine:
    """`nodes`: for each memory node its cores, each the CPU numbers of its threads."""

    nodes: tuple[tuple[tuple[int, ...], ...], ...]

    @property
    def capacity(self) -> NodeCapacity:
        cpus = sorted(cpu for cores in self.nodes for core in cores for cpu in core)
        mems = {cpu: node for node, cores in enumerate(self.nodes) for core in cores for cpu in core}
        cores = {cpu: core[0] for cores in self.nodes for core in cores for cpu in core}
        return NodeCapacity(cpus=tuple(cpus), memory=len(cpus) * GIB, mems=mems, cores=cores)


def machine(nodes: int, cores: int, threads: int, *, apart: bool = True) -> Machine:
    """As x86 numbers them (`apart`): first one thread of every core, then the second ones; else side by side."""
    total = nodes * cores
    return Machine(
        tuple(
            tuple(
                tuple((core + thread * total) if apart else (core * threads + thread) for thread in range(threads))
                for core in range(node * cores, (node + 1) * cores)
            )
            for node in range(nodes)
        )
    )


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Up to three memory nodes of up to four cores of up to four threads, numbered in any way."""
    shape = draw(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=3))
    total = sum(map(sum, shape))
    numbers = iter(draw(st.permutations(range(total))))
    return Machine(tuple(tuple(tuple(sorted(next(numbers) for _ in range(size))) for size in cores) for cores in shape))


uniform = st.builds(machine, st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), apart=st.booleans())
demands = st.one_of(
    st.builds(Demand, whole=st.integers(1, 6)),
    st.builds(Demand, share=st.sampled_from([FULL // 4, FULL // 2, FULL * 3 // 4])),
)


def used_room(made: Machine, wishes: list[Demand], ends: list[int]) -> Room:
    """A room in which jobs have come, and some of them gone."""
    room = Room(made.capacity)
    running: list[tuple[Demand, Placement]] = []
    for number, demand in enumerate(wishes):
        placement = room.place(demand)
        if placement is not None:
            room.take(demand, placement)
            running.append((demand, placement))
        if number in ends and running:
            room.give(*running.pop(number % len(running)))
    return room


def idle(room: Room, core: tuple[int, ...]) -> list[int]:
    return [cpu for cpu in core if room.load(cpu) == 0]


def fewest_cores(sizes: list[int], count: int) -> int:
    """How many cores with so many idle threads each it takes at least."""
    for number, size in zip(counting(1), sorted(sizes, reverse=True), strict=False):
        count -= size
        if count <= 0:
            return number
    raise AssertionError("there are not so many")


wishes = st.lists(demands, max_size=10)
ends = st.lists(st.integers(0, 9), max_size=5)


@given(machines(), wishes, ends, st.integers(1, 12))
def test_one_memory_node_where_it_fits_and_its_memory_follows(
    made: Machine, wishes: list[Demand], ends: list[int], count: int
) -> None:
    room = used_room(made, wishes, ends)
    free = [sum(len(idle(room, core)) for core in cores) for cores in made.nodes]
    placement = room.place(Demand(whole=count))
    assert (placement is None) == (sum(free) < count)
    if placement is None:
        return
    assert len(set(placement.cpus)) == count
    assert list(placement.cpus) == sorted(placement.cpus)
    assert {room.load(cpu) for cpu in placement.cpus} == {0}
    assert placement.mems == tuple(sorted({made.capacity.memory_node(cpu) for cpu in placement.cpus}))
    assert len(placement.mems) == fewest_cores(free, count)


@given(uniform, wishes, ends, st.integers(1, 8))
def test_a_job_that_whole_cores_of_one_node_can_serve_shares_none(
    made: Machine, wishes: list[Demand], ends: list[int], count: int
) -> None:
    """Where a node has so many idle cores, for a number of CPUs that whole cores have."""
    room = used_room(made, wishes, ends)
    size = len(made.nodes[0][0])
    whole = [sum(len(idle(room, core)) == size for core in cores) for cores in made.nodes]
    if count % size or count // size > max(whole):
        return
    placement = room.place(Demand(whole=count))
    assert placement is not None
    touched = [core for cores in made.nodes for core in cores if set(core) & set(placement.cpus)]
    assert all(set(core) <= set(placement.cpus) for core in touched)


@given(uniform, wishes, ends, st.integers(1, 12))
def test_no_more_cores_are_used_than_must_be(made: Machine, wishes: list[Demand], ends: list[int], count: int) -> None:
    """Among the memory nodes that could take the job, the one where its threads are together best."""
    room = used_room(made, wishes, ends)
    free = [[len(found) for core in cores if (found := idle(room, core))] for cores in made.nodes]
    able = [sizes for sizes in free if sum(sizes) >= count]
    placement = room.place(Demand(whole=count))
    if placement is None or not able:
        return
    cores = {made.capacity.cores[cpu] for cpu in placement.cpus}
    assert len(cores) == min(fewest_cores(sizes, count) for sizes in able)


@given(machines(), wishes, ends, demands)
def test_the_same_room_gives_the_same_place(
    made: Machine, wishes: list[Demand], ends: list[int], demand: Demand
) -> None:
    first, second = used_room(made, wishes, ends), used_room(made, wishes, ends)
    assert first.place(demand) == second.place(demand) == first.copy().place(demand)
    assert first.fits(demand) == (first.place(demand) is not None)


def test_threads_of_a_core_go_together_though_their_numbers_are_far_apart() -> None:
    """Cores (0, 4), (1, 5) ... of two memory nodes."""
    room = Room(machine(2, 2, 2).capacity)
    assert room.place(Demand(whole=2)) == Placement((0, 4), (0,))
    assert room.place(Demand(whole=4)) == Placement((0, 1, 4, 5), (0,))


def test_what_is_less_than_a_core_breaks_no_other_one() -> None:
    room = Room(machine(1, 3, 2, apart=False).capacity)
    one = Demand(whole=1)
    for expected in (0, 1, 2):
        placement = room.place(one)
        assert placement == Placement((expected,), (0,))
        room.take(one, placement)
    assert room.place(Demand(whole=2)) == Placement((4, 5), (0,))
    assert room.place(Demand(whole=3)) == Placement((3, 4, 5), (0,))


def test_a_share_on_an_idle_cpu_takes_one_whose_core_is_in_use() -> None:
    room = Room(machine(1, 2, 2).capacity)
    most = Demand(share=FULL * 3 // 4)
    cpus = []
    for _ in range(3):
        placement = room.place(most)
        assert placement is not None
        room.take(most, placement)
        cpus += placement.cpus
    assert cpus == [0, 2, 1]


def test_a_node_with_a_whole_core_is_better_than_a_fuller_one_without() -> None:
    """Of memory node 0 two threads of two cores are left; node 1 is empty."""
    room = Room(machine(2, 2, 2, apart=False).capacity)
    for cpu in (0, 2):
        taken = Demand(whole=1, cpuset=(cpu,))
        placement = room.place(taken)
        assert placement is not None
        room.take(taken, placement)
    assert room.place(Demand(whole=2)) == Placement((4, 5), (1,))
    assert room.place(Demand(whole=1)) == Placement((1,), (0,))


def test_a_place_is_found_fast_on_a_large_machine() -> None:
    """256 CPUs with 1,000 jobs on them: the best of some, far from what a scheduler would notice."""
    room = Room(machine(4, 32, 2).capacity)
    for _ in range(1000):
        demand = Demand(share=FULL // 5)
        placement = room.place(demand)
        assert placement is not None
        room.take(demand, placement)
    took = []
    for demand in (Demand(whole=7), Demand(whole=48), Demand(share=FULL // 2)) * 5:
        begin = time.perf_counter()
        assert room.fits(demand)
        assert room.place(demand) is not None
        took.append(time.perf_counter() - begin)
    assert min(took) < 0.002
