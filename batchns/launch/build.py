"""From a decision to a launch plan: the pure function between policy and launcher."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from batchns.kernel.cgroups.interface import CgroupPlan
from batchns.launch.plan import Plan
from batchns.model.job import JobSpec


@frozen(kw_only=True)
class Slot:
    """What one running job has of the node for itself alone, by number: an id range and an address."""

    number: int
    id_start: int  # first of 65536 host ids
    address: str  # dotted quad ("" where the pool is not used)


@frozen(kw_only=True)
class Attempt:
    """One attempt of one job, decided and placed.

    `name` is unique on the machine (at most 11 letters, digits, dashes): every kernel object's name derives from it.
    `variables` are batchns's own environment variables (BATCHNS_JOB_ID and the like).
    """

    name: str
    job_id: str
    spec: JobSpec
    slot: Slot
    cgroup: CgroupPlan
    record: str  # path of the exit record
    scratch: int  # bytes
    variables: Mapping[str, str] = field(factory=dict)


def build(attempt: Attempt, *, mtu: int, host_paths: frozenset[str]) -> Plan:
    """The plan for `attempt`. `host_paths`: which of the paths that a plan may mask exist on this host.

    Pure: no I/O.

    Raises:
        UserError: the job asks for something that this version does not do, by name.
    """
    raise NotImplementedError
