"""What the pages on the API and its clients show is run, and what they say comes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.http.fake import FakeService, Running, running

DOCS = Path(__file__).parents[2] / "docs"
SOCKET = "/run/batchns/batchns.sock"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(FakeService(), tmp_path) as server:
        yield server


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", [0, 1])
def test_the_programs_print_what_the_page_says(server: Running, number: int) -> None:
    program = blocks("client.md", "python")[number].replace(SOCKET, str(server.socket))
    assert str(server.socket) in program
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == (blocks("client.md", "text")[number], "")


def commands() -> list[str]:
    text = "".join(blocks("api.md", "sh")).replace("\\\n", "")
    return [line for line in text.splitlines() if "--no-buffer" not in line]


def test_the_page_has_its_commands() -> None:
    assert len(commands()) == 7


@pytest.mark.parametrize("command", commands())
def test_the_commands_are_answered(server: Running, command: str) -> None:
    run = command.replace(SOCKET, str(server.socket)).replace("curl ", "curl --fail --max-time 10 ")
    done = subprocess.run(["sh", "-c", run], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
