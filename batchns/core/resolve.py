"""What the dependencies of new jobs point at: names and ids become ids of arrays, once, when they are submitted.

1. A name means the jobs of that name in the same submission; where there are none, those of the user's last submission
   that has the name, over or not, as long as it is known.
2. A number that is no name of the submission is a job's id, "17", or a task's, "17_3"; of the user's own jobs only.
3. Who asks for another user's job is told what is told of one that does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from batchns.core.job import Edge
from batchns.errors import UserError
from batchns.model.job import Condition, Dependency, JobSpec

_ID = re.compile(r"([1-9][0-9]*)(?:_([0-9]+))?")


class Known(Protocol):
    """The jobs of one user that are known, over or not."""

    def named(self, name: str) -> tuple[str, ...]:
        """The arrays of the user's last submission that has the name; empty: there is none."""

    def tasks(self, array_id: str) -> frozenset[int] | None:
        """The tasks of the user's array, none for a job that is no array; None: the user has no such job."""


def resolve_edges(spec: JobSpec, here: Mapping[str, Sequence[str]], known: Known | None) -> tuple[Edge, ...]:
    """The spec's dependencies with what they point at. `here`: the arrays of each name of this submission.

    Call `check_dependencies` first: what points nowhere is left as an edge to nothing.
    """
    return tuple(_edge(dependency, here, known) for dependency in spec.dependency)


def _edge(dependency: Dependency, here: Mapping[str, Sequence[str]], known: Known | None) -> Edge:
    condition, name = dependency.condition, dependency.name
    if condition is Condition.SINGLETON:
        return Edge(condition, name)
    if name in here:
        return Edge(condition, name, tuple(here[name]))
    if found := _ID.fullmatch(name):
        array_id, index = found.groups()
        return Edge(condition, name, (array_id,), None if index is None else int(index))
    return Edge(condition, name, () if known is None else known.named(name))


def check_dependencies(specs: Sequence[JobSpec], known: Known | None = None) -> list[tuple[JobSpec, UserError]]:
    """Edges to names, ids and tasks that no job has, and circles; empty when all is well. `known`: see `Known`."""
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
        if edge.condition is not Condition.SINGLETON and (error := _missing(spec, edge, named, known)) is not None
    ]
    circle = _circle(edges)
    for spec in specs:
        if spec.name in circle:
            path = " -> ".join([*circle, circle[0]])
            problems.append((spec, UserError(f"dependencies go round in a circle: {path}", "remove one of them")))
    return problems


def _missing(spec: JobSpec, edge: Dependency, named: dict[str, list[JobSpec]], known: Known | None) -> UserError | None:
    others = named.get(edge.name)
    if others is not None:
        have = frozenset(index for other in others if other.array for index in other.array.indices)
        return _no_such_tasks(spec, edge, have)
    here = f"jobs here: {', '.join(list(named)[:8])}"
    if known is None:
        return UserError(f"dependency on {edge.name!r}: no such job", here)
    if found := _ID.fullmatch(edge.name):
        return _no_such_id(spec, edge, found, known)
    arrays = known.named(edge.name)
    if not arrays:
        what = f"dependency on {edge.name!r}: no such job here, and none of yours that is known"
        return UserError(what, f"{here}; one that is over for long has to be left out")
    return _no_such_tasks(spec, edge, frozenset().union(*(known.tasks(array) or frozenset() for array in arrays)))


def _no_such_id(spec: JobSpec, edge: Dependency, found: re.Match[str], known: Known) -> UserError | None:
    array_id, index = found.groups()
    tasks = known.tasks(array_id)
    if tasks is None:
        what = f"dependency on {edge.name}: you have no job of this id that is known"
        return UserError(what, "give the id of one of your jobs; one that is over for long has to be left out")
    if index is None:
        return _no_such_tasks(spec, edge, tasks)
    if edge.condition is Condition.AFTERCORR:
        return UserError(f"aftercorr:{edge.name} names one task", f"write aftercorr:{array_id}, or afterok:{edge.name}")
    if int(index) not in tasks:
        return UserError(f"dependency on {edge.name}: job {array_id} has no task {index}", f"write {array_id} for all")
    return None


def _no_such_tasks(spec: JobSpec, edge: Dependency, have: frozenset[int]) -> UserError | None:
    """Of an edge from task to task."""
    if edge.condition is not Condition.AFTERCORR:
        return None
    if spec.array is None:
        return UserError(f"aftercorr:{edge.name} without an array", 'give both jobs the same array, or write "afterok"')
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
