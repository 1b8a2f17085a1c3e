"""Objects of any class of ours, made from its annotations: a new field or change is tested without a word here."""

from __future__ import annotations

import types
from collections.abc import Mapping
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs
from hypothesis import strategies as st

from batchns.core.changes import Change, Submitted
from batchns.core.job import Job, Ledger
from batchns.model.job import JobSpec
from batchns.store.interface import Ending, Entry
from tests.model.job_strategies import JOBS as SPECS

FLOATS = st.floats(allow_nan=False)  # a NaN equals nothing, itself included
NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)
PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)  # names of users and queues
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | FLOATS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
IDS = st.builds(
    lambda array, index: f"{array}" if index is None else f"{array}_{index}",
    st.integers(1, 10**9),
    st.none() | st.integers(0, 999_999),
)


def any_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type as annotations have it."""
    simple = {float: FLOATS, int: NUMBERS, bool: st.booleans(), str: st.text(max_size=12), type(None): st.none()}
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in simple:
        return simple[kind]
    if kind is JobSpec:
        return SPECS
    if kind is Ledger:
        return st.builds(Ledger, FLOATS, FLOATS, FLOATS, FLOATS)
    if origin in (Union, types.UnionType):
        return st.one_of([any_of(one) for one in arguments])
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(any_of(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(any_of, arguments))
    if origin is Mapping:
        return st.dictionaries(any_of(arguments[0]), any_of(arguments[1]), max_size=3)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(kind)
    return of(kind)


def of(cls: type, **known: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls)
    return st.builds(
        cls,
        **{
            name: known[name] if name in known else st.deferred(lambda kind=hints[name]: any_of(kind))
            for name in attrs.fields_dict(cls)
        },
    )


@st.composite
def jobs(draw: st.DrawFn) -> list[Job]:
    """Jobs of one submission, some of them tasks; any values in all their fields."""
    found = []
    for array in sorted(draw(st.sets(st.integers(1, 10**6), min_size=1, max_size=3))):
        indices = draw(st.just([None]) | st.sets(st.integers(0, 999_999), min_size=1, max_size=3).map(sorted))
        like = draw(of(Job, **EDGES))
        for index in indices:
            alike = draw(st.booleans())
            job = like if alike else draw(of(Job, **EDGES))
            job_id = f"{array}" if index is None else f"{array}_{index}"
            found.append(attrs.evolve(job, id=job_id, array_id=f"{array}", index=index))
    return found


EDGES: dict[str, st.SearchStrategy[Any]] = {}
if "edges" in attrs.fields_dict(Job):
    from batchns.core.job import Edge

    ARRAYS = st.lists(st.integers(1, 10**6).map(str), max_size=3).map(tuple)
    EDGES = {"edges": st.lists(of(Edge, arrays=ARRAYS), max_size=2).map(tuple)}

CHANGES = st.one_of(
    [
        of(cls, **({"job": IDS} if "job" in attrs.fields_dict(cls) else {}))
        for cls in get_args(Change)
        if cls is not Submitted
    ]
)
ENTRIES = st.builds(Entry, at=FLOATS, change=CHANGES, data=st.dictionaries(st.text(max_size=5), JSON, max_size=3))
ENDINGS = of(Ending, job_id=IDS, user=PLAIN, queue=PLAIN, uid=st.integers(0, 1 << 32)).map(
    lambda ending: attrs.evolve(
        ending,
        result=attrs.evolve(
            ending.result, job_id=ending.job_id, name=ending.result.name.encode("ascii", "replace").decode()
        ),
    )
)
