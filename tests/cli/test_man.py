"""The manual pages say what the program says, and are well-formed."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from batchns.cli.main import GROUPS

FOLDER = Path(__file__).parents[2] / "packaging" / "man"
PAGES: dict[str, str] = runpy.run_path(str(FOLDER / "make.py"))["pages"]()


def test_the_pages_are_up_to_date() -> None:
    """Else: python packaging/man/make.py"""
    there = {path.name: path.read_text() for path in FOLDER.glob("batchns*.[15]")}
    assert sorted(there) == sorted(PAGES)
    assert [name for name, page in PAGES.items() if there[name] != page] == []


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("name", sorted(PAGES))
def test_groff_has_nothing_to_say(name: str) -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tascii", "-ww", "-P-cbou", "-rLL=80n"],
        input=PAGES[name],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stderr == ""
    assert "NAME\n" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_every_page_that_is_named_exists() -> None:
    for name, page in PAGES.items():
        for named, section in re.findall(r"\\fB([a-z.\\-]+)\\fR\(([15])\)", page):
            other = f"{named.replace(chr(92), '')}.{section}"
            assert other in PAGES or other == "batchns-daemon.1", f"{name} names {other}"


def test_the_page_of_commands_has_all_that_need_the_daemon() -> None:
    page = (FOLDER.parents[1] / "docs" / "commands.md").read_text()
    headings = " ".join(re.findall(r"^### (.*)$", page, flags=re.MULTILINE))
    named = set(re.findall(r"[a-z]+", headings))
    assert [name for group in ("Jobs", "Look", "Machine") for name in GROUPS[group] if name not in named] == []
