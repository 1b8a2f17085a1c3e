"""Wire classes to JSON and back: strict for requests, tolerant for answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, get_args, get_origin

import pytest
from attrs import fields
from hypothesis import given, settings
from hypothesis import strategies as st

from batchns.wire import codec, strict
from batchns.wire import types as wire
from batchns.wire.codec import WireError, field_kinds, is_wire, optional

CLASSES = sorted((kind for kind in vars(wire).values() if is_wire(kind)), key=lambda kind: kind.__name__)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type."""
    plain = {str: TEXTS, int: st.integers(-9, 10**12), float: st.floats(-1e9, 1e9), bool: st.booleans(), Any: JSON}
    if kind in plain:
        return plain[kind]
    if is_wire(kind):
        return objects(kind)
    if (inner := optional(kind)) is not None:
        return st.none() | values(inner)
    origin, arms = get_origin(kind), get_args(kind)
    if origin is tuple:
        return st.lists(values(arms[0]), max_size=2).map(tuple) if arms[1:] == (...,) else st.tuples(*map(values, arms))
    if origin is Mapping:
        return st.dictionaries(TEXTS, values(arms[1]), max_size=2)
    return st.one_of(*map(values, arms))


def objects(kind: Any) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({name: values(of) for name, of in field_kinds(kind).items()}).map(
        lambda made: kind(**made)
    )


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_survives_the_way_there_and_back(kind: Any) -> None:
    @given(objects(kind))
    @settings(max_examples=20, deadline=None)
    def there_and_back(value: Any) -> None:
        assert codec.decode(kind, codec.encode(value)) == value

    there_and_back()


REQUESTS = [wire.SubmitRequest, wire.ActRequest, wire.DrainRequest, wire.ExecRequest]


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_what_a_client_writes_is_read_strictly_as_it_was(kind: Any) -> None:
    @given(objects(kind))
    @settings(max_examples=50, deadline=None)
    def there_and_back(value: Any) -> None:
        assert strict.read(kind, codec.encode(value)) == value

    there_and_back()


def test_it_is_ascii_whatever_is_in_it() -> None:
    """A path that is no UTF-8 (a lone surrogate, in Python) reaches the client as it was."""
    detail = codec.encode(wire.Failure(code="x", message="\udce4 \x7f ü"))
    assert detail.isascii()
    assert codec.decode(wire.Failure, detail).message == "\udce4 \x7f ü"


def test_a_number_that_json_does_not_have_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        codec.encode(wire.UsageRow(user="a", name="b", jobs=1, cpus=float("nan")))


def test_an_answer_of_a_newer_daemon_is_understood() -> None:
    """Keys that are not known are left out, at every depth."""
    text = {"jobs": [{"id": "1", "name": "a", "tasks": 2, "color": "red"}], "warnings": ["x"]}
    expected = wire.Submitted(jobs=(wire.SubmittedJob(id="1", name="a", tasks=2),))
    assert codec.decode(wire.Submitted, json.dumps(text).encode()) == expected


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b'{"jobs":7}', b'{"jobs":[{"id":"1"}]}', b"[" * 100_000])
def test_what_is_no_answer_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(WireError, match="answer"):
        codec.decode(wire.Submitted, data)


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (wire.SubmitRequest, b"", "no body"),
        (wire.SubmitRequest, b"[]", r"\$: an object is wanted, not a list of 0"),
        (wire.SubmitRequest, b'{"files":{}}', r"\$\.files: a list is wanted, not an object"),
        (wire.SubmitRequest, b'{"files":[{}]}', r"\$\.files\[0\]: text is missing"),
        (wire.SubmitRequest, b'{"files":[{"text":7}]}', r"\$\.files\[0\]\.text: a text is wanted, not the number 7"),
        (wire.SubmitRequest, b'{"files":[{"text":null}]}', r"\$\.files\[0\]\.text: a text is wanted, not null"),
        (wire.SubmitRequest, b'{"files":[{"txt":""}]}', r"\$\.files\[0\]\.txt: unknown key - did you mean text\?"),
        (wire.SubmitRequest, b'{"nothing like it":1}', r'\["nothing like it"\]: unknown key - there are commands'),
        (wire.SubmitRequest, b'{"commands":[{"options":[]}]}', r"\$\.commands\[0\]\.options: an object is wanted"),
        (wire.ActRequest, b'{"verb":"cancel","jobs":"7"}', r"\$\.jobs: a list is wanted, not the text"),
        (wire.ActRequest, b'{"verb":"priority","jobs":[],"priority":true}', r"priority: a whole number .* not true"),
        (wire.ActRequest, b'{"verb":"priority","jobs":[],"priority":1.5}', r"priority: a whole number .* number 1.5"),
        (wire.ExecRequest, b'{"terminal":[1]}', r"\$\.terminal: a list of 2 is wanted"),
        (wire.ExecRequest, b'{"terminal":[1,"2"]}', r"\$\.terminal\[1\]: a whole number"),
        (wire.ExecRequest, b'{"env":{"A B":1}}', r'\$\.env\["A B"\]: a text is wanted'),
        (wire.ExecRequest, b'{"env":{"A":"\\u0000"}}', r"\$\.env\.A: a text without NUL"),
        (wire.ExecRequest, b'{"cwd":"\\udce4"}', r"\$\.cwd: half of a surrogate pair"),
        (wire.ExecRequest, b'{"cwd":"\xe4"}', "not UTF-8"),
        (wire.SubmitRequest, b'{"commands":[{"options":{"a":[1e999]}}]}', r"options\.a\[0\]: a number that a double"),
        (wire.SubmitRequest, b'{"commands":[{"options":{"a":9223372036854775808}}]}', r"options\.a: a number of 64"),
        (wire.SubmitRequest, b'{"commands":[{"options":{"a":NaN}}]}', "it has no NaN"),
        (wire.SubmitRequest, b'{"commands":' + b"[" * 40 + b"]" * 40 + b"}", "nested too deeply"),
        (wire.SubmitRequest, b"[" * 500_000, "nested too deeply"),
        (wire.SubmitRequest, b"9" * 5000, "too long"),
        (wire.SubmitRequest, b'{"files": [}', "not JSON: .* column 12"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_told_with_its_place(kind: Any, data: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        strict.read(kind, data)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=300, deadline=None)
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    for kind in REQUESTS:
        try:
            made = strict.read(kind, data)
        except WireError as error:
            assert str(error).isprintable()
        else:
            assert type(made) is kind


def test_every_request_can_be_read_strictly() -> None:
    """A field of a type that `strict` does not know would only be noticed by its first user."""
    for kind in REQUESTS:
        with pytest.raises(WireError):
            strict.read(kind, b"[]")
        assert {one.name for one in fields(kind)} == set(field_kinds(kind))


def test_a_client_reads_answers_without_heavy_libraries() -> None:
    code = "import sys, batchns.client.sync; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"trio", "cattrs", "h11", "starlette", "anyio", "click", "rich", "asyncio"}
    assert "batchns.wire.strict" not in done.stdout.split()
