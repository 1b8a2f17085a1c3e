"""What would happen to these jobs on this machine, were it empty: who starts when, by the policy itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from batchns.core.admit import admit, expand
from batchns.core.estimates import Estimates, tells
from batchns.core.outlook import Expected, outlook
from batchns.core.schedule import Schedule
from batchns.errors import HostError
from batchns.model.config import Config
from batchns.model.job import JobSpec
from batchns.model.submitter import Submitter
from batchns.supervise.admission import check_queues
from batchns.supervise.chronicle import RECENT
from batchns.supervise.history import FILE, History
from batchns.supervise.node import read_node


@frozen
class Planned:
    """One job. `expected`: seconds from now, inf where it is not known; `assumed`: nothing says how long it takes."""

    job_id: str
    name: str
    queue: str
    cpus: float
    memory: int
    lasts: float
    assumed: bool
    expected: Expected


def preview(specs: Sequence[JobSpec], config: Config, submitter: Submitter) -> list[Planned]:
    """The jobs in their order; ids count from 1. Nothing is started or written.

    Raises:
        UserError: a job can never run here, or is in a queue that is not for its submitter.
        HostError: batchns.toml does not fit this machine.
    """
    check_queues(specs, config, submitter)
    capacity = read_node(config)
    known = _estimates(config)
    schedule = Schedule(capacity, config)
    jobs = expand(
        admit(specs, capacity, config),
        1,
        config,
        0.0,
        user=submitter.name,
        wall=time.time(),
        estimator=known.expected,
    )
    schedule.submit(jobs)
    found = outlook(schedule, 0.0)
    return [
        Planned(
            job.id,
            job.spec.name,
            job.spec.queue,
            job.demand.cpus,
            job.demand.memory,
            job.estimate,
            job.bounds.time_limit is None and known.expected(submitter.name, job.spec.name, None) is None,
            found.get(job.id, Expected()),
        )
        for job in jobs
    ]


def _estimates(config: Config) -> Estimates:
    """What earlier jobs took; nothing where that cannot be read."""
    known = Estimates()
    try:
        records = History(Path(config.paths.state) / FILE).recent(RECENT)
    except HostError:
        return known
    for record in records:
        if tells(record.state):
            known.learn(record.user, record.name, record.running_seconds, record.time_limit)
    return known
