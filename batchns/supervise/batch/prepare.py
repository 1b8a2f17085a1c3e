"""The launch plan of a job that goes to a node, made where it is submitted: the node then needs few imports.

What only the node knows (paths, its network, Slurm's variables) is put in there: see `place.plan`.
"""

from __future__ import annotations

import json
from typing import Any

from batchns.kernel.cgroups.interface import CgroupPlan
from batchns.kernel.network.types import NetworkPlan
from batchns.launch import build
from batchns.launch.build import MAY_MASK, Slot
from batchns.launch.plan import to_wire
from batchns.model.job import JobSpec, NetworkMode
from batchns.supervise import users


def prepared(spec: JobSpec, scratch: int) -> list[Any]:
    """JSON of the plan, with everything masked that a host may have. `scratch`: bytes.

    Raises:
        UserError: the job asks for what a user cannot have.
    """
    mode = "host" if spec.network.mode is NetworkMode.HOST else "none"
    details = build.Attempt(
        name="",
        job_id="",
        spec=spec,
        submitter=users.current(),
        slot=Slot(number=0, id_start=0, address=""),
        cgroup=CgroupPlan(),
        network=NetworkPlan(mode),
        record="",
        scratch=scratch,
        usual_scratch=scratch,
        root=False,
    )
    made: list[Any] = json.loads(to_wire(build.build(details, host_paths=frozenset(MAY_MASK))))
    return made
