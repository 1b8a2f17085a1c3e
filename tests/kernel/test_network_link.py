"""A job's link: what `set_up` makes, read back through pyroute2, and how it ends."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import network_programs as programs
import pytest
from network_world import OUTSIDE, POOL, World, open_world, within

from batchns.errors import StepError
from batchns.kernel.network import link
from batchns.kernel.network.firewall import Firewall
from batchns.kernel.network.types import NetworkPlan, Shapers

pytestmark = pytest.mark.kernel

MBIT = 1_000_000


@pytest.fixture
def world() -> Iterator[World]:
    with open_world() as world:
        yield world


def test_the_hosts_end_is_as_planned(world: World) -> None:
    plan = world.plan(egress=50 * MBIT, ingress=100 * MBIT)
    world.job(plan)
    seen = programs.look(plan.host_name)
    assert seen["state"] == "UP"
    assert (seen["mac"], seen["mtu"]) == (plan.host_mac, 1500)
    assert seen["addresses"] == []
    assert seen["routes"] == [(plan.job_address, 32, None)]
    assert seen["neighbours"] == [(plan.job_address, plan.job_mac, 0x80)]
    assert seen["qdiscs"] == ["tbf"]


def test_the_jobs_end_is_as_planned(world: World) -> None:
    plan = world.plan(egress=50 * MBIT)
    seen = world.job(plan).call(programs.look, "eth0")
    assert seen["state"] == "UP"
    assert (seen["mac"], seen["mtu"]) == (plan.job_mac, 1500)
    assert seen["addresses"] == [(plan.job_address, 32)]
    assert seen["routes"] == [("169.254.1.1", 32, None), ("default", 0, "169.254.1.1")]
    assert seen["neighbours"] == [("169.254.1.1", plan.host_mac, 0x80)]
    assert seen["qdiscs"] == ["tbf"]


@pytest.mark.parametrize("rate", [8_000, 64_000, 34_000 * MBIT, 35_000 * MBIT, 40_000 * MBIT, 100_000 * MBIT])
def test_rates_up_to_100_gbit_are_held_by_the_kernel_as_asked(world: World, rate: int) -> None:
    plan = world.plan(egress=rate, ingress=2 * rate)
    assert world.job(plan).prepared == Shapers(egress=rate, ingress=2 * rate)
    shown = subprocess.run(
        ["/usr/sbin/tc", "-r", "qdisc", "show", "dev", plan.host_name], capture_output=True, text=True, check=True
    ).stdout
    assert shown.startswith("qdisc tbf"), "tc agrees that there is a shaper"


def test_an_mtu_of_the_hosts_uplink_is_kept(world: World) -> None:
    plan = world.plan(egress=MBIT)._replace(mtu=1400)
    job = world.job(plan)
    assert job.prepared == Shapers(egress=MBIT)
    assert job.call(programs.look, "eth0")["mtu"] == programs.look(plan.host_name)["mtu"] == 1400


def test_mode_none_has_loopback_and_nothing_else(world: World) -> None:
    job = world.place(link.set_up, NetworkPlan("none"))
    assert job.prepared == Shapers()
    assert job.call(programs.look, "lo")["addresses"] == [("127.0.0.1", 8), ("::1", 128)]
    job.call(programs.listen, "tcp", 5000)
    assert job.call(programs.connect_at_last, "127.0.0.1", 5000) == "connected"
    job.call(programs.listen, "tcp", 5001, "::")
    assert job.call(programs.connect_at_last, "::1", 5001) == "connected"
    assert job.call(programs.connect, OUTSIDE, 5000) == "ENETUNREACH"


def test_loopback_works_in_mode_private_too(world: World) -> None:
    job = world.job(world.plan())
    job.call(programs.listen, "tcp", 5000)
    assert job.call(programs.connect_at_last, "127.0.0.1", 5000) == "connected"


def test_a_name_that_is_taken_is_reported_and_nothing_is_left(world: World) -> None:
    plan = world.plan()
    world.job(plan)
    before = socket.if_nameindex()
    with pytest.raises(StepError) as caught:
        world.job(plan._replace(job_address="10.213.9.9"))
    assert caught.value.step == "network: make the veth pair"
    assert (caught.value.path, caught.value.errno) == (plan.host_name, errno.EEXIST)
    assert socket.if_nameindex() == before


def test_an_address_that_is_taken_is_reported_and_nothing_is_left(world: World) -> None:
    plan = world.plan()
    world.job(plan)
    before = socket.if_nameindex()
    with pytest.raises(StepError) as caught:
        world.job(plan._replace(host_name="bnsother"))
    assert caught.value.step == "network: add the route"
    assert (caught.value.path, caught.value.errno) == (plan.job_address, errno.EEXIST)
    assert "another batchns" in caught.value.hint
    assert within(5, lambda: socket.if_nameindex() == before)


def test_link_and_namespace_vanish_with_the_last_process(world: World) -> None:
    plan = world.plan(egress=MBIT, ingress=MBIT)
    job = world.job(plan)
    child = job.call(os.getpid)
    namespace = Path(f"/proc/{child}/ns/net").readlink()
    assert plan.host_name in dict(map(reversed, socket.if_nameindex()))
    job.close()
    assert within(5, lambda: plan.host_name not in dict(map(reversed, socket.if_nameindex())))
    assert programs.look("out0")["routes"] == [("198.51.100.0", 24, None)]
    assert namespace not in _namespaces()


def _namespaces() -> set[Path]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(path.readlink())
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
        except PermissionError:
            continue  # has capabilities that we have not: none of ours (before Python 3.12 glob left it out itself)
    return found


def test_counters_are_the_bytes_that_went_through_and_their_headers(world: World, tmp_path: Path) -> None:
    count = 3_000_000
    plan = world.plan()
    job = world.job(plan)
    with Firewall(run_folder=str(tmp_path), pool=POOL, nat=True):
        world.outside.call(programs.listen, "tcp", 5000)
        before = link.counters(plan.host_name)
        assert before is not None and before.sent_bytes < 1000 and before.received_bytes < 1000
        world.outside.begin(programs.accept_and_count, 5000)
        job.call(programs.send_bytes, OUTSIDE, 5000, count)
        assert world.outside.result() == count
    after = link.counters(plan.host_name)
    assert after is not None
    assert count < after.sent_bytes < 1.06 * count
    assert 100 < after.received_bytes < 0.05 * count, "acknowledgements only"


def test_there_are_no_counters_of_a_link_that_is_not_there(world: World) -> None:
    assert link.counters("bnsnobody") is None
