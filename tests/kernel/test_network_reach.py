"""What a job reaches because it asked for it, and that nothing else comes with that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import network_programs as programs
import pytest
from network_world import HOST, OUTSIDE, POOL, Place, World, nft, open_world

from batchns.errors import StepError
from batchns.kernel.network.firewall import Firewall
from batchns.kernel.network.types import Grant, NetworkPlan

pytestmark = pytest.mark.kernel

PORT = 5000
METADATA = "169.254.169.254"
GATEWAY = "169.254.1.1"
ADA, BOB = 1001, 1002


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    # Many closed doors are tried here, each after one like it was seen open.
    monkeypatch.setattr(programs, "PATIENCE", 0.4)
    with open_world() as world:
        yield world


@pytest.fixture
def run_folder(tmp_path: Path) -> str:
    return str(tmp_path / "run")


def holder(run_folder: str, *grants: Grant, **more: object) -> Firewall:
    return Firewall(run_folder=run_folder, pool=POOL, nat=True, grants=grants, **more)  # type: ignore[arg-type]


def job_with(world: World, firewall: Firewall, grant: Grant) -> tuple[Place, NetworkPlan]:
    """A job that has what `grant` gives."""
    plan = world.plan()._replace(group=firewall.groups[grant], serves=bool(grant.ports))
    return world.job(plan), plan


def test_jobs_of_one_user_that_both_ask_reach_each_other_and_no_one_else_does(world: World, run_folder: str) -> None:
    ada, also_ada, bob = Grant(ADA, jobs=True), Grant(ADA, jobs=True, ports=(("tcp", 1, 1),)), Grant(BOB, jobs=True)
    with holder(run_folder, ada, also_ada, bob, Grant(ADA, ports=(("tcp", 2, 2),))) as firewall:
        server, plan = job_with(world, firewall, ada)
        server.call(programs.listen, "tcp", PORT)
        for grant in (ada, also_ada):
            client, own = job_with(world, firewall, grant)
            assert client.call(programs.connect_at_last, plan.job_address, PORT) == "connected"
            assert server.call(programs.accept, PORT) == own.job_address
        for grant in (bob, Grant(ADA, ports=(("tcp", 2, 2),))):
            assert job_with(world, firewall, grant)[0].call(programs.connect, plan.job_address, PORT) == "timeout"
        assert world.job(world.plan()).call(programs.connect, plan.job_address, PORT) == "timeout", "did not ask"


def test_a_job_that_did_not_ask_is_not_reached_by_one_that_did(world: World, run_folder: str) -> None:
    with holder(run_folder, Grant(ADA, jobs=True)) as firewall:
        plan = world.plan()
        target = world.job(plan)
        target.call(programs.listen, "tcp", PORT)
        client, _ = job_with(world, firewall, Grant(ADA, jobs=True))
        assert client.call(programs.connect, plan.job_address, PORT) == "timeout"


def test_jobs_of_two_runs_of_one_user_reach_each_other(world: World, run_folder: str) -> None:
    """The second run puts the table anew: what the first one's jobs may reach is in it, too."""
    ada = Grant(ADA, jobs=True)
    with holder(run_folder, ada) as first:
        server, plan = job_with(world, first, ada)
        server.call(programs.listen, "tcp", PORT)
        with holder(run_folder, ada) as second:
            assert first.groups != second.groups
            client, _ = job_with(world, second, ada)
            assert client.call(programs.connect_at_last, plan.job_address, PORT) == "connected"
        late, _ = job_with(world, first, ada)
        assert late.call(programs.connect_at_last, plan.job_address, PORT) == "connected", "after the second has gone"
        assert client.call(programs.connect, plan.job_address, PORT) == "timeout", "the second run's grant is over"


def test_ports_of_the_host_that_were_asked_for_are_open_and_others_stay_closed(world: World, run_folder: str) -> None:
    grant = Grant(ADA, ports=(("tcp", PORT, PORT + 1), ("udp", PORT + 5, PORT + 5)))
    for port in (PORT, PORT + 1, PORT + 2):
        programs.listen("tcp", port, "0.0.0.0")
    programs.listen("udp", PORT, "0.0.0.0")
    programs.listen("udp", PORT + 5, "0.0.0.0")
    with holder(run_folder, grant) as firewall:
        job, _ = job_with(world, firewall, grant)
        for address in (GATEWAY, HOST):
            assert job.call(programs.connect_at_last, address, PORT) == "connected"
            assert job.call(programs.connect_at_last, address, PORT + 1) == "connected"
            assert job.call(programs.connect, address, PORT + 2) == "timeout"
            for port in (PORT, PORT + 5):
                job.call(programs.send_datagram, address, port, b"asked for" if port > PORT else b"not")
        assert programs.receive(PORT + 5)[0] == b"asked for"  # type: ignore[index]
        assert programs.receive(PORT) is None
        assert world.job(world.plan()).call(programs.connect, HOST, PORT) == "timeout", "for those that ask"


def test_services_on_the_hosts_loopback_stay_out_of_reach(world: World, run_folder: str) -> None:
    grant = Grant(ADA, ports=(("tcp", PORT, PORT),))
    programs.listen("tcp", PORT, "127.0.0.1")
    assert programs.connect("127.0.0.1", PORT) == "connected"
    with holder(run_folder, grant) as firewall:
        job, _ = job_with(world, firewall, grant)
        assert job.call(programs.connect, GATEWAY, PORT) == "ECONNREFUSED"
        assert job.call(programs.connect, "127.0.0.1", PORT) == "ECONNREFUSED", "that is the job's own loopback"


def test_a_special_address_is_reached_by_those_that_may_ask_for_it(world: World, run_folder: str) -> None:
    world.outside.call(programs.add_address, "eth0", METADATA, 32)
    world.outside.call(programs.listen, "tcp", PORT)
    programs.add_route(f"{METADATA}/32", OUTSIDE)
    special, everything = Grant(ADA, ranges=(f"{METADATA}/32",)), Grant(ADA, ranges=("0.0.0.0/0", "10.0.0.0/8"))
    with holder(run_folder, special, everything) as firewall:
        job, _ = job_with(world, firewall, special)
        assert job.call(programs.connect_at_last, METADATA, PORT) == "connected"
        job, _ = job_with(world, firewall, everything)
        assert job.call(programs.connect_at_last, OUTSIDE, PORT) == "connected"
        assert job.call(programs.connect, METADATA, PORT) == "timeout", "everything does not mean this"
        assert world.job(world.plan()).call(programs.connect, METADATA, PORT) == "timeout"


def test_where_jobs_reach_little_outside_the_rest_has_to_be_asked_for(world: World, run_folder: str) -> None:
    world.neighbour("out1", "203.0.113.1", "203.0.113.2").call(programs.listen, "tcp", PORT)
    world.outside.call(programs.listen, "tcp", PORT)
    grant = Grant(ADA, ranges=("203.0.113.0/24",))
    with holder(run_folder, grant, outside=("198.51.100.0/24",)) as firewall:
        plain, (asking, _) = world.job(world.plan()), job_with(world, firewall, grant)
        assert plain.call(programs.connect_at_last, OUTSIDE, PORT) == "connected"
        assert plain.call(programs.connect, "203.0.113.2", PORT) == "timeout"
        assert asking.call(programs.connect_at_last, "203.0.113.2", PORT) == "connected"


def test_a_later_job_with_the_same_address_has_nothing_of_an_earlier_ones(world: World, run_folder: str) -> None:
    grant = Grant(ADA, jobs=True, ports=(("tcp", PORT, PORT),), ranges=(f"{METADATA}/32",))
    programs.listen("tcp", PORT, "0.0.0.0")
    with holder(run_folder, grant) as firewall:
        job, plan = job_with(world, firewall, grant)
        server, target = job_with(world, firewall, grant)
        server.call(programs.listen, "tcp", PORT)
        assert job.call(programs.connect_at_last, HOST, PORT) == "connected"
        assert job.call(programs.connect_at_last, target.job_address, PORT) == "connected"
        job.close()
        later = world.plan()._replace(job_address=plan.job_address, job_mac=plan.job_mac, host_mac=plan.host_mac)
        job = at_last(world, later)
        assert job.call(programs.connect, HOST, PORT) == "timeout"
        assert job.call(programs.connect, target.job_address, PORT) == "timeout"


def at_last(world: World, plan: NetworkPlan) -> Place:
    """A job with an address that another one has just had: the kernel takes a moment to remove the old link."""
    end = time.monotonic() + 10
    while True:
        try:
            return world.job(plan)
        except StepError:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_what_a_killed_run_was_given_is_gone_with_the_next_hold(world: World, run_folder: str) -> None:
    grant = Grant(ADA, jobs=True, ports=(("tcp", PORT, PORT),))
    place = world.place(hold_for_ever, run_folder, grant)
    group = place.prepared
    assert str(group) in nft("list", "set", "inet", "batchns", "tcp_ports")
    place.close()  # by SIGKILL
    with holder(run_folder, grant) as firewall:
        table = nft("list", "table", "inet", "batchns")
        assert str(firewall.groups[grant]) in table
        assert str(group) not in table


_kept: list[Firewall] = []


def hold_for_ever(run_folder: str, grant: Grant) -> int:
    _kept.append(holder(run_folder, grant))
    _kept[0].hold()
    return _kept[0].groups[grant]


def test_a_name_server_is_asked_wherever_it_is_and_for_names_only(world: World, run_folder: str) -> None:
    """One at a metadata address, as clouds have it; and one on the host itself."""
    world.outside.call(programs.add_address, "eth0", METADATA, 32)
    world.outside.call(programs.listen, "tcp", 53)
    world.outside.call(programs.listen, "tcp", PORT)
    programs.add_route(f"{METADATA}/32", OUTSIDE)
    programs.listen("tcp", 53, "0.0.0.0")
    programs.listen("tcp", PORT, "0.0.0.0")
    with holder(run_folder, resolvers=(METADATA, HOST)):
        job = world.job(world.plan())
        for address in (METADATA, HOST):
            assert job.call(programs.connect_at_last, address, 53) == "connected"
            assert job.call(programs.connect, address, PORT) == "timeout"
    with holder(run_folder):
        assert job.call(programs.connect, METADATA, 53) == "timeout"
        assert job.call(programs.connect, HOST, 53) == "timeout"


def test_ranges_and_ports_that_overlap_are_taken_by_the_kernel(world: World, run_folder: str) -> None:
    ports = (("tcp", 80, 90), ("tcp", 85, 86), ("tcp", 85, 100), ("udp", 85, 86))
    grant = Grant(ADA, ports=ports, ranges=("10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "::/0", "fd00::/8"))
    with holder(run_folder, grant, outside=("10.0.0.0/8", "10.1.0.0/16", "::/0")):
        assert "91-100" in nft("list", "set", "inet", "batchns", "tcp_ports")
