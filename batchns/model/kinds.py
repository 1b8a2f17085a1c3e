"""How one setting is checked: a kind reads a raw value, and knows the JSON Schema of what it takes.

1. One description for both: the check and the schema are made side by side, so they cannot drift apart.
2. Types are strict: true is no number, 4 is no size, "ab" is no list of letters.
3. `read` raises `UserError` for the value itself, and `Refusals` where a list or table holds the mistakes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from attrs import field, frozen

from batchns.errors import UserError
from batchns.model.problems import Finding, Findings, describe, did_you_mean, key_text
from batchns.units import (
    LARGEST,
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
    quote,
)

T = TypeVar("T")
E = TypeVar("E", bound=Enum)
Schema = dict[str, Any]
Rule = Callable[[Mapping[str, Any], Mapping[str, Any]], Iterable[Finding]]


class Reader(Protocol):
    """What a field needs of a kind or a table."""

    @property
    def schema(self) -> Schema: ...
    def read(self, value: Any) -> Any: ...


@frozen
class Kind(Generic[T]):
    """A check of one value, and its JSON Schema (draft 2020-12)."""

    read: Callable[[Any], T]
    schema: Schema


@frozen
class Field:
    """One key of a table. `doc` is one sentence; `default` is what holds without the key, as the user would say it."""

    kind: Reader
    doc: str
    default: str = ""
    required: str = ""  # what to write when it is missing; "" where it may be


@frozen(kw_only=True)
class Table(Generic[T]):
    """A table with known keys, made into `make(**values)`; a `Reader` itself.

    `rules` see the raw table and those of its values that were good, and yield what is wrong between keys;
    `rules_schema` says what of that JSON Schema can say.
    `where` names the table in the message for an unknown key, `more` says how keys of one's own are made known.
    """

    make: Callable[..., T]
    fields: Mapping[str, Field]
    where: str
    rules: tuple[Rule, ...] = ()
    rules_schema: Schema = field(factory=dict)
    more: str = ""
    extra: Schema | bool = False  # JSON Schema of keys that are not among the fields

    def read(self, raw: Any) -> T:
        """
        Raises:
            UserError: not a table.
            Refusals: everything that is wrong inside.
        """
        if not isinstance(raw, dict):
            raise UserError(f"must be a table, not {describe(raw)}", f"write its keys below a [{self.where}] line")
        found, values = Findings(), dict[str, Any]()
        for key, value in raw.items():
            with found.at(key):
                if key not in self.fields:
                    raise self._unknown(key)
                values[key] = self.fields[key].kind.read(value)
        for key, known in self.fields.items():
            if known.required and key not in raw:
                found.add([((key,), UserError("missing", known.required))])
        for rule in self.rules:
            found.add(rule(raw, values))
        found.close()
        return self.make(**values)

    @property
    def schema(self) -> Schema:
        schema: Schema = {
            "type": "object",
            "properties": {key: _with_doc(known) for key, known in self.fields.items()},
            "additionalProperties": self.extra,
            **self.rules_schema,
        }
        if required := [key for key, known in self.fields.items() if known.required]:
            schema["required"] = required
        return schema

    def _unknown(self, key: str) -> UserError:
        for name, known in self.fields.items():
            if isinstance(known.kind, Table) and key in known.kind.fields:
                return UserError("unknown key", f"write it in [{name}], as {name}.{key}")
        if near := did_you_mean(key, self.fields):
            return UserError("unknown key", f"did you mean {near}?{self.more and f' ({self.more})'}")
        return UserError("unknown key", self.more or f"the keys here are {', '.join(self.fields)}")


def text(check: Callable[[str], T], *, example: str, **schema: Any) -> Kind[T]:
    """A string that `check` turns into a value; `check` raises `UserError`."""

    def read(value: Any) -> T:
        if not isinstance(value, str):
            raise UserError(f"must be a string, not {describe(value)}", f"write {example}")
        return check(clean(value))

    return Kind(read, {"type": "string", **schema})


def clean(value: str) -> str:
    """`value`, when it can be given to the kernel.

    Raises:
        UserError: a NUL or a byte that is not UTF-8 in it.
    """
    if "\0" in value:
        raise UserError(f"{quote(value)} holds a NUL character", "remove it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{quote(value)} is not valid UTF-8", "write it in UTF-8") from None
    return value


def integer(least: int, most: int, *, example: str) -> Kind[int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise UserError(f"must be a whole number, not {describe(value)}", f"write for example {example}")
        if not least <= value <= most:
            raise UserError(f"{describe(value)} is out of range", f"write {least} to {most}")
        return value

    return Kind(read, {"type": "integer", "minimum": least, "maximum": most})


def boolean() -> Kind[bool]:
    def read(value: Any) -> bool:
        if not isinstance(value, bool):
            raise UserError(f"must be true or false, not {describe(value)}", "write true or false, without quotes")
        return value

    return Kind(read, {"type": "boolean"})


def number(check: Callable[[float], float], *, example: str, **schema: Any) -> Kind[float]:
    """A finite number, whole or not, that `check` accepts."""

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UserError(f"must be a number, not {describe(value)}", f"write for example {example}")
        if abs(value) > LARGEST or not math.isfinite(value):
            raise UserError(f"{describe(value)} is out of range", f"write for example {example}")
        return check(float(value))

    return Kind(read, {"type": "number", **schema})


def choice(enum: type[E], without: frozenset[Enum] = frozenset()) -> Kind[E]:
    words = [str(member.value) for member in enum if member not in without]

    def read(value: Any) -> E:
        if not isinstance(value, str) or value not in words:
            near = did_you_mean(value, words) if isinstance(value, str) else ""
            hint = f'did you mean "{near}"?' if near else "write " + " or ".join(f'"{word}"' for word in words)
            what = f"one of {', '.join(words)}" if len(words) > 1 else f'"{words[0]}"'
            raise UserError(f"must be {what}, not {describe(value)}", hint)
        return enum(value)

    return Kind(read, {"type": "string", "enum": words})


def size(least: int, *, example: str) -> Kind[int]:
    """Bytes, written with a unit."""
    pattern = "^[0-9]+(\\.[0-9]+)? ?(B|[KMGT]|[KMGT]iB|[kMGT]B)$"
    return _quantity(parse_size, format_size, least, example, pattern)


def rate(least: int, *, example: str) -> Kind[int]:
    """Bits per second, written with a unit."""
    return _quantity(parse_rate, format_rate, least, example, "^[0-9]+(\\.[0-9]+)? ?[kmgt]?bit$")


def duration(*, example: str, zero: bool = False) -> Kind[float]:
    """Seconds, written with a unit; `zero`: may be none at all."""
    pattern = "^([0-9]+(\\.[0-9]+)? ?(d|h|m|s|ms) ?)+$"
    return _quantity(parse_duration, format_duration, 0.0 if zero else 0.001, example, pattern)


N = TypeVar("N", int, float)


def _quantity(parse: Callable[[str], N], show: Callable[[N], str], least: N, example: str, pattern: str) -> Kind[N]:
    def read(value: Any) -> N:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if 0 < value < LARGEST and value == int(value):
                parse(str(int(value)))  # says which units there are, as for "4"
            raise UserError(f"{describe(value)} has no unit", f"write for example {example}")
        if not isinstance(value, str):
            raise UserError(f"must be a string with a unit, not {describe(value)}", f"write for example {example}")
        quantity = parse(value)
        if quantity < least:
            raise UserError(f"{quote(value)} is too small", f'write at least "{show(least)}"')
        return quantity

    return Kind(read, {"type": "string", "pattern": pattern, "examples": [example.strip('"')]})


def either(plain: Reader, table: Reader) -> Kind[Any]:
    """A table, or a plain value in its place."""
    return Kind(
        lambda value: (table if isinstance(value, dict) else plain).read(value),
        {"anyOf": [plain.schema, table.schema]},
    )


def list_of(kind: Reader, *, example: str, least: int = 0) -> Kind[tuple[Any, ...]]:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"must be a list, not {describe(value)}", f"write {example}")
        if len(value) < least:
            raise UserError("the list is empty", f"write {example}")
        found, items = Findings(), list[Any]()
        for index, item in enumerate(value):
            with found.at(index):
                items.append(kind.read(item))
        found.close()
        return tuple(items)

    schema: Schema = {"type": "array", "items": kind.schema}
    return Kind(read, {**schema, "minItems": least} if least else schema)


def mapping_of(kind: Reader, name: Kind[str], *, where: str) -> Kind[dict[str, Any]]:
    """A table with keys of the user's own, each checked by `name`."""

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise UserError(f"must be a table, not {describe(value)}", f"write its keys below a [{where}] line")
        found, items = Findings(), dict[str, Any]()
        for key, item in value.items():
            with found.at(key):
                name.read(key)
                items[key] = kind.read(item)
        found.close()
        return items

    names = {key: name.schema[key] for key in ("pattern", "not") if key in name.schema}
    schema: Schema = {"type": "object", "additionalProperties": kind.schema, "propertyNames": names}
    return Kind(read, schema)


def matching(pattern: str, *, what: str, hint: str, example: str) -> Kind[str]:
    """A string that `pattern` matches from end to end."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise UserError(f"{quote(value)} is not {what}", hint)
        return value

    return text(check, example=example, pattern=f"^(?:{pattern})$")


def exactly_one(*keys: str, missing: str) -> Rule:
    """The rule that one of `keys`, and only one, is there."""

    def rule(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
        present = [key for key in keys if key in raw]
        if not present:
            yield (keys[0],), UserError("missing", missing)
        if len(present) > 1:
            yield (present[1],), UserError(f"stands beside {key_text(present[0])}", "keep one of the two")

    return rule


def _with_doc(known: Field) -> Schema:
    doc = known.doc + (f" Default: {known.default}." if known.default else "")
    return {"description": doc, **known.kind.schema}
