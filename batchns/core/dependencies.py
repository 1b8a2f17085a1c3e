"""Dependencies: which edges are open, met, or can never be met.

1. An edge points at a name, and so at every job and array task of that name, taken together (as Slurm takes an array).
2. Every edge is settled once: a job's end costs as much as the edges that it settles, not as the jobs that wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from attrs import define, field

from batchns.errors import UserError
from batchns.model.job import Condition, Dependency, JobSpec


class Edge(Enum):
    OPEN = "open"
    MET = "met"
    NEVER = "never"


@define
class _Group:
    """All jobs of one name: how many there are, have started (or ended), have ended, have ended well."""

    total: int = 0
    started: int = 0
    ended: int = 0
    succeeded: int = 0
    waiting: dict[Condition, list[str]] = field(factory=dict)

    def edge(self, condition: Condition) -> Edge:
        """Slurm's meanings; a retry that is still due is no end."""
        over = self.ended == self.total
        match condition:
            case Condition.AFTER:
                return Edge.MET if self.started == self.total else Edge.OPEN
            case Condition.AFTERANY:
                return Edge.MET if over else Edge.OPEN
            case Condition.AFTEROK:
                if self.succeeded < self.ended:
                    return Edge.NEVER
                return Edge.MET if over else Edge.OPEN
            case Condition.AFTERNOTOK:
                if not over:
                    return Edge.OPEN
                return Edge.NEVER if self.succeeded == self.total else Edge.MET


class Dependencies:
    """The open edges of all jobs that wait."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._open: dict[str, int] = {}  # edges that a waiting job still waits for

    def add(self, names: Iterable[str]) -> None:
        """Jobs of these names exist (once per job). Before any edge to them is added."""
        for name in names:
            self._groups.setdefault(name, _Group()).total += 1

    def wait(self, job: str, edges: Sequence[Dependency]) -> Dependency | None:
        """`job` waits for `edges`; returns one that can never be met, if there is one already."""
        for dependency in dict.fromkeys(edges):
            group = self._groups[dependency.name]
            match group.edge(dependency.condition):
                case Edge.NEVER:
                    self.forget(job)
                    return dependency
                case Edge.OPEN:
                    group.waiting.setdefault(dependency.condition, []).append(job)
                    self._open[job] = self._open.get(job, 0) + 1
                case Edge.MET:
                    pass
        return None

    def waits(self, job: str) -> bool:
        return job in self._open

    def first_open(self, edges: Sequence[Dependency]) -> Dependency | None:
        """The first of `edges` that is not met, for an explanation."""
        return next((edge for edge in edges if self._groups[edge.name].edge(edge.condition) is not Edge.MET), None)

    def started(self, name: str) -> tuple[list[str], list[tuple[str, Dependency]]]:
        """A job of this name has started for the first time. Returns what `ended` returns."""
        self._groups[name].started += 1
        return self._settle(name)

    def ended(self, name: str, *, succeeded: bool, had_started: bool) -> tuple[list[str], list[tuple[str, Dependency]]]:
        """A job of this name is over for good.

        Returns the jobs that wait for nothing any more, and those that wait in vain, each with the edge.
        """
        group = self._groups[name]
        group.started += not had_started
        group.ended += 1
        group.succeeded += succeeded
        return self._settle(name)

    def forget(self, job: str) -> None:
        """The job waits no longer: it was cancelled."""
        self._open.pop(job, None)

    def _settle(self, name: str) -> tuple[list[str], list[tuple[str, Dependency]]]:
        group = self._groups[name]
        free: list[str] = []
        doomed: list[tuple[str, Dependency]] = []
        for condition in list(group.waiting):
            edge = group.edge(condition)
            if edge is Edge.OPEN:
                continue
            for job in group.waiting.pop(condition):
                if job not in self._open:
                    continue
                if edge is Edge.NEVER:
                    del self._open[job]
                    doomed.append((job, Dependency(condition, name)))
                    continue
                self._open[job] -= 1
                if not self._open[job]:
                    del self._open[job]
                    free.append(job)
        return free, doomed


def check_dependencies(specs: Sequence[JobSpec]) -> list[tuple[JobSpec, UserError]]:
    """Edges to names that no job has, and circles; empty when all is well."""
    edges: dict[str, dict[str, None]] = {}
    for spec in specs:
        edges.setdefault(spec.name, {}).update((dependency.name, None) for dependency in spec.dependency)
    known = ", ".join(list(edges)[:8])
    problems = [
        (spec, UserError(f"dependency on {dependency.name!r}: no such job", f"jobs here: {known}"))
        for spec in specs
        for dependency in spec.dependency
        if dependency.name not in edges
    ]
    circle = _circle(edges)
    for spec in specs:
        if spec.name in circle:
            path = " -> ".join([*circle, circle[0]])
            problems.append((spec, UserError(f"dependencies go round in a circle: {path}", "remove one of them")))
    return problems


def _circle(edges: dict[str, dict[str, None]]) -> list[str]:
    """The names on one circle, in the order of the edges; empty when there is none. Iterative: chains may be long."""
    done: set[str] = set()
    for root in edges:
        path: dict[str, None] = {}
        stack = [(root, False)]
        while stack:
            name, leaving = stack.pop()
            if leaving:
                del path[name]
                done.add(name)
            elif name in path:
                names = list(path)
                return names[names.index(name) :]
            elif name not in done and name in edges:
                path[name] = None
                stack.append((name, True))
                stack.extend((target, False) for target in edges[name])
    return []
