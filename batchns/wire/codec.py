"""Wire classes to JSON, and answers back: what both sides need, and all that a client does.

1. Written as plain ASCII, so that any name or path survives; NaN and infinity are refused.
2. An answer is read tolerantly: keys that this version does not know are left out, the values' types are believed.
   What a stranger sends is read by `wire.strict`.
3. How a class is read is worked out once, when it is first read: importing this costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from batchns.errors import UserError

T = TypeVar("T")
Reader = Callable[[Any], Any]
Kind = Any  # a class: mypy takes none for hashable


class WireError(UserError):
    """What came over the socket is not what it should be."""


def encode(value: object) -> bytes:
    """JSON of a wire class, or of JSON's own types with wire classes among them.

    Raises:
        ValueError: a number that JSON does not have.
    """
    return _encoder.encode(value).encode("ascii")


def decode(kind: type[T], data: bytes) -> T:
    """An answer of this class.

    Raises:
        WireError: no JSON, or a field without a default is missing.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WireError(f"the answer is not JSON: {error}") from None
    return build(kind, value)


def build(kind: type[T], value: object) -> T:
    """As `decode`, of JSON that has been parsed.

    Raises:
        WireError: a field without a default is missing, or something is nested otherwise.
    """
    of: Kind = kind
    try:
        result: T = class_reader(of)(value)
    except (TypeError, AttributeError) as error:
        raise WireError(f"the answer is no {kind.__name__}: {error}") from None
    return result


def is_wire(kind: object) -> bool:
    return isinstance(kind, type) and hasattr(kind, "__attrs_attrs__")


def field_kinds(kind: Kind) -> dict[str, Any]:
    """The fields' names and types, in their order."""
    hints = get_type_hints(kind)
    return {name: hints[name] for name in _names(kind)}


def optional(kind: Any) -> Any:
    """X of `X | None`; None where `kind` is not of that form."""
    if get_origin(kind) in (Union, UnionType):
        left = [arm for arm in get_args(kind) if arm is not NoneType]
        if len(left) < len(get_args(kind)):
            return Union[tuple(left)]  # noqa: UP007 - made of a list
    return None


@cache
def class_reader(kind: Kind) -> Reader:
    readers = {name: reader for name, of in field_kinds(kind).items() if (reader := _reader(of))}
    known = frozenset(_names(kind))

    def read(value: Any) -> Any:
        if not value.keys() <= known:
            value = {name: value[name] for name in value if name in known}
        for name, reader in readers.items():
            if name in value:
                value[name] = reader(value[name])
        return kind(**value)

    return read


def _reader(kind: Any) -> Reader | None:
    """None: the value is what JSON made of it."""
    if is_wire(kind):
        return class_reader(kind)
    if (inner := optional(kind)) is not None:
        some = _reader(inner)
        return some and (lambda value: None if value is None else some(value))
    arms = get_args(kind)
    if get_origin(kind) is tuple:
        each = _reader(arms[0])
        return (lambda value: tuple(map(each, value))) if each else tuple
    if get_origin(kind) is Mapping and (inside := _reader(arms[1])):
        return lambda value: {name: inside(item) for name, item in value.items()}
    return None


@cache
def _names(kind: Kind) -> tuple[str, ...]:
    return tuple(one.name for one in kind.__attrs_attrs__)


def _plain(value: Any) -> Any:
    kind: Kind = type(value)
    if is_wire(kind):
        return {name: getattr(value, name) for name in _names(kind)}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{kind.__name__} does not go over the wire")


_encoder = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_plain)
