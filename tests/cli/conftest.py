"""The command line with a daemon that is all in memory."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from batchns.cli.main import main

from .fake import Daemon, Running, serving


class Done(NamedTuple):
    code: int
    out: str
    err: str


Batchns = Callable[..., Done]


@pytest.fixture
def fake() -> Daemon:
    return Daemon()


@pytest.fixture
def server(fake: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with serving(fake, tmp_path) as server:
        monkeypatch.setenv("BATCHNS_SOCKET", str(server.socket))
        yield server


@pytest.fixture
def batchns(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Batchns:
    """Run the command in this process, errors and exit codes included."""
    for name in ("COLUMNS", "NO_COLOR", "BATCHNS_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "argv", ["batchns", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Done(code, out, err)

    return run
