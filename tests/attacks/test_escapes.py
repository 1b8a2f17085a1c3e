"""No attack leaves the sandbox, in any of the ways in which there is one; each does without."""

from __future__ import annotations

import pytest

from . import runners
from .escapes import ESCAPES, MODULE
from .modes import MODES, Mode, World

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_no_attack_leaves_the_sandbox(machine: World, mode: Mode) -> None:
    outcomes = machine.run(mode, MODULE, tuple(one for one in ESCAPES if mode.rootfs not in one.not_for))
    assert runners.broken(outcomes) == {}
    assert runners.untried(outcomes) == {}


def test_each_works_without_a_sandbox(machine: World) -> None:
    outcomes = machine.controls(ESCAPES, MODULE)
    assert {name: found.report for name, found in outcomes.items() if not found.succeeded} == {}
    assert len(outcomes) > 50
