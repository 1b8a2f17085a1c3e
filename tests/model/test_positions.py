"""Lines of keys and values, in every way in which TOML can write them."""

from __future__ import annotations

from typing import Any

import pytest
import tomli
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from batchns.model.positions import positions, scan, too_deep
from batchns.model.problems import Path, path_text


def lines(text: str) -> dict[str, int]:
    tomli.loads(text)  # what the finder trusts
    return {path_text(path): line for path, line in positions(scan(text)).lines.items()}


def test_keys_after_multi_line_strings_and_comments() -> None:
    text = "# [a]\nname = 'x' # b = 1\nscript = '''\n[not.a.table]\nkey = 1\n'''\n"
    text += 'last = """\n\\"""" # ]"""\nend = 1\n'
    assert lines(text) == {"name": 2, "script": 3, "last": 7, "end": 9}


def test_strings_that_end_in_quotes() -> None:
    text = 'a = \'\'\'it\'\'s\'\'\'\'\'\nb = """"""\nc = """x"""""\nd = \'\'\ne = "#"\nf = 1'
    assert lines(text) == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6}


def test_lists_over_several_lines() -> None:
    text = 'a = [\n  "x", # one\n  [1,\n   2],\n  { k = 1,  "l m" = [3] },\n]\n'
    assert lines(text) == {
        "a": 1, "a[0]": 2, "a[1]": 3, "a[1][0]": 3, "a[1][1]": 4, "a[2]": 5, "a[2].k": 5, 'a[2]."l m"': 5,
        'a[2]."l m"[0]': 5,
    }  # fmt: skip


def test_dotted_and_quoted_keys() -> None:
    assert lines('a.b . "c.d" = 1\n\na.b.e = 2\n"\\u0061".f = 3') == {
        "a": 1,
        "a.b": 1,
        'a.b."c.d"': 1,
        "a.b.e": 3,
        "a.f": 4,
    }


def test_tables_and_lists_of_tables() -> None:
    text = "[[job]]\nn = 1\n[job.r]\nm = 1\n\n[[job]]\nn = 2\n  [[job.s]]\n  k = 1\n  [[job.s]]\n  k = 2\n"
    text += "[other]\nz = 1.5\ny = 1e-3\n"
    assert lines(text) == {
        "job": 1, "job[0]": 1, "job[0].n": 2, "job[0].r": 3, "job[0].r.m": 4,
        "job[1]": 6, "job[1].n": 7, "job[1].s": 8, "job[1].s[0]": 8, "job[1].s[0].k": 9,
        "job[1].s[1]": 10, "job[1].s[1].k": 11, "other": 12, "other.z": 13, "other.y": 14,
    }  # fmt: skip


def test_dates_numbers_and_windows_line_ends() -> None:
    text = "a = 1979-05-27T07:32:00.5Z\r\nb = +1_000.5e+3\r\nc = [07:32:00, inf, -nan, 0xff]\r\nd = true"
    assert lines(text) == {"a": 1, "b": 2, "c": 3, "c[0]": 3, "c[1]": 3, "c[2]": 3, "c[3]": 3, "d": 4}


def test_what_has_no_place_has_that_of_what_holds_it() -> None:
    places = positions(scan("\n\n[a]\nb = 1\n"))
    assert places.line(("a", "missing", 3)) == 3
    assert places.line(("elsewhere",)) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = [[[1]]]", 0),
        ("a = [[[[1]]]]", 1),
        ("a = 1\nb = [\n[[{}]]]", 3),
        ("a.b.c.d = 1", 0),
        ("\na.b.c.d.e = 1", 2),
        ("a = '[[[[[[' # [[[[[[", 0),
        ("a = [1.5, 1.5, 1.5, 1.5, 1.5]", 0),
        ("]]]]", 0),
    ],
)
def test_nesting_is_found_before_anything_recurses(text: str, line: int) -> None:
    assert too_deep(scan(text), 3) == line


KEYS = st.text(min_size=1, max_size=5)
LEAVES = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(allow_nan=False), st.text(max_size=12), st.datetimes()
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=12,
)


def paths(value: Any, path: Path = ()) -> list[Path]:
    found = [path]
    if isinstance(value, dict):
        found += [p for key, item in value.items() for p in paths(item, (*path, key))]
    elif isinstance(value, list):
        found += [p for index, item in enumerate(value) for p in paths(item, (*path, index))]
    return found


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_every_path_of_a_document_has_a_line_and_none_is_invented(document: dict[str, Any]) -> None:
    """Against another writer (tomlkit) and the parser itself (tomli)."""
    try:
        text = tomlkit.dumps(document)
        values = tomli.loads(text)
    except ValueError:
        return  # tomlkit writes some control characters that TOML does not allow
    found = positions(scan(text)).lines
    assert set(found) == set(paths(values)) - {()}
    assert all(1 <= line <= text.count("\n") + 1 for line in found.values())


@given(st.text())
def test_scanning_never_fails_and_loses_nothing_but_blanks_and_comments(text: str) -> None:
    """Whatever it is given: it runs before the parser."""
    tokens = scan(text)
    assert too_deep(tokens, 12) >= 0
    assert [token.line for token in tokens] == sorted(token.line for token in tokens)
    if "#" not in text:
        assert sum(len(token.text) for token in tokens) >= len("".join(text.split()))
