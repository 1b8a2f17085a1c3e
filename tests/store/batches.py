"""Batches that follow from their number alone, so that whoever reads a store can tell what should be in it."""

from __future__ import annotations

from batchns.core.admit import admit, expand
from batchns.core.changes import Finished, Launched, Started
from batchns.core.node import NodeCapacity
from batchns.core.placement import Placement
from batchns.model.config import Config
from batchns.model.job import Array, Condition, Dependency, JobSpec
from batchns.model.lifecycle import Event, State
from batchns.model.result import JobResult, LimitReading, Usage
from batchns.store.interface import Batch, Ending, Entry, Submission
from batchns.store.store import Store

NODE = NodeCapacity(cpus=tuple(range(8)), memory=16 << 30)
CONFIG = Config()
JOBS = 2  # ids of jobs that a batch takes


def spec(name: str = "job", *, tasks: int = 0, after: str = "", **more: object) -> JobSpec:
    """`after`: as in a job file, "afterok:prep"."""
    condition, _, other = after.partition(":")
    edges = (Dependency(Condition(condition), other),) if after else ()
    array = Array(tuple(range(tasks))) if tasks else None
    return JobSpec(name=name, command=("true",), cwd="/", array=array, dependency=edges, **more)  # type: ignore[arg-type]


def submission(first: int, *specs: JobSpec, at: float = 1.0, user: str = "alice") -> Submission:
    jobs = expand(admit(specs, NODE, CONFIG), first, CONFIG, at, user=user)
    return Submission(at=at, jobs=tuple(jobs), uid=1000, user=user, anchors={"/data/alice": "/srv/data/alice"})


def life(job_id: str, at: float = 2.0) -> tuple[Entry, ...]:
    """From launch to a good end."""
    return (
        Entry(at=at, change=Launched(job_id, Placement((0,), (0,))), data={"launch": f"{job_id}.1"}),
        Entry(at=at + 1, change=Started(job_id), data={"pid": 4711}),
        Entry(at=at + 2, change=Finished(job_id, Event.EXITED_OK)),
    )


def ending(job_id: str, ended: float = 4.0, *, name: str = "job", uid: int = 1000, **more: object) -> Ending:
    state = more.pop("state", State.COMPLETED)
    assert isinstance(state, State)
    result = JobResult(
        job_id=job_id,
        name=name,
        state=state,
        exit_code=0,
        usage=Usage(cpu_seconds=1.5, memory_peak_bytes=4096),
        limits={"memory": LimitReading(4096, "memory.max"), "pids": LimitReading(None, why="no controller")},
    )
    values: dict[str, object] = {"queue": "normal", "submitted": 1.0, "started": 3.0, "cpus": 1.0, **more}
    return Ending(job_id=job_id, result=result, uid=uid, user="alice", ended=ended, **values)  # type: ignore[arg-type]


def batch(number: int) -> Batch:
    """A job that is over, and an array that depends on it and waits."""
    first = JOBS * number + 1
    return Batch(
        submissions=(submission(first, spec("prep"), spec("rest", tasks=3, after="afterok:prep")),),
        entries=life(str(first)),
        endings=(ending(str(first), name="prep"),),
        notes={"batch": number, f"of {number}": [number]},
    )


def missing(store: Store, number: int) -> list[str]:
    """What of `batch(number)` is not in the store: nothing, everything, or (never) a part."""
    expected, first = batch(number), JOBS * number + 1
    submitted = expected.submissions[0]
    lacks = []
    for job in submitted.jobs:
        found = store.job(job.id)
        own = job.id == str(first)
        if found is None:
            lacks.append(f"job {job.id}")
            continue
        if found.submission.jobs != (job,) or found.submission.at != submitted.at:
            lacks.append(f"job {job.id} as it was")
        if found.entries != (expected.entries if own else ()):
            lacks.append(f"entries of {job.id}")
        if found.ending != (expected.endings[0] if own else None):
            lacks.append(f"ending of {job.id}")
    return lacks
