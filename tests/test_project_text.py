"""What the project says of itself: links lead somewhere, promises name tests that exist, nobody's machine is in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for path in (
        *ROOT.glob("*.md"),
        *(path for top in ("docs", "grafana", "jobs") for path in (ROOT / top).rglob("*.md")),
    )
    if "results" not in path.parts
)
# (page, heading): the table below it has a promise in each row, and so a test.
PROMISES = (
    ("README.md", "What a job is held to"),
    ("docs/security.md", "Promises"),
    ("docs/architecture.md", "When something is killed"),
    ("docs/scheduling.md", "Shown by"),
)
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_TEST = re.compile(r"tests/[\w/]+\.py::\w+(?:::\w+)?")

# With a ~ in each word, so that this file does not name what it looks for.
FOREIGN = {
    what: pattern.replace("~", "")
    for what, pattern in {
        "a folder of one machine": r"(?<![\w.])/(?:w~ork|home/[a-z]+/\.\w+|r~oot/\.\w+|opt/(?:p~ypi|w~heels))\b",
        "a package index": r"(?i)\b(?:index-u~rl|a~rtifactory|py~pi\.(?!org)[a-z]|python~hosted)",
        "an issue's number": r"(?i)\bissues? (?:no\.? ?)?#?\d|(?<![\w&#/])#\d{1,4}\b(?![\w-])",
        "how it was made": r"(?i)\b(?:previous|next|this|last|earlier|later|helper) sess~ion\b|\bco-?foun~der",
    }.items()
}


def texts() -> Iterator[Path]:
    """The project's own text files; what it quotes (licences, sample data) and what it makes is left out."""
    for top in ("batchns", "bench", "docs", "grafana", "jobs", "packaging", "tests", ".ci"):
        for path in sorted((ROOT / top).rglob("*")):
            parts = path.relative_to(ROOT).parts
            made = {"__pycache__", "results", "data"} & set(parts) or path.suffix in (".out", ".err", ".pyc", ".png")
            if path.is_file() and not made:
                yield path
    for pattern in ("*.md", "*.toml", "Makefile", ".gitignore"):
        yield from sorted(ROOT.glob(pattern))


def foreign(text: str) -> list[str]:
    """What in `text` is not of this project: what it is, and the words."""
    return [f"{what}: {match[0]!r}" for what, pattern in FOREIGN.items() for match in re.finditer(pattern, text)]


def anchors(page: Path) -> set[str]:
    """The names under which headings can be linked to."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    """The relative links of the page that lead nowhere."""
    dead = []
    for link in _LINK.findall(_FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


def section(text: str, heading: str) -> str:
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    return parts[parts.index(heading) + 1]


def rows(text: str) -> list[str]:
    """The rows of the first table, without its head."""
    table = re.search(r"^\|.*\|\n\|[-|: ]+\|\n((?:\|.*\|\n)+)", text, flags=re.MULTILINE)
    assert table, "there is a table"
    return table[1].splitlines()


@cache
def names_in(path: Path) -> frozenset[str]:
    """The tests of a file as pytest names them, without parameters; found without running it."""
    if not path.exists():
        return frozenset()
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found.update(f"{node.name}::{part.name}" for part in node.body if isinstance(part, ast.FunctionDef))
    return frozenset(name for name in found if name.split("::")[-1].startswith("test_"))


def missing_tests(text: str) -> list[str]:
    """The tests that the text names and that do not exist."""
    named = [reference.partition("::") for reference in _TEST.findall(text)]
    return [f"{file}::{name}" for file, _, name in named if name not in names_in(ROOT / file)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    assert dead_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_is_named_exists(page):
    assert missing_tests(page.read_text()) == []


@pytest.mark.parametrize(("page", "heading"), PROMISES)
def test_every_promise_names_a_test(page, heading):
    table = rows(section((ROOT / page).read_text(), heading))
    assert len(table) > 5
    assert [row for row in table if not _TEST.search(row)] == []


def test_the_project_speaks_of_itself_alone():
    found = {str(path.relative_to(ROOT)): foreign(path.read_text(errors="replace")) for path in texts()}
    assert {name: words for name, words in found.items() if words} == {}


def test_every_page_of_the_docs_is_linked_from_the_readme():
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in _LINK.findall((ROOT / "README.md").read_text())}
    assert [str(page) for page in (ROOT / "docs").rglob("*.md") if page not in linked] == []


class TestTheCheckersThemselves:
    """Each notices the fault it is for."""

    @pytest.mark.parametrize("link", ["no-such-page.md", "page.md#no-such-heading", "#nowhere"])
    def test_a_dead_link(self, tmp_path, link):
        page = tmp_path / "page.md"
        page.write_text(f"# A heading\n\n[dead]({link}) [fine](page.md#a-heading) [far](https://example.org/)\n")
        assert dead_links(page) == [link]

    def test_a_test_that_is_not_there(self):
        here = "tests/test_project_text.py"
        assert missing_tests(f"`{here}::test_no_such_thing` `{here}::test_every_promise_names_a_test`") == [
            f"{here}::test_no_such_thing"
        ]

    @pytest.mark.parametrize(
        "text",
        ["/w~ork/main", "/r~oot/.pyenv/shims", "see iss~ue 12", "fixes #~7", "in the next sess~ion"],
    )
    def test_words_of_elsewhere(self, text):
        assert foreign(text.replace("~", ""))

    @pytest.mark.parametrize(
        "text",
        ["/root/first", "a session of its own", "#!/bin/sh", "&#39;", "page.md#12", "C# 4", "the network namespace"],
    )
    def test_words_of_its_own(self, text):
        assert not foreign(text)
