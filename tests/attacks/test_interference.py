"""No job disturbs, reads or reaches another, of the same user or of another; each attack works without a sandbox."""

from __future__ import annotations

import pytest

from . import runners
from .interference import INTERFERENCE, MODULE
from .modes import CONNECTED, ON_HOST, Mode, World

pytestmark = pytest.mark.kernel
_MODES = tuple(mode for mode in CONNECTED if mode in ON_HOST or mode.rootfs == "image")


@pytest.mark.parametrize("mode", _MODES, ids=lambda mode: mode.name)
def test_no_job_disturbs_another(machine: World, mode: Mode) -> None:
    outcomes = machine.run_beside(mode, MODULE, tuple(one for one in INTERFERENCE if mode in ON_HOST or not one.apart))
    assert runners.broken(outcomes) == {}
    assert runners.untried(outcomes) == {}


def test_each_works_without_a_sandbox(machine: World) -> None:
    outcomes = machine.controls_beside(INTERFERENCE, MODULE)
    assert {name: found.report for name, found in outcomes.items() if not found.succeeded} == {}
    assert len(outcomes) > 10
