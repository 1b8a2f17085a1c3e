"""What a stranger sends, read strictly: every value has its declared type, and no key is unknown.

1. The first mistake is told with its path: `$.files[0].text: a text is wanted, not the number 7`.
2. Nothing gets through that would break later: no NaN, no half of a surrogate pair, no NUL, no endless nesting.
3. The path is put together on the way up, when there is a mistake: reading what is right costs little.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, NoReturn, TypeVar, get_args, get_origin

from attrs import NOTHING

from batchns.model.problems import did_you_mean
from batchns.units import quote
from batchns.wire.codec import Kind, WireError, field_kinds, is_wire, optional

T = TypeVar("T")
Reader = Callable[[Any], Any]

MAX_DEPTH = 32
MAX_INTEGER = 2**63 - 1
# A NUL, a surrogate, an integer or an exponent of many digits: only then each value is looked at.
_SUSPICIOUS = re.compile(r"\\u(?:0000|[dD][89a-fA-F])|[0-9]{19}|[eE]\+?[0-9]{3}")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")


class _Wrong(Exception):
    """`path` grows at its beginning, on the way up. Never leaves this module."""

    def __init__(self, what: str, hint: str = "", path: tuple[str | int, ...] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.path = path


def read(kind: type[T], data: bytes) -> T:
    """A request of this class.

    Raises:
        WireError: the first thing that is wrong, and where.
    """
    of: Kind = kind
    try:
        result: T = _class_reader(of)(parse(data))
    except _Wrong as wrong:
        raise WireError(f"{_path_text(wrong.path)}: {wrong.what}", wrong.hint) from None
    return result


def parse(data: bytes) -> Any:
    """JSON as RFC 8259 has it, in UTF-8.

    Raises:
        WireError: it is not, or something in it is out of bounds.
    """
    if not data:
        raise WireError("the request has no body", "send a JSON object")
    try:
        text = data.decode()
        value = json.loads(text, parse_constant=_constant)
    except UnicodeDecodeError:
        raise WireError("the request is not UTF-8", "write what is not ASCII as \\uXXXX") from None
    except json.JSONDecodeError as error:
        raise WireError(f"the request is not JSON: {error.msg}: line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # an integer of thousands of digits
        raise WireError("a number in the request is too long") from None
    _check_depth(value)
    if _SUSPICIOUS.search(text):
        try:
            _check(value)
        except _Wrong as wrong:
            raise WireError(f"{_path_text(wrong.path)}: {wrong.what}", wrong.hint) from None
    return value


def _constant(name: str) -> NoReturn:
    raise WireError(f"the request is not JSON: it has no {name}", "leave the key out, or write null")


def _too_deep() -> WireError:
    return WireError("the request is nested too deeply", f"{MAX_DEPTH} levels are enough")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        boxes = [box.values() if type(box) is dict else box for box in level if type(box) in (dict, list)]
        if not boxes:
            return
        level = [item for box in boxes for item in box]
    raise _too_deep()


def _check(value: Any) -> None:
    """Numbers and texts below `value`, which is not nested deeply."""
    if isinstance(value, dict):
        for name in value:
            _check(name)
        _each(_check, value.items())
    elif isinstance(value, list):
        _each(_check, enumerate(value))
    elif isinstance(value, float) and not math.isfinite(value):
        raise _Wrong("a number that a double can hold is wanted")
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise _Wrong("a number of 64 bits is wanted")
    elif isinstance(value, str):
        if "\0" in value:
            raise _Wrong("a text without NUL characters is wanted")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise _Wrong("half of a surrogate pair is no text", "a name that is not UTF-8 cannot be sent")


def _each(reader: Reader, items: Iterable[tuple[str | int, Any]]) -> list[Any]:
    """What `reader` makes of each; what it raises gets its place."""
    made = []
    for place, item in items:
        try:
            made.append(reader(item))
        except _Wrong as wrong:
            raise _Wrong(wrong.what, wrong.hint, (place, *wrong.path)) from None
    return made


@cache
def _class_reader(kind: Kind) -> Reader:
    readers = {name: _reader(of) for name, of in field_kinds(kind).items()}
    fields: Any = kind.__attrs_attrs__
    required = [one.name for one in fields if one.default is NOTHING]

    def read_class(value: Any) -> Any:
        if type(value) is not dict:
            _wanted("an object", value)
        for name in value:
            if name not in readers:
                _unknown(name, readers)
        for name in required:
            if name not in value:
                raise _Wrong(f"{name} is missing")
        made = {}
        for name, item in value.items():
            try:
                made[name] = readers[name](item)
            except _Wrong as wrong:
                raise _Wrong(wrong.what, wrong.hint, (name, *wrong.path)) from None
        return kind(**made)

    return read_class


def _reader(kind: Any) -> Reader:
    if kind is Any:
        return lambda value: value
    if kind in _SCALARS:
        return _SCALARS[kind]
    if is_wire(kind):
        return _class_reader(kind)
    if (inner := optional(kind)) is not None:
        some = _reader(inner)
        return lambda value: None if value is None else some(value)
    origin, arms = get_origin(kind), get_args(kind)
    if origin is tuple and arms[1:] == (...,):
        return _list_reader(_reader(arms[0]))
    if origin is tuple and len(set(arms)) == 1:
        return _list_reader(_reader(arms[0]), len(arms))
    if origin is Mapping:
        return _mapping_reader(_reader(arms[1]))
    raise TypeError(f"no request has a field of type {kind}")


def _list_reader(reader: Reader, length: int | None = None) -> Reader:
    def read_list(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or length not in (None, len(value)):
            _wanted("a list" if length is None else f"a list of {length}", value)
        return tuple(_each(reader, enumerate(value)))

    return read_list


def _mapping_reader(reader: Reader) -> Reader:
    def read_mapping(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            _wanted("an object", value)
        return dict(zip(value, _each(reader, value.items()), strict=True))

    return read_mapping


def _text(value: Any) -> str:
    return value if type(value) is str else _wanted("a text", value)


def _integer(value: Any) -> int:
    return value if type(value) is int else _wanted("a whole number", value)


def _number(value: Any) -> float:
    return float(value) if type(value) in (int, float) else _wanted("a number", value)


def _switch(value: Any) -> bool:
    return value if type(value) is bool else _wanted("true or false", value)


_SCALARS: dict[Any, Reader] = {str: _text, int: _integer, float: _number, bool: _switch}


def _wanted(what: str, value: Any) -> NoReturn:
    raise _Wrong(f"{what} is wanted, not {_described(value)}")


def _unknown(name: str, known: Mapping[str, object]) -> NoReturn:
    near = did_you_mean(name, known)
    hint = f"did you mean {near}?" if near else f"there are {', '.join(sorted(known))}"
    raise _Wrong("unknown key", hint, (name,))


def _path_text(path: Iterable[str | int]) -> str:
    text = "$"
    for part in path:
        if isinstance(part, str):
            text += f".{part}" if _BARE_KEY.fullmatch(part) else f"[{quote(part)}]"
        else:
            text += f"[{part}]"
    return text


def _described(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return f"the text {quote(value)}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    return f"a list of {len(value)}" if isinstance(value, list) else "an object"
