"""Small nodes, jobs and an executor without a kernel for the policy's tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchns.core.actions import Action, Launch
from batchns.core.admit import admit, expand
from batchns.core.decide import decide
from batchns.core.node import NodeCapacity
from batchns.core.perform import perform
from batchns.core.schedule import Schedule
from batchns.model.config import Config
from batchns.model.job import Array, Condition, Dependency, JobSpec, Resources

GIB = 1 << 30


def node(cpus: int = 4, *, memory: int = 8 * GIB, per_memory_node: int = 64, **more: Any) -> NodeCapacity:
    mems = {cpu: cpu // per_memory_node for cpu in range(cpus)}
    units = frozenset(more.pop("units", ()))
    return NodeCapacity(cpus=tuple(range(cpus)), memory=memory, mems=mems, units=units, **more)


def spec(name: str = "job", *, after: Sequence[str] = (), **more: Any) -> JobSpec:
    """A job; keywords of `Resources` and of `JobSpec` alike; `after` as in a job file: "afterok:prep"."""
    fields = {attribute.name for attribute in Resources.__attrs_attrs__}
    resources = Resources(**{key: more.pop(key) for key in list(more) if key in fields})
    edges = tuple(Dependency(Condition(text.partition(":")[0]), text.partition(":")[2]) for text in after)
    tasks, throttle = more.pop("tasks", None), more.pop("throttle", None)
    array = Array(tuple(range(tasks)), throttle) if tasks else None
    return JobSpec(name=name, command=("true",), cwd="/", resources=resources, dependency=edges, array=array, **more)


def schedule_of(
    specs: Sequence[JobSpec], capacity: NodeCapacity | None = None, config: Config | None = None
) -> Schedule:
    """A schedule with these jobs, ids from 1, submitted at 0 s."""
    capacity, config = capacity or node(), config or Config()
    schedule = Schedule(capacity, config)
    schedule.submit(expand(admit(specs, capacity, config), 1, config, 0.0))
    return schedule


def submit(schedule: Schedule, *specs: JobSpec, now: float = 0.0, user: str = "", first_id: int | None = None) -> None:
    """One more submission; ids go on after the jobs that are there."""
    first_id = first_id or 1 + max((int(job.array_id) for job in schedule), default=0)
    known = schedule.known(user)
    admitted = admit(specs, schedule.capacity, schedule.config, known)
    schedule.submit(expand(admitted, first_id, schedule.config, now, user=user, known=known))


def settle(schedule: Schedule, now: float) -> list[Action]:
    """Perform and decide until nothing is left; all that was performed, in order."""
    performed: list[Action] = []
    while actions := decide(schedule, now):
        for action in actions:
            perform(schedule, action, now)
        performed += actions
        assert len(performed) < 100_000, "decisions never come to rest"
    return performed


def launched(actions: Sequence[Action]) -> list[str]:
    return [action.job for action in actions if isinstance(action, Launch)]
