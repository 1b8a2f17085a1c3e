"""What docs/commands.md shows is what the commands print, of the jobs that the page and `fake` have."""

from __future__ import annotations

import re
from pathlib import Path

from ..system.test_readme import ROOT, commands, output_of
from .fake import Running

PAGE = (ROOT / "docs" / "commands.md").read_text()
_IN_A_JOB = "batchns exec"  # needs a job that runs: tests/daemon/test_live_verbs.py


def alike(output: str) -> list[str]:
    """Moments and durations differ, and with them the widths of columns and what is cut off."""
    lines = []
    for line in output.splitlines():
        line = re.sub(r"\d\d\d\d-\d\d-\d\d |\b\d\d:\d\d(:\d\d)?\b", "TIME", line)
        line = re.sub(r"\b\d[\d.]*(ms|s|m|h|d)([\d.]+(s|m|h))?\b", "DURATION", line)
        line = re.sub(r"\(\d+% of \d CPUs\)", "(SHARE)", line)
        line = re.sub(r" for .*…$", " for …", line)  # how much of a reason is shown depends on how long times are
        line = re.sub(r"\S*…", "…", line)
        lines.append(re.sub(" +", " ", line).rstrip())
    return lines


def test_every_example_prints_what_the_page_says(server: Running, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "train.toml").write_text('name = "train"\ncommand = ["true"]\n')
    (folder / "sweep.sh").write_text("#!/bin/sh\n")
    shown = commands(PAGE)
    assert len(shown) > 20
    wrong = []
    for command, said in shown:
        if _IN_A_JOB in command:
            continue
        got = output_of(command, folder, BATCHNS_SOCKET=str(server.socket))
        got = got.replace("später", "later ")
        if alike(got) != alike(said.rstrip("\n")):
            wrong.append(f"$ {command}\n{got}--- the page:\n{said}")
    assert not wrong, "\n".join(wrong)
