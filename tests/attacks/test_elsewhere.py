"""Without root the sandbox holds as it does with it; and an attached command types on nobody's terminal."""

from __future__ import annotations

import os
import shutil

import pytest

from . import runners, terminals
from .escapes import ESCAPES, MODULE
from .modes import MALLORY, World

pytestmark = pytest.mark.kernel


def test_no_attack_leaves_the_sandbox_of_a_user_without_root(machine: World) -> None:
    outcomes = machine.peer("batchns", MODULE, ESCAPES)
    assert runners.broken(outcomes) == {}
    assert runners.untried(outcomes) == {}


@pytest.mark.parametrize("uid", [0, MALLORY])
def test_an_attached_command_types_nothing_on_the_terminal(machine: World, uid: int) -> None:
    """Of root, whose run has the daemon's settings as all on one machine do, and of a user."""
    with machine.scene(uid) as one:
        options = ("--config", str(machine.daemon.config), "--cpus", "0.1") if uid == 0 else ()
        folder = one.outside / "work"
        shutil.copytree(one.work, folder, ignore=shutil.ignore_patterns("disk", "others", "*cat"))
        for path in (folder, *folder.iterdir()):
            os.chown(path, uid, uid)
        one.work, made = folder, one.work
        try:
            assert not terminals.typed(one, lambda argv: runners.without_root([*argv, "ran"], *options))
            assert (folder / "ran").exists()
        finally:
            one.work = made


def test_without_a_sandbox_it_does(machine: World) -> None:
    if lacks := terminals.lacks():
        pytest.skip(lacks)
    with machine.scene(MALLORY) as one:
        assert terminals.typed(one, list)
