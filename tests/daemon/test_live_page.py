"""What the page on the daemon shows is what happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..system.test_readme import ROOT, differences, run_page
from .live import live


@pytest.mark.kernel
def test_the_examples_do_what_the_page_shows(_alone: None, tmp_path: Path) -> None:
    text = (ROOT / "docs/daemon.md").read_text()
    folder = tmp_path / "first"
    with live() as daemon:
        outputs = run_page(text, folder, BATCHNS_SOCKET=str(daemon.socket))
    assert outputs, "the page has examples"
    assert differences(text, outputs, str(folder)) == []
