"""What a command does not need, it does not wait for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from batchns.cli.main import GROUPS

COMMANDS = sorted({name for group in GROUPS.values() for name in group})
SLOW = ("rich", "pyroute2", "trio")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_that_takes_long(command: str) -> None:
    words = [sys.executable, "-X", "importtime", "-m", "batchns", command, "--help"]
    ran = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines() if line.startswith("import time:")}
    assert "click" in imported and not imported.intersection(SLOW)
