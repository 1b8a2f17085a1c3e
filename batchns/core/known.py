"""The jobs of one user, as those that come to depend on them see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchns.core.books import Books


class KnownJobs:
    """What jobs of one user may depend on: `resolve.Known`. As the books are at the moment when it is asked."""

    def __init__(self, books: Books, user: str) -> None:
        self._books = books
        self._user = user
        self._tasks: dict[str, frozenset[int]] = {}  # many may depend on the same ones

    def named(self, name: str) -> tuple[str, ...]:
        return self._books.named(self._user, name)

    def tasks(self, array_id: str) -> frozenset[int] | None:
        if (known := self._tasks.get(array_id)) is not None and self._books.tasks(array_id):
            return known
        jobs = [self._books[job_id] for job_id in self._books.tasks(array_id)]
        if not jobs or jobs[0].user != self._user:
            return None
        found = self._tasks[array_id] = frozenset(job.index for job in jobs if job.index is not None)
        return found
