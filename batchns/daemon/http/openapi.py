"""The OpenAPI 3.1 document, made from the table of routes and the wire classes: it says what is there, and no more.

`python -m batchns.daemon.http > docs/openapi.json` writes the copy for readers; a test compares them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args, get_origin

from attrs import NOTHING, fields

from batchns import __version__
from batchns.daemon.http.failures import STATUS
from batchns.daemon.http.routes import ROUTES, Parameter, Route
from batchns.wire import types as wire
from batchns.wire.codec import Kind, field_kinds, is_wire, optional

Json = dict[str, Any]

ANY_ROUTE = ("forbidden", "slow", "headers_too_large", "defect", "unavailable")
_SCALARS: dict[Any, Json] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    Any: {},
}
_PARAMETER: dict[str, Json] = {
    "text": {"type": "string"},
    "texts": {"type": "array", "items": {"type": "string"}},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "switch": {"type": "boolean"},
}


@cache
def document() -> Json:
    """All routes and all classes they use."""
    schemas: dict[str, Json] = {}
    paths: dict[str, Json] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "batchns", "version": __version__, "description": _ABOUT},
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


_ABOUT = (
    "HTTP/1.1 over the unix socket of the batchns daemon. Who asks is told by the kernel. "
    "Moments are seconds since the epoch, durations seconds, sizes bytes, rates bits per second."
)


def _operation(route: Route, schemas: dict[str, Json]) -> Json:
    parameters: list[Json] = [_query(parameter) for parameter in route.query]
    if "{id}" in route.path:
        parameters.insert(0, {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})
    operation: Json = {"summary": route.about, "operationId": _name(route)}
    if parameters:
        operation["parameters"] = parameters
    if route.request is not None:
        content = {"application/json": {"schema": schema_of(route.request, schemas)}}
        operation["requestBody"] = {"required": True, "content": content}
    operation["responses"] = {str(route.status): _success(route, schemas), **_failures(route, schemas)}
    return operation


def _success(route: Route, schemas: dict[str, Json]) -> Json:
    if isinstance(route.answer, str):
        return {"description": "A stream.", "content": {route.answer: {}}}
    schema = schema_of(route.answer, schemas)
    return {"description": "Done.", "content": {"application/json": {"schema": schema}}}


def _failures(route: Route, schemas: dict[str, Json]) -> Json:
    codes = {*ANY_ROUTE, *route.can_fail}
    if route.query or route.request is not None:
        codes.add("invalid")
    if route.request is not None:
        codes.add("too_large")
    content = {"application/json": {"schema": schema_of(wire.Failure, schemas)}}
    described: dict[str, str] = {}
    for code in sorted(codes, key=lambda code: (STATUS[code], code)):
        status = str(STATUS[code])
        described[status] = f"{described[status]}, {code}" if status in described else code
    return {status: {"description": text, "content": content} for status, text in described.items()}


def _query(parameter: Parameter) -> Json:
    schema: Json = dict(_PARAMETER[parameter.kind])
    if parameter.choices:
        schema["enum"] = list(parameter.choices)
    if parameter.least is not None:
        schema["minimum"] = parameter.least
    if parameter.most is not None:
        schema["maximum"] = parameter.most
    return {"name": parameter.name, "in": "query", "description": parameter.about, "schema": schema}


def _name(route: Route) -> str:
    words = [part for part in route.path.split("/")[2:] if part != "{id}"]
    one = "{id}" in route.path and len(words) == 1
    return "_".join([route.method.lower(), *([words[0].removesuffix("s")] if one else words)]).replace(".", "_")


def schema_of(kind: Kind, schemas: dict[str, Json]) -> Json:
    """JSON schema of a field's type; classes go into `schemas`, once."""
    if kind in _SCALARS:
        return dict(_SCALARS[kind])
    if is_wire(kind):
        if kind.__name__ not in schemas:
            schemas[kind.__name__] = {}  # a class may hold itself
            schemas[kind.__name__] = _class(kind, schemas)
        return {"$ref": f"#/components/schemas/{kind.__name__}"}
    if (inner := optional(kind)) is not None:
        return {"anyOf": [schema_of(inner, schemas), {"type": "null"}]}
    origin: Any = get_origin(kind)
    arms = get_args(kind)
    if origin is tuple and arms[1:] == (...,):
        return {"type": "array", "items": schema_of(arms[0], schemas)}
    if origin is tuple:
        parts = [schema_of(arm, schemas) for arm in arms]
        return {"type": "array", "prefixItems": parts, "minItems": len(parts), "maxItems": len(parts)}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": schema_of(arms[1], schemas)}
    if arms:  # a union
        return {"anyOf": [schema_of(arm, schemas) for arm in arms]}
    raise TypeError(f"{kind} has no place in JSON")


def _class(kind: Kind, schemas: dict[str, Json]) -> Json:
    properties = {name: schema_of(of, schemas) for name, of in field_kinds(kind).items()}
    required = [one.name for one in fields(kind) if one.default is NOTHING]
    made: Json = {"type": "object", "properties": properties}
    if kind.__doc__ and not kind.__doc__.startswith("Method generated"):
        made = {"type": "object", "description": " ".join(kind.__doc__.split()), "properties": properties}
    return {**made, "required": required} if required else made


def text() -> str:
    return json.dumps(document(), indent=2) + "\n"
