"""An address of the pool belongs to a job or to nobody."""

from __future__ import annotations

from pathlib import Path

import network_programs as programs
import pytest
from network_world import OUTSIDE, POOL, nft, open_world

from batchns.kernel.network import rules
from batchns.kernel.network.firewall import Firewall

pytestmark = pytest.mark.kernel

PORT = 5000
NOBODYS = "10.213.200.9"


def test_what_a_job_sends_to_an_address_that_no_job_has_does_not_leave_the_host(tmp_path: Path) -> None:
    """Somebody outside may have that address, and would get what was meant for a job that has just ended."""
    with open_world() as world:
        job = world.job(world.plan())
        world.outside.call(programs.add_address, "eth0", NOBODYS, 32)
        world.outside.call(programs.listen, "tcp", PORT)
        programs.add_route("0.0.0.0/0", OUTSIDE)
        with Firewall(run_folder=str(tmp_path), pool=POOL, nat=True):
            assert job.call(programs.connect_at_last, OUTSIDE, PORT) == "connected"
            assert job.call(programs.connect, NOBODYS, PORT) == "timeout"
            nft("flush", "chain", "inet", rules.TABLE, "from_job")
            assert job.call(programs.connect_at_last, NOBODYS, PORT) == "connected", "without that rule"
