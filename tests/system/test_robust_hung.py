"""File systems that never answer: they cost their own jobs, and nobody else."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from batchns.errors import UserError
from batchns.supervise import outputs
from batchns.supervise.outputs import Outputs
from batchns.supervise.ports import threads

from .hung import hung_file_system

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse"),
]


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[Path]:
    with hung_file_system(tmp_path / "hung") as point:
        yield point


def test_the_event_loop_goes_on_while_an_output_hangs(
    hung: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the job is refused in time, with nothing left open."""
    monkeypatch.setattr(outputs, "TIMEOUT", 0.5)
    before = set(os.listdir("/proc/self/fd"))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await trio.sleep(0.01)
            ticks += 1

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            paths = [("stdout", f"{tmp_path}/good.out"), ("stderr", f"{hung}/job.err")]
            with pytest.raises(UserError, match=rf"{hung}/job\.err: no answer from the file system within 500ms"):
                await Outputs(threads()).open_all(paths)
            nursery.cancel_scope.cancel()

    began = time.monotonic()
    trio.run(main)
    assert time.monotonic() - began < 3
    assert ticks > 10
    os.stat(tmp_path / "good.out")
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1, "all but the file that the hanging thread holds"
