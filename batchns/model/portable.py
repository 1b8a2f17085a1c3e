"""A job's specification as plain JSON values and back, with few imports: what goes to a node of a cluster.

What is read equals what was written. `store.codec` does the same for the daemon's files, at the price of its imports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from batchns.model.job import (
    Array,
    Bind,
    Condition,
    Dependency,
    Identity,
    Isolation,
    JobSpec,
    Network,
    NetworkMode,
    Notice,
    Preempt,
    PreemptMode,
    Resources,
    Slurm,
    WarnSignal,
)
from batchns.model.reach import format_target, parse_target

Json = dict[str, Any]


def to_json(spec: JobSpec) -> Json:
    """Fields that have their defaults are left away."""
    table = _fields(spec)
    nested: Mapping[str, Callable[[Any], Any]] = {
        "array": _fields,
        "dependency": lambda edges: [[edge.condition.value, edge.name] for edge in edges],
        "warn": _fields,
        "notify": lambda notices: [notice.value for notice in notices],
        "resources": _fields,
        "network": _network,
        "isolation": _isolation,
        "preempt": _preempt,
        "slurm": _fields,
    }
    return {name: nested[name](value) if name in nested else _plain(value) for name, value in table.items()}


def from_json(table: Json) -> JobSpec:
    """The inverse of `to_json`."""
    nested: Mapping[str, Callable[[Any], Any]] = {
        "command": tuple,
        "array": lambda value: Array(tuple(value["indices"]), value.get("throttle")),
        "dependency": lambda value: tuple(Dependency(Condition(word), name) for word, name in value),
        "warn": lambda value: WarnSignal(**value),
        "notify": lambda value: tuple(map(Notice, value)),
        "resources": lambda value: Resources(**_with(value, cpuset=tuple)),
        "network": lambda value: Network(
            **_with(value, mode=NetworkMode, allow=lambda targets: tuple(map(parse_target, targets)))
        ),
        "isolation": lambda value: Isolation(
            **_with(value, binds=lambda binds: tuple(Bind(*bind) for bind in binds), identity=Identity)
        ),
        "preempt": lambda value: Preempt(**_with(value, mode=PreemptMode)),
        "slurm": lambda value: Slurm(**value),
    }
    return JobSpec(**_with(table, **nested))


def _with(table: Json, **readers: Callable[[Any], Any]) -> Json:
    return {name: readers[name](value) if name in readers else value for name, value in table.items()}


def _fields(value: Any) -> Json:
    """The fields of a frozen class that differ from their defaults."""
    found = {}
    for one in value.__attrs_attrs__:
        default = one.default.factory() if hasattr(one.default, "factory") else one.default
        if (content := getattr(value, one.name)) != default:
            found[one.name] = _plain(content)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _network(value: Network) -> Json:
    table = _fields(value)
    return _with(table, mode=lambda mode: mode.value, allow=lambda targets: list(map(format_target, targets)))


def _isolation(value: Isolation) -> Json:
    binds = [[bind.source, bind.target, bind.read_only] for bind in value.binds]
    return _with(_fields(value), binds=lambda _: binds, identity=lambda identity: identity.value)


def _preempt(value: Preempt) -> Json:
    return _with(_fields(value), mode=lambda mode: mode.value)
