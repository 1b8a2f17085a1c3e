"""Who may use which queue, and what cannot be done in a foreground run: refused before anything starts."""

from __future__ import annotations

import grp
from collections.abc import Sequence

from batchns.errors import UserError
from batchns.model.config import Config, Queue
from batchns.model.job import JobSpec
from batchns.model.submitter import Submitter


def check_queues(specs: Sequence[JobSpec], config: Config, submitter: Submitter) -> None:
    """Every job is in a queue that its submitter may use. Root may use all.

    Raises:
        UserError: one is not, with the queues that are open to the submitter.
    """
    for spec in specs:
        queue = config.queues.get(spec.queue)
        if queue is not None and not permitted(queue, submitter):
            others = [name for name, other in sorted(config.queues.items()) if permitted(other, submitter)]
            raise UserError(
                f"{_where(spec)}queue = {spec.queue!r} is not for {submitter.name}",
                f"choose from {', '.join(others)}" if others else "ask the administrator for one",
            )


def permitted(queue: Queue, submitter: Submitter) -> bool:
    """Whether the submitter may use the queue: by name or by a group, or because everyone may."""
    if submitter.is_root or not (queue.users or queue.groups):
        return True
    return submitter.name in queue.users or any(_gid(name) in submitter.groups for name in queue.groups)


def check_holds(specs: Sequence[JobSpec]) -> None:
    """Nobody could release a held job of a foreground run.

    Raises:
        UserError: there is one.
    """
    for spec in specs:
        if spec.hold:
            raise UserError(f"{_where(spec)}hold: nobody can release it in a batchns run", "remove hold, or the job")


def _gid(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _where(spec: JobSpec) -> str:
    return f"{spec.source}: {spec.name}: " if spec.source else f"{spec.name}: "
