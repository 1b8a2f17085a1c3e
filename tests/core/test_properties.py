"""Whatever the jobs and however they end: nothing is handed out twice, nothing is lost, everything ends."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy

from core_helpers import GIB, node, perform, spec
from hypothesis import given, settings
from hypothesis import strategies as st

from batchns.core.actions import Launch
from batchns.core.admit import admit, expand
from batchns.core.decide import decide
from batchns.core.explain import explain
from batchns.core.job import ACTIVE
from batchns.core.node import NodeCapacity
from batchns.core.reasons import FULL, render
from batchns.core.schedule import Schedule
from batchns.model.config import Config
from batchns.model.job import Condition, JobSpec, Network
from batchns.model.lifecycle import Event, State

NODE = node(
    6, memory=12 * GIB, per_memory_node=3, egress=100, ingress=50, named={"gpus": 2, "tapes": 3}, units={"gpus"}, jobs=7
)
CONFIG = Config()
ENDS = [Event.EXITED_OK, Event.EXITED_BAD, Event.OOM, Event.LOST]


@st.composite
def jobs(draw: st.DrawFn) -> list[JobSpec]:
    """Up to twelve jobs that each fit an empty node; dependencies point backwards only."""
    specs: list[JobSpec] = []
    for number in range(draw(st.integers(1, 12))):
        cpus: float | None = draw(st.sampled_from([None, 1, 2, 4, 0.1, 0.25, 0.5, 1 / 3, 0.999]))
        cpuset = draw(st.sampled_from([None, None, None, (0,), (1, 4)]))
        if cpuset is not None and cpus is not None and cpus >= 1:
            cpus = None
        tasks = draw(st.sampled_from([None, None, 3]))
        targets = st.integers(0, max(0, number - 1))
        edges = draw(st.lists(st.tuples(st.sampled_from(list(Condition)), targets), max_size=3)) if number else []
        specs.append(
            spec(
                f"j{number}",
                cpus=cpus,
                cpuset=cpuset,
                memory=draw(st.sampled_from([None, GIB, 5 * GIB])),
                named=draw(st.dictionaries(st.sampled_from(["gpus", "tapes"]), st.integers(0, 2), max_size=2)),
                network=Network(
                    egress=draw(st.sampled_from([None, 30, 100])), ingress=draw(st.sampled_from([None, 20, 50]))
                ),
                priority=draw(st.integers(0, 3)),
                tasks=tasks,
                throttle=draw(st.sampled_from([None, 1, 2])),
                max_retries=draw(st.integers(0, 2)),
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


def check_capacity(schedule: Schedule, capacity: NodeCapacity) -> None:
    """Count again, from the jobs alone, what is handed out."""
    load: Counter[int] = Counter()
    owners: Counter[int] = Counter()
    used: Counter[str] = Counter()
    tasks: Counter[str] = Counter()
    units: Counter[tuple[str, int]] = Counter()
    for job in schedule:
        assert (job.placement is not None) == (job.state in ACTIVE)
        if job.placement is None:
            continue
        tasks[job.array_id] += 1
        assert len(job.placement.cpus) == (len(job.demand.cpuset) or job.demand.whole or 1)
        assert set(job.placement.mems) == {capacity.memory_node(cpu) for cpu in job.placement.cpus}
        for cpu in job.placement.cpus:
            load[cpu] += FULL if job.demand.whole else job.demand.share
            owners[cpu] += 1
        if job.demand.whole:
            assert all(owners[cpu] == 1 for cpu in job.placement.cpus)
        used.update({"memory": job.demand.memory, "egress": job.demand.egress, "ingress": job.demand.ingress})
        used.update(dict(job.demand.named))
        given = dict(job.placement.units)
        assert {name: len(units) for name, units in given.items()} == {
            name: count for name, count in job.demand.named if name in capacity.units
        }
        units.update((name, number) for name, numbers in given.items() for number in numbers)
        used["jobs"] += 1
        assert job.throttle is None or tasks[job.array_id] <= job.throttle
    assert all(count == 1 and 0 <= unit < capacity.named[name] for (name, unit), count in units.items())
    assert set(load) <= set(capacity.cpus)
    assert all(amount <= FULL for amount in load.values())
    assert used["memory"] <= capacity.memory
    assert capacity.jobs is None or used["jobs"] <= capacity.jobs
    assert used["egress"] <= (capacity.egress or 0)
    assert used["ingress"] <= (capacity.ingress or 0)
    assert all(used[name] <= count for name, count in capacity.named.items())


def check_dependencies(schedule: Schedule, started: set[str], job_id: str) -> None:
    """Recount every edge of a job that is about to start."""
    job = schedule[job_id]
    for edge in job.spec.dependency:
        if edge.condition is Condition.SINGLETON:
            alike = [one for one in schedule if (one.spec.name, one.user) == (job.spec.name, job.user)]
            assert not any(one.state in ACTIVE for one in alike)
            continue
        corresponding = edge.condition is Condition.AFTERCORR
        group = [one for one in schedule if one.spec.name == edge.name]
        group = [one for one in group if one.index == job.index or not corresponding]
        over = [job for job in group if job.state.final and job.id not in schedule.to_retry]
        succeeded = [job for job in over if job.state is State.COMPLETED]
        if edge.condition is Condition.AFTER:
            assert all(job.id in started or job in over for job in group)
            continue
        assert len(over) == len(group)
        if edge.condition in (Condition.AFTEROK, Condition.AFTERCORR):
            assert len(succeeded) == len(group)
        if edge.condition is Condition.AFTERNOTOK:
            assert len(succeeded) < len(group)


@settings(deadline=None, max_examples=100)
@given(specs=jobs(), data=st.data())
def test_capacity_dependencies_and_ends(specs: list[JobSpec], data: st.DataObject) -> None:
    """Run to the end with arbitrary ends in arbitrary order; every invariant is counted anew at each step."""
    schedule = Schedule(NODE)
    schedule.submit(expand(admit(specs, NODE, CONFIG), 1, CONFIG, 0.0))
    tasks = sum(len(one.array.indices) if one.array else 1 for one in specs)
    assert len(schedule) == tasks
    started: set[str] = set()
    now = 0.0
    for _ in range(tasks * 8):
        while actions := decide(schedule, now):
            for action in actions:
                if isinstance(action, Launch):
                    check_dependencies(schedule, started, action.job)
                    started.add(action.job)
                perform(schedule, action, now)
            check_capacity(schedule, NODE)
        for job_id in schedule.pending:
            assert render(explain(schedule, job_id, now)).startswith("waits")
        if schedule.finished:
            break
        now += data.draw(st.floats(0.001, 10))
        ended = data.draw(st.sampled_from(schedule.active))
        schedule.finish(ended, data.draw(st.sampled_from(ENDS)), now)
    assert schedule.finished
    for job in schedule:
        ledger = job.ledger
        assert job.state.final
        assert job.attempt <= job.spec.max_retries + 1
        assert abs(ledger.queued + ledger.running + ledger.frozen - ledger.since) < 1e-6
    assert schedule.room().shortage(admit([spec(cpus=6, memory=12 * GIB)], NODE, CONFIG)[0].demand) is None


@settings(deadline=None, max_examples=60)
@given(specs=jobs(), steps=st.lists(st.sampled_from(["end", "pause", "resume", "drain"]), max_size=8))
def test_deciding_changes_nothing_and_repeats_itself(specs: list[JobSpec], steps: list[str]) -> None:
    """The same schedule and moment give the same actions, and an equal schedule gives equal ones."""
    schedule = Schedule(NODE)
    schedule.submit(expand(admit(specs, NODE, CONFIG), 1, CONFIG, 0.0))
    for now, step in enumerate(steps, 1):
        twin = deepcopy(schedule)
        states = list(schedule)
        actions = decide(schedule, float(now))
        assert decide(schedule, float(now)) == actions
        assert decide(twin, float(now)) == actions
        assert list(schedule) == states
        for action in actions:
            perform(schedule, action, float(now))
        if step == "end" and schedule.active:
            schedule.finish(schedule.active[0], _plain_end(schedule[schedule.active[0]].state), float(now))
        elif step == "pause":
            schedule.pause()
        elif step == "resume":
            schedule.resume()
        elif step == "drain":
            schedule.drain("interrupted")


def _plain_end(state: State) -> Event:
    return Event.CANCEL if state is State.COMPLETING else Event.EXITED_BAD
