"""What several kernel tests need of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cgroup_jobs import hybrid, without_v2

from batchns.kernel.cgroups.detect import open_driver
from batchns.kernel.cgroups.interface import Driver


@pytest.fixture(params=["host", "v1"] if hybrid() else ["host"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    """The driver that this host has; on a hybrid host the one for v1 alone as well."""
    found = open_driver(proc="/proc" if request.param == "host" else without_v2(tmp_path))
    found.prepare()
    yield found
    found.release()
