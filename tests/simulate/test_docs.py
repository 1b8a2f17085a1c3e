"""What docs/simulate.md shows is what is printed, to the letter: a simulation has no luck and no clock."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from batchns.cli.simulate import simulate
from batchns.simulate.policies import POLICIES

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "simulate.md").read_text()
EXAMPLES = [
    tuple(part.split("\n", 1))
    for block in re.findall(r"^```console\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
]


def run(command: str, folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_examples():
    assert len(EXAMPLES) >= 2


@pytest.mark.parametrize(("command", "output"), EXAMPLES, ids=[command for command, _ in EXAMPLES])
def test_the_page_shows_what_is_printed(command, output):
    assert run(command, DOCS) == output


def test_the_picture_is_the_one_that_the_command_draws(tmp_path):
    """Its words: lines and curves depend on the version of matplotlib."""
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    shutil.copy(DOCS / "example.swf", tmp_path)
    command = next(line.strip() for line in TEXT.splitlines() if line.startswith("    ") and "simulate.svg" in line)
    run(command, tmp_path)
    ours, shown = ((folder / "simulate.svg").read_text() for folder in (tmp_path, DOCS))
    words = re.compile(r"<text[^>]*>([^<]*)</text>")
    assert words.findall(ours) == words.findall(shown)
    assert "slowdown below 2" in words.findall(shown)


@pytest.mark.parametrize("option", [word for parameter in simulate.params for word in parameter.opts if word[0] == "-"])
def test_every_option_is_documented(option):
    assert f"`{option}" in TEXT


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_is_documented(policy):
    assert f"| `{policy}` |" in TEXT
