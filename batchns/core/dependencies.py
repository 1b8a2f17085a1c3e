"""Dependencies: which edges are open, met, or can never be met.

1. An edge points at a name, and so at every job and array task of that name, taken together (as Slurm takes an array).
2. Every edge is settled once: a job's end costs as much as the edges that it settles, not as the jobs that wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from attrs import define, evolve, field

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
            case Condition.AFTEROK | Condition.AFTERCORR:
                if self.succeeded < self.ended:
                    return Edge.NEVER
                return Edge.MET if over else Edge.OPEN
            case Condition.AFTERNOTOK:
                if not over:
                    return Edge.OPEN
                return Edge.NEVER if self.succeeded == self.total else Edge.MET
            case Condition.SINGLETON:
                raise AssertionError("singletons wait in line, not for a group")


Doomed = tuple[str, Dependency]  # a job, and the edge that it waits for in vain
_Key = tuple[str, int | None]  # a name, or one array task of it


class Dependencies:
    """The open edges of all jobs that wait."""

    def __init__(self) -> None:
        self._groups: dict[_Key, _Group] = {}
        self._open: dict[str, int] = {}  # edges that a waiting job still waits for
        self._lines: dict[tuple[str, str], dict[str, bool]] = {}  # by user and name: jobs not over, and who waits so

    def copy(self) -> Dependencies:
        other = Dependencies()
        other._groups = {
            key: evolve(group, waiting={condition: jobs.copy() for condition, jobs in group.waiting.items()})
            for key, group in self._groups.items()
        }
        other._open = self._open.copy()
        other._lines = {key: line.copy() for key, line in self._lines.items()}
        return other

    def add(self, job: str, user: str, name: str, index: int | None) -> None:
        """The job exists. Before any edge to it is added."""
        for key in {(name, None), (name, index)}:
            self._groups.setdefault(key, _Group()).total += 1
        self._lines.setdefault((user, name), {})[job] = False

    def wait(
        self, job: str, edges: Sequence[Dependency], *, user: str = "", name: str = "", index: int | None = None
    ) -> Dependency | None:
        """`job` waits for `edges`; returns one that can never be met, if there is one already."""
        for dependency in dict.fromkeys(edges):
            if dependency.condition is Condition.SINGLETON:
                line = self._lines[(user, name)]
                if next(iter(line)) != job:
                    line[job] = True
                    self._open[job] = self._open.get(job, 0) + 1
                continue
            group = self._groups[_target(dependency, index)]
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

    def first_open(
        self, job: str, edges: Sequence[Dependency], *, user: str = "", name: str = "", index: int | None = None
    ) -> Dependency | None:
        """The first of `edges` that is not met, for an explanation."""
        for edge in edges:
            if edge.condition is Condition.SINGLETON:
                if self._lines[(user, name)].get(job):
                    return edge
            elif self._groups[_target(edge, index)].edge(edge.condition) is not Edge.MET:
                return edge
        return None

    def started(self, name: str, index: int | None = None) -> tuple[list[str], list[Doomed]]:
        """A job of this name has started for the first time. Returns what `ended` returns."""
        for key in {(name, None), (name, index)}:
            self._groups[key].started += 1
        return self._settle(name, index)

    def ended(
        self, job: str, *, user: str, name: str, index: int | None = None, succeeded: bool, had_started: bool
    ) -> tuple[list[str], list[Doomed]]:
        """The job is over for good.

        Returns the jobs that wait for nothing any more, and those that wait in vain, each with the edge.
        """
        for key in {(name, None), (name, index)}:
            group = self._groups[key]
            group.started += not had_started
            group.ended += 1
            group.succeeded += succeeded
        free, doomed = self._settle(name, index)
        line = self._lines[(user, name)]
        del line[job]
        first = next(iter(line), None)
        if first is not None and line[first]:
            line[first] = False
            self._close_edge(first, free)
        elif first is None:
            del self._lines[(user, name)]
        return free, doomed

    def forget(self, job: str) -> None:
        """The job waits no longer: it was cancelled."""
        self._open.pop(job, None)

    def _settle(self, name: str, index: int | None) -> tuple[list[str], list[Doomed]]:
        free: list[str] = []
        doomed: list[Doomed] = []
        for key in ((name, None), (name, index))[: 1 + (index is not None)]:
            group = self._groups[key]
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
                    else:
                        self._close_edge(job, free)
        return free, doomed

    def _close_edge(self, job: str, free: list[str]) -> None:
        if job not in self._open:
            return
        self._open[job] -= 1
        if not self._open[job]:
            del self._open[job]
            free.append(job)


def _target(edge: Dependency, index: int | None) -> _Key:
    return (edge.name, index if edge.condition is Condition.AFTERCORR else None)


def check_dependencies(specs: Sequence[JobSpec]) -> list[tuple[JobSpec, UserError]]:
    """Edges to names and tasks that no job has, and circles; empty when all is well."""
    named: dict[str, list[JobSpec]] = {}
    for spec in specs:
        named.setdefault(spec.name, []).append(spec)
    edges = {
        name: {edge.name: None for spec in group for edge in spec.dependency if edge.name}
        for name, group in named.items()
    }
    problems = [
        (spec, error)
        for spec in specs
        for edge in spec.dependency
        if edge.condition is not Condition.SINGLETON and (error := _missing(spec, edge, named)) is not None
    ]
    circle = _circle(edges)
    for spec in specs:
        if spec.name in circle:
            path = " -> ".join([*circle, circle[0]])
            problems.append((spec, UserError(f"dependencies go round in a circle: {path}", "remove one of them")))
    return problems


def _missing(spec: JobSpec, edge: Dependency, named: dict[str, list[JobSpec]]) -> UserError | None:
    if edge.name not in named:
        return UserError(f"dependency on {edge.name!r}: no such job", f"jobs here: {', '.join(list(named)[:8])}")
    if edge.condition is not Condition.AFTERCORR:
        return None
    if spec.array is None:
        return UserError(f"aftercorr:{edge.name} without an array", 'give both jobs the same array, or write "afterok"')
    have = {index for other in named[edge.name] if other.array for index in other.array.indices}
    missing = [index for index in spec.array.indices if index not in have]
    if not missing:
        return None
    what = f"aftercorr:{edge.name}: it has no task {missing[0]}"
    return UserError(what, 'give both the same array, or write "afterok"')


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
