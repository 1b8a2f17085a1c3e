"""The helper that carries an id map: what it may not outlive."""

from __future__ import annotations

import os
import select
import signal

import pytest

from batchns.kernel import userns

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="ids are mapped by root")]


def test_the_helper_ends_with_whoever_made_it(monkeypatch):
    """Killed while it maps: the descriptors that the helper has inherited are closed, so that others see the end."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr(userns, "map_ids", lambda pid, ids: os.kill(os.getpid(), signal.SIGKILL))
        userns.make_mapped((((0, 1_900_000_000, 1),), ((0, 1_900_000_000, 1),)))
        os._exit(0)
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert select.select([reader], [], [], 5)[0], "somebody still holds the other end"
    os.close(reader)


def test_a_map_costs_no_descriptor():
    ids = (((0, 1_900_000_000, 1),), ((0, 1_900_000_000, 1),))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        os.close(userns.make_mapped(ids))
    assert len(os.listdir("/proc/self/fd")) == before
