"""Dependencies on jobs that are over: decided here, since Slurm forgets jobs.

slurmctld takes a dependency on a job that it has forgotten (MinJobAge) for satisfied, however the job ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from batchns.model.job import Condition, Dependency
from batchns.slurm.states import LOST
from batchns.slurm.tools import Tools
from batchns.wire import types as wire
from batchns.wire.engine import Refusal

_OF_SUCCESS = (Condition.AFTEROK, Condition.AFTERCORR)


def satisfied(edge: Dependency, rows: Sequence[wire.JobRow]) -> bool:
    """Whether it is so for good: Slurm need not be told. `rows`: the job, or all tasks of the array, that is meant.

    Raises:
        Refusal: it never will be, or nobody knows.
    """
    over = [made for made in rows if made.ended is not None]
    failed = [made for made in over if made.state != "COMPLETED"]
    all_over = len(over) == len(rows)
    if edge.condition in (Condition.AFTER, Condition.AFTERANY):
        return all_over
    lost = next((made.id for made in over if made.state == LOST), None)
    if lost is not None:
        why = f"nobody knows how {lost} ended: Slurm has forgotten it, and its node has left no result"
        raise _never(edge, why)
    if edge.condition in _OF_SUCCESS:
        if failed:
            raise _never(edge, f"{failed[0].id} has ended as {failed[0].state}")
        return all_over
    if all_over and not failed:
        raise _never(edge, "it has completed")
    return all_over


def _never(edge: Dependency, why: str) -> Refusal:
    what = f"{edge.condition.value}:{edge.name} will never be satisfied: {why}"
    return Refusal("invalid", what, "run it again, or leave the dependency away")


def is_known(tools: Tools, job_id: str) -> bool:
    """Has Slurm not forgotten this job, whoever's it is?"""
    try:
        return bool(tools.run("squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%i").strip())
    except Refusal:
        return False


def settle(edge: Dependency, job_id: str, fates: Callable[[str], Sequence[wire.JobRow]], tools: Tools) -> bool:
    """As `satisfied`, of the job with this id.

    Raises:
        Refusal: there is no such job, too.
    """
    if rows := fates(job_id):
        return satisfied(edge, rows)
    if not is_known(tools, job_id):
        raise Refusal("invalid", f"there is no job {job_id} to depend on", "batchns ps --all shows what there is")
    return False
