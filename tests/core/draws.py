"""Whole configurations and jobs for property tests, and what is counted anew from the jobs alone."""

from __future__ import annotations

from collections import Counter

from core_helpers import GIB, node, spec
from hypothesis import strategies as st

from batchns.core.job import ACTIVE, FreezeCause, Job
from batchns.core.node import NodeCapacity
from batchns.core.reasons import FULL
from batchns.core.schedule import Schedule
from batchns.model.config import (
    Backfill,
    Bound,
    Config,
    FairShare,
    Order,
    Preemption,
    Queue,
    ScheduleSettings,
)
from batchns.model.job import Condition, JobSpec, Network, Preempt, PreemptMode, WarnSignal
from batchns.model.lifecycle import State

NODE = node(
    6,
    memory=12 * GIB,
    per_memory_node=3,
    egress=100,
    ingress=50,
    named={"gpus": 2, "tapes": 3},
    units={"gpus"},
    jobs=7,
)
USERS = ("alice", "bob")


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Three queues: urgent ones over normal ones over idle ones, in every mode."""

    def queue(priority: int, preempts: tuple[str, ...]) -> Queue:
        bounds = st.builds(
            Bound,
            jobs=st.sampled_from([None, None, 2, 4]),
            cpus=st.sampled_from([None, None, 4.0]),
            memory=st.sampled_from([None, None, 10 * GIB]),
        )
        return Queue(
            priority=priority,
            preempts=preempts,
            preempt_mode=draw(st.sampled_from(list(PreemptMode))),
            min_run=draw(st.sampled_from([None, None, 5.0])),
            max_frozen=draw(st.sampled_from([None, None, 30.0])),
            yields=draw(st.booleans()),
            per_user=draw(bounds),
            total=draw(bounds),
        )

    settings = ScheduleSettings(
        order=draw(st.sampled_from(Order)),
        backfill=draw(st.sampled_from(Backfill)),
        reservations=draw(st.sampled_from([0, 1, 3, None])),
        preempt=draw(st.sampled_from(Preemption)),
        assume=draw(st.sampled_from([20.0, 86400.0])),
        max_frozen=draw(st.sampled_from([50.0, 86400.0])),
        max_freezes=draw(st.sampled_from([1, 3, 20])),
        min_run=draw(st.sampled_from([0.0, 3.0])),
        frozen_memory=draw(st.sampled_from([None, 4 * GIB])),
        time_slice=draw(st.sampled_from([None, None, 5.0])),
    )
    return Config(
        queues={
            "normal": queue(50, draw(st.sampled_from([(), ("idle",)]))),
            "urgent": queue(90, draw(st.sampled_from([(), ("normal", "idle")]))),
            "idle": queue(10, ()),
        },
        schedule=settings,
        fair_share=FairShare(enabled=draw(st.booleans()), shares={"alice": 2.0}),
    )


@st.composite
def jobs(draw: st.DrawFn, *, most: int = 10, limited: bool = False) -> list[JobSpec]:
    """Jobs that each fit an empty node; dependencies point backwards only."""
    specs: list[JobSpec] = []
    for number in range(draw(st.integers(1, most))):
        cpus: float | None = draw(st.sampled_from([None, 1, 2, 4, 0.1, 0.5, 1 / 3, 0.999]))
        cpuset = draw(st.sampled_from([None, None, None, (0,), (1, 4)]))
        if cpuset is not None and cpus is not None and cpus >= 1:
            cpus = None
        tasks = draw(st.sampled_from([None, None, 3]))
        targets = st.integers(0, max(0, number - 1))
        edges = draw(st.lists(st.tuples(st.sampled_from(list(Condition)), targets), max_size=2)) if number else []
        time_limit = draw(st.sampled_from([10.0, 20.0, 60.0] if limited else [None, 10.0, 20.0, 60.0]))
        specs.append(
            spec(
                f"j{number}",
                cpus=cpus,
                cpuset=cpuset,
                memory=draw(st.sampled_from([None, GIB, 3 * GIB, 5 * GIB])),
                named=draw(st.dictionaries(st.sampled_from(["gpus", "tapes"]), st.integers(0, 2), max_size=2)),
                network=Network(
                    egress=draw(st.sampled_from([None, 30, 100])), ingress=draw(st.sampled_from([None, 20, 50]))
                ),
                queue=draw(st.sampled_from(["normal", "normal", "urgent", "idle"])),
                priority=draw(st.sampled_from([50, 50, 60])),
                tasks=tasks,
                throttle=draw(st.sampled_from([None, 1, 2])),
                max_retries=draw(st.integers(0, 2)),
                retry_delay=draw(st.sampled_from([0.0, 0.0, 7.0])),
                retry_memory=draw(st.sampled_from([1.0, 2.0])),
                time_limit=time_limit,
                begin_after=draw(st.sampled_from([None, None, 5.0])),
                deadline_after=draw(st.sampled_from([None, None, None, 80.0])),
                hold=draw(st.sampled_from([False, False, False, True])),
                warn=draw(st.sampled_from([None, WarnSignal(10, 4.0)])) if time_limit else None,
                preempt=Preempt(mode=draw(st.sampled_from([None, None, *PreemptMode]))),
                after=[text for edge in edges if (text := _edge(*edge, specs, tasks)) is not None],
            )
        )
    return specs


def _edge(condition: Condition, target: int, specs: list[JobSpec], tasks: int | None) -> str | None:
    """As in a job file; None where there can be no such edge: aftercorr is between arrays of the same tasks."""
    if condition is Condition.SINGLETON:
        return "singleton"
    if condition is Condition.AFTERCORR and not (tasks and specs[target].array):
        return None
    return f"{condition.value}:j{target}"


def held_memory(job: Job) -> int:
    return job.demand.memory if job.held_memory is None else job.held_memory


def check_capacity(schedule: Schedule, capacity: NodeCapacity) -> None:
    """Count again, from the jobs alone, what is handed out."""
    load: Counter[int] = Counter()
    owners: Counter[int] = Counter()
    exclusive: set[int] = set()
    used: Counter[str] = Counter()
    tasks: Counter[str] = Counter()
    units: Counter[tuple[str, int]] = Counter()
    for job in schedule:
        assert (job.placement is not None) == (job.state in ACTIVE)
        if job.placement is None:
            continue
        tasks[job.array_id] += 1
        assert job.throttle is None or tasks[job.array_id] <= job.throttle
        assert len(job.placement.cpus) == (len(job.demand.cpuset) or job.demand.whole or 1)
        assert set(job.placement.mems) == {capacity.memory_node(cpu) for cpu in job.placement.cpus}
        if not job.lends:
            for cpu in job.placement.cpus:
                load[cpu] += FULL if job.demand.whole else job.demand.share
                owners[cpu] += 1
            exclusive |= set(job.placement.cpus) if job.demand.whole else set()
            used.update({"egress": job.demand.egress, "ingress": job.demand.ingress})
        used.update({"jobs": 1, "memory": held_memory(job)})
        used.update(dict(job.demand.named))
        given = dict(job.placement.units)
        assert {name: len(numbers) for name, numbers in given.items()} == {
            name: count for name, count in job.demand.named if name in capacity.units
        }
        units.update((name, number) for name, numbers in given.items() for number in numbers)
    assert all(count == 1 and 0 <= unit < capacity.named[name] for (name, unit), count in units.items())
    assert set(load) <= set(capacity.cpus)
    assert all(amount <= FULL for amount in load.values())
    assert all(owners[cpu] == 1 for cpu in exclusive)
    assert used["memory"] <= capacity.memory
    assert capacity.jobs is None or used["jobs"] <= capacity.jobs
    assert used["egress"] <= (capacity.egress or 0)
    assert used["ingress"] <= (capacity.ingress or 0)
    assert all(used[name] <= count for name, count in capacity.named.items())
    check_books(schedule, capacity, load, used)


def check_books(schedule: Schedule, capacity: NodeCapacity, load: Counter[int], used: Counter[str]) -> None:
    """What the schedule says is free is what is."""
    room = schedule.room()
    assert {cpu: room.load(cpu) for cpu in capacity.cpus} == {cpu: load[cpu] for cpu in capacity.cpus}
    assert room.idle == sum(not load[cpu] for cpu in capacity.cpus)
    assert (room.memory, room.egress) == (capacity.memory - used["memory"], (capacity.egress or 0) - used["egress"])
    assert room.named == {name: count - used[name] for name, count in capacity.named.items()}


def check_quotas(schedule: Schedule) -> None:
    """No queue, and no user in it, has more than its bounds allow. The memory of a frozen job counts in full."""
    held: dict[tuple[str, str | None], Counter[str]] = {}
    for job in schedule:
        if job.state not in ACTIVE:
            continue
        for key in ((job.spec.queue, None), (job.spec.queue, job.user)):
            counter = held.setdefault(key, Counter())
            counter.update({"jobs": 1, "memory": job.demand.memory})
            if not job.lends:
                counter["cpus"] += job.demand.whole * FULL or job.demand.share
    for (name, user), counter in held.items():
        queue = schedule.config.queues[name]
        bound = queue.total if user is None else queue.per_user
        assert bound.jobs is None or counter["jobs"] <= bound.jobs
        assert bound.memory is None or counter["memory"] <= bound.memory
        assert bound.cpus is None or counter["cpus"] <= bound.cpus * FULL


def check_dependencies(schedule: Schedule, started: set[str], job_id: str) -> None:
    """Recount every edge of a job that is about to start for the first time."""
    job = schedule[job_id]
    for edge in job.spec.dependency:
        if edge.condition is Condition.SINGLETON:
            alike = [one for one in schedule if (one.spec.name, one.user) == (job.spec.name, job.user)]
            assert not any(one.state in ACTIVE for one in alike)
            continue
        corresponding = edge.condition is Condition.AFTERCORR
        group = [one for one in schedule if one.spec.name == edge.name]
        group = [one for one in group if one.index == job.index or not corresponding]
        over = [one for one in group if one.state.final and one.id not in schedule.to_retry]
        succeeded = [one for one in over if one.state is State.COMPLETED]
        if edge.condition is Condition.AFTER:
            assert all(one.id in started or one in over for one in group)
            continue
        assert len(over) == len(group)
        if edge.condition in (Condition.AFTEROK, Condition.AFTERCORR):
            assert len(succeeded) == len(group)
        if edge.condition is Condition.AFTERNOTOK:
            assert len(succeeded) < len(group)


def check_nobody_is_lost(schedule: Schedule) -> None:
    """Every job is pending, active or over; a pending one competes, or there is one reason why it does not."""
    pending, active = set(schedule.pending), set(schedule.active)
    retried = set(schedule.to_retry)
    for job in schedule:
        assert (job.id in pending) == (job.state is State.PENDING)
        assert (job.id in active) == (job.state in ACTIVE)
        assert job.id not in retried or job.state.final
        if job.state is State.PENDING:
            waits = schedule.open_dependency(job) is not None
            places = [job.id in schedule.ready, job.not_before is not None and not job.held and not waits]
            places += [job.id in schedule.doomed or job.held or waits]
            assert sum(places) == 1 or (job.id in schedule.doomed and not places[0])
        elif job.state is State.SUSPENDED:
            owned = job.frozen is not None and job.frozen.cause is FreezeCause.OWNER
            assert job.id in schedule.ready if job.lends and not owned else job.lends or job.id not in schedule.ready
        else:
            assert job.id not in schedule.ready
