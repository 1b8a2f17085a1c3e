"""Jobs, changes and results as JSON text, and back.

1. What is read equals what was written. A field that is empty by default (None, "", nothing in it) is left away when it
   is; every other one is written out, so that a default of a later version changes no job of an earlier one.
2. A field that an earlier version did not know takes its default; one that this version does not know is an error.
3. Equal texts are read once: jobs of equal demands, bounds and specs share them again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Generic, TypeVar, get_args, get_type_hints

import attrs
from cattrs import Converter
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_unstructure_fn, override

from batchns.core.changes import Change, Submitted
from batchns.core.demand import Bounds, Demand
from batchns.core.job import Job, Ledger
from batchns.model.job import JobSpec
from batchns.model.reach import HostPorts, Jobs, Target, format_target, parse_target
from batchns.model.result import JobResult

T = TypeVar("T", bound=attrs.AttrsInstance)


class Unreadable(ValueError):
    """A text that this version does not know how to read: damaged, or of a newer one."""


_encode = json.JSONEncoder(separators=(",", ":")).encode  # ASCII: names of files may be no valid Unicode


def dump(value: Any) -> str:
    """JSON on one line. Infinite numbers are written as Python reads them."""
    return _encode(value)


def load(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{text[:40]!r} is not JSON: {error}") from None


def load_table(text: str) -> dict[str, Any]:
    """A JSON object. Raises Unreadable."""
    table = load(text)
    if not isinstance(table, dict):
        raise Unreadable(f"{text[:40]!r} is no table")
    return table


def _overrides(cls: type, without: Iterable[str] = ()) -> dict[str, Any]:
    found = {field.name: override(omit_if_default=True) for field in attrs.fields(cls) if _empty(field.default)}
    return found | {name: override(omit=True) for name in without}


def _empty(default: Any) -> bool:
    factory = getattr(default, "factory", None)  # of attrs.Factory, which its types say is a function
    return default is None or default == "" or default == () or factory in (dict, tuple, list)


def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True, detailed_validation=False)
    converter.register_unstructure_hook_factory(
        attrs.has, lambda cls: make_dict_unstructure_fn(cls, converter, **_overrides(cls))
    )
    converter.register_unstructure_hook(Ledger, list)
    converter.register_structure_hook(Ledger, lambda value, _: Ledger(*map(float, value)))
    converter.register_structure_hook(int | str | None, lambda value, _: value)  # a limit's reading
    for target in (Target, Jobs, HostPorts, IPv4Network, IPv6Network):
        converter.register_unstructure_hook(target, format_target)
    converter.register_structure_hook(Target, lambda value, _: parse_target(value))
    return converter


_CONVERTER = _converter()


class Whole(Generic[T]):
    """Objects of one class as texts."""

    def __init__(self, cls: type[T]) -> None:
        self._name = cls.__name__
        self._write = _CONVERTER.get_unstructure_hook(cls)
        self._read = _CONVERTER.get_structure_hook(cls)
        self._cls = cls

    def encode(self, value: T) -> str:
        return dump(self._write(value))

    def decode(self, text: str) -> T:
        """Raises Unreadable."""
        table = load_table(text)
        try:
            return self._read(table, self._cls)  # type: ignore[no-any-return]
        except Exception as error:  # whatever a reader of a field makes of a value that is none
            raise _unreadable(self._name, error) from None


class Part(Generic[T]):
    """Objects of one class as texts, without the fields that are kept elsewhere."""

    def __init__(self, cls: type[T], without: Iterable[str]) -> None:
        self._cls = cls
        self._write: Callable[[T], dict[str, Any]] = make_dict_unstructure_fn(
            cls, _CONVERTER, **_overrides(cls, without)
        )
        types = get_type_hints(cls)
        left = set(without)
        names = [name for name in attrs.fields_dict(cls) if name not in left]
        self._read = {name: (_CONVERTER.get_structure_hook(types[name]), types[name]) for name in names}

    def table(self, value: T) -> dict[str, Any]:
        return self._write(value)

    def encode(self, value: T) -> str:
        return dump(self._write(value))

    def fields(self, table: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that are in the text. Raises Unreadable."""
        if unknown := sorted(table.keys() - self._read.keys()):
            raise Unreadable(f"{self._cls.__name__} has fields that are not known: {', '.join(unknown)}")
        try:
            return {name: self._read[name][0](value, self._read[name][1]) for name, value in table.items()}
        except Exception as error:  # as above
            raise _unreadable(self._cls.__name__, error) from None

    def build(self, fields: Mapping[str, Any], **more: Any) -> T:
        """The object of these fields and `more`. Raises Unreadable where one lacks that has no default."""
        try:
            return self._cls(**fields, **more)
        except TypeError as error:
            raise _unreadable(self._cls.__name__, error) from None

    def decode(self, text: str, **more: Any) -> T:
        """Raises Unreadable."""
        return self.build(self.fields(load_table(text)), **more)


def _unreadable(name: str, error: Exception) -> Unreadable:
    if isinstance(error, ForbiddenExtraKeysError):
        fields = ", ".join(sorted(error.extra_fields))
        return Unreadable(f"{error.cl.__name__} has fields that are not known: {fields}")
    return Unreadable(f"{name}: {type(error).__name__}: {error}")


SPEC = Whole(JobSpec)
DEMAND = Whole(Demand)
BOUNDS = Whole(Bounds)
JOB = Part(Job, ("id", "array_id", "index", "spec", "demand", "bounds", "order"))
RESULT = Part(JobResult, ("job_id", "name", "state"))
CHANGES: dict[str, Part[Any]] = {
    cls.__name__: Part(cls, ("job",) if "job" in attrs.fields_dict(cls) else ())
    for cls in get_args(Change)
    if cls is not Submitted
}

demand_text = lru_cache(maxsize=1024)(DEMAND.encode)  # few kinds of them, asked for again and again
bounds_text = lru_cache(maxsize=1024)(BOUNDS.encode)


def encode_change(change: Change) -> tuple[str, str | None]:
    """(kind, its fields but the job, None where there are none)."""
    kind = type(change).__name__
    table = CHANGES[kind].table(change)
    return kind, dump(table) if table else None


def decode_change(kind: str, job_id: str | None, text: str | None) -> Change:
    """Raises Unreadable."""
    if kind not in CHANGES:
        raise Unreadable(f"a change {kind!r} is not known")
    job = {} if job_id is None else {"job": job_id}
    return CHANGES[kind].decode(text or "{}", **job)  # type: ignore[no-any-return]
