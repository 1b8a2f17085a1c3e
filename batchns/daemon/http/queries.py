"""The query of a URL, read as strictly as a body."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

from batchns.daemon.http.routes import Parameter
from batchns.errors import UserError
from batchns.model.problems import did_you_mean
from batchns.units import quote
from batchns.wire.strict import MAX_INTEGER

MAX_FIELDS = 1000
_SWITCH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def read_query(parameters: Sequence[Parameter], query: bytes) -> dict[str, Any]:
    """Values by name, of those that are there; "" is a value of texts only.

    Raises:
        UserError: an unknown name, a name twice that may be there once, a value of the wrong kind.
    """
    if not query:
        return {}
    known = {parameter.name: parameter for parameter in parameters}
    found: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except UnicodeDecodeError:
        raise UserError("the query is not UTF-8", "write other bytes as %XX") from None
    except ValueError:
        raise UserError(f"the query has more than {MAX_FIELDS} parts") from None
    for name, text in pairs:
        parameter = known.get(name)
        if parameter is None:
            near = did_you_mean(name, known)
            hint = f"did you mean {near}?" if near else f"there are {', '.join(sorted(known)) or 'none'}"
            raise UserError(f"unknown parameter {quote(name)}", hint)
        value = _value(parameter, text)
        if parameter.kind == "texts":
            found.setdefault(name, []).append(value)
        elif name in found:
            raise UserError(f"?{name}= is there twice", "once is enough")
        else:
            found[name] = value
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _value(parameter: Parameter, text: str) -> Any:
    if "\0" in text:
        raise UserError(f"?{parameter.name}= has a NUL character in it")
    if parameter.choices and text not in parameter.choices:
        raise _wrong(parameter, " or ".join(parameter.choices), text)
    if parameter.kind in ("text", "texts"):
        return text
    if parameter.kind == "switch":
        if text not in _SWITCH:
            raise _wrong(parameter, "1 or 0", text)
        return _SWITCH[text]
    if parameter.kind == "integer":
        return _integer(parameter, text)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _wrong(parameter, "a number", text)
    return number


def _integer(parameter: Parameter, text: str) -> int:
    least = 0 if parameter.least is None else parameter.least
    most = MAX_INTEGER if parameter.most is None else parameter.most
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        bounds = f"from {least} to {most}" if parameter.most is not None else f"of at least {least}"
        raise _wrong(parameter, f"a whole number {bounds}", text)
    return int(text)


def _wrong(parameter: Parameter, wanted: str, text: str) -> UserError:
    return UserError(f"?{parameter.name}= wants {wanted}, not {quote(text)}")
