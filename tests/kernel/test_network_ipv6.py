"""IPv6 of jobs: the same doors open and closed as with IPv4, and the machine as it was before when they have gone."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import network_programs as programs
import pytest
from network_world import POOL, UPLINK, Place, World, nft, open_world

from batchns.errors import HostError
from batchns.kernel.network import ipv6
from batchns.kernel.network.addresses import job_address6
from batchns.kernel.network.firewall import Firewall
from batchns.kernel.network.types import Grant, NetworkPlan

pytestmark = pytest.mark.kernel

PORT = 5000
POOL6 = "fd62:6e73:d5::/64"
HOST6, OUTSIDE6 = "2001:db8:1::1", "2001:db8:1::2"  # RFC 3849
CONF = Path("/proc/sys/net/ipv6/conf")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(programs, "PATIENCE", 0.5)
    with open_world() as world:
        programs.add_address(UPLINK, HOST6, 64)
        world.outside.call(programs.add_address, "eth0", OUTSIDE6, 64)
        world.outside.call(programs.listen, "tcp", PORT, "::")
        yield world


@pytest.fixture
def run_folder(tmp_path: Path) -> str:
    return str(tmp_path / "run")


def holder(run_folder: str, *grants: Grant, pool6: str = POOL6, nat: bool = True) -> Firewall:
    return Firewall(run_folder=run_folder, pool=POOL, nat=nat, pool6=pool6, grants=grants)


def way_out() -> None:
    programs.add_route("::/0", OUTSIDE6)


def plan_of(world: World, slot: int, group: int = 0) -> NetworkPlan:
    return world.plan()._replace(job_address6=job_address6(POOL6, slot), group=group)


def conf(name: str, setting: str) -> str:
    return (CONF / name / setting).read_text().strip()


def test_a_job_reaches_the_outside_with_the_hosts_address(world: World, run_folder: str) -> None:
    way_out()
    with holder(run_folder) as firewall:
        assert firewall.pool6 == POOL6
        job = world.job(plan_of(world, 0))
        assert job.call(programs.connect_at_last, OUTSIDE6, PORT) == "connected"
        assert world.outside.call(programs.accept, PORT) == HOST6


def test_a_machine_without_a_way_out_is_left_as_it_is(world: World, run_folder: str) -> None:
    with holder(run_folder) as firewall:
        assert firewall.pool6 == ""
        assert conf("all", "forwarding") == "0"


@pytest.mark.parametrize("settings", [{"pool6": ""}, {"nat": False}])
def test_where_jobs_shall_have_none_nothing_is_done(world: World, run_folder: str, settings: dict[str, str]) -> None:
    way_out()
    with holder(run_folder, **settings) as firewall:  # type: ignore[arg-type]
        assert firewall.pool6 == ""
        assert conf("all", "forwarding") == "0"


def test_the_machine_goes_on_listening_to_its_router_and_is_as_before_afterwards(world: World, run_folder: str) -> None:
    """A router's word is its default route: one that forwards listens with accept_ra = 2 only."""
    way_out()
    (CONF / UPLINK / "accept_ra").write_text("1")
    (CONF / "lo" / "forwarding").write_text("1")
    before = settings()
    with holder(run_folder):
        world.outside.call(programs.add_address, "eth0", "fe80::2", 64)
        advertise(world.outside, "eth0")
        assert within_default(UPLINK), "as before"
        with holder(run_folder):
            pass
        assert conf("all", "forwarding") == "1"
        assert (conf(UPLINK, "forwarding"), conf(UPLINK, "accept_ra")) == ("1", "2")
        assert conf("default", "accept_ra") == "1", "links of jobs come later, and are not to listen"
    assert settings() == before


def test_forwarding_that_was_on_before_stays_on_and_is_shared(world: World, run_folder: str) -> None:
    way_out()
    (CONF / "all" / "forwarding").write_text("1")
    before = settings()
    with holder(run_folder):
        assert "nfproto ipv6" not in nft("list", "chain", "inet", "batchns", "forward")
    assert settings() == before


def test_what_a_killed_holder_switched_on_is_off_after_the_next(world: World, run_folder: str) -> None:
    way_out()
    before = settings()
    world.place(hold_for_ever, run_folder).close()  # by SIGKILL
    assert conf("all", "forwarding") == "1", "it had no chance"
    with holder(run_folder, pool6=""):
        assert settings() == before, "nobody alive needs it"
    assert settings() == before


_kept: list[Firewall] = []


def hold_for_ever(run_folder: str) -> None:
    _kept.append(holder(run_folder))
    _kept[0].hold()


def settings() -> dict[str, str]:
    """Everything of interest that a file below conf says."""
    names = ("forwarding", "accept_ra", "disable_ipv6")
    return {str(path): path.read_text() for name in names for path in CONF.glob(f"*/{name}") if "bns" not in str(path)}


def test_the_host_becomes_no_router_for_others(world: World, run_folder: str) -> None:
    way_out()
    second = world.neighbour("out1", "203.0.113.1", "203.0.113.2")
    programs.add_address("out1", "2001:db8:2::1", 64)
    second.call(programs.add_address, "eth0", "2001:db8:2::2", 64)
    second.call(programs.listen, "tcp", PORT, "::")
    second.call(programs.add_route, "2001:db8:1::/64", "2001:db8:2::1")
    world.outside.call(programs.add_route, "2001:db8:2::/64", HOST6)
    with holder(run_folder):
        assert world.outside.call(programs.connect, "2001:db8:2::2", PORT) == "timeout"
        nft("flush", "chain", "inet", "batchns", "forward")
        assert world.outside.call(programs.connect_at_last, "2001:db8:2::2", PORT) == "connected", "without that rule"


def test_jobs_reach_each_other_only_if_both_ask(world: World, run_folder: str) -> None:
    way_out()
    with holder(run_folder, Grant(1001, jobs=True)) as firewall:
        (group,) = firewall.groups.values()
        target = world.job(plan_of(world, 0, group))
        target.call(programs.listen, "tcp", PORT, "::")
        asking, other = world.job(plan_of(world, 1, group)), world.job(plan_of(world, 2))
        assert asking.call(programs.connect_at_last, job_address6(POOL6, 0), PORT) == "connected"
        assert target.call(programs.accept, PORT) == job_address6(POOL6, 1)
        assert other.call(programs.connect, job_address6(POOL6, 0), PORT) == "timeout"


def test_services_of_the_host_are_out_of_reach_but_for_ports_that_were_asked_for(world: World, run_folder: str) -> None:
    way_out()
    link_local = socket.inet_ntop(socket.AF_INET6, own_link_local())
    programs.listen("tcp", PORT, "::")
    programs.listen("tcp", PORT + 1, "::")
    with holder(run_folder, Grant(1001, ports=(("tcp", PORT + 1, PORT + 1),))) as firewall:
        (group,) = firewall.groups.values()
        job, asking = world.job(plan_of(world, 0)), world.job(plan_of(world, 1, group))
        assert asking.call(programs.connect_at_last, HOST6, PORT + 1) == "connected"
        assert asking.call(programs.connect, HOST6, PORT) == "timeout"
        assert job.call(programs.connect, HOST6, PORT + 1) == "timeout"
        assert job.call(programs.connect, "::1", PORT) == "ECONNREFUSED", "the job's own loopback"
        for address in (f"{link_local}%eth0", "fe80::1%eth0"):
            assert job.call(programs.connect, address, PORT) != "connected"
        nft("delete", "table", "inet", "batchns")
        assert job.call(programs.connect_at_last, HOST6, PORT) == "connected", "without rules"


def own_link_local() -> bytes:
    """The uplink's address on its own link."""
    for line in Path("/proc/self/net/if_inet6").read_text().splitlines():
        address, *_, name = line.split()
        if name == UPLINK and address.startswith("fe80"):
            return bytes.fromhex(address)
    raise AssertionError("the uplink has no link-local address")


def test_metadata_services_are_out_of_reach(world: World, run_folder: str) -> None:
    way_out()
    metadata = "fd00:ec2::254"
    world.outside.call(programs.add_address, "eth0", metadata, 128)
    with holder(run_folder):
        job = world.job(plan_of(world, 0))
        assert job.call(programs.connect_at_last, OUTSIDE6, PORT) == "connected"
        assert job.call(programs.connect, metadata, PORT) == "timeout"
        nft("flush", "set", "inet", "batchns", "special6")
        assert job.call(programs.connect_at_last, metadata, PORT) == "connected", "without that rule"


def test_no_spoofed_address_gets_out(world: World, run_folder: str) -> None:
    """Not even root in a job's namespace sends with another address, be it another job's or anybody's."""
    way_out()
    world.outside.call(programs.listen, "udp", PORT, "::")
    with holder(run_folder):
        job, _ = world.job(plan_of(world, 0)), world.job(plan_of(world, 1))
        assert spoof(world, job, job_address6(POOL6, 0)), "the probe works"
        for source in (job_address6(POOL6, 1), job_address6(POOL6, 9), HOST6, OUTSIDE6, "2001:db8:9::9", "fe80::9"):
            assert not spoof(world, job, source), source
        nft("flush", "chain", "inet", "batchns", "source")
        assert spoof(world, job, job_address6(POOL6, 1)), "without that rule"


def spoof(world: World, job: Place, source: str) -> bool:
    """Whether the outside gets what `job` sends with the address `source`."""
    job.call(send_from, source, OUTSIDE6, PORT)
    found = world.outside.call(programs.receive, PORT)
    assert found is None or found[0] == source.encode()
    return found is not None


def send_from(source: str, destination: str, port: int) -> None:
    packed = [socket.inet_pton(socket.AF_INET6, address) for address in (source, destination)]
    udp = struct.pack("!HHHH", 40000, port, 8 + len(source), 0) + source.encode()
    udp = udp[:6] + struct.pack("!H", checksum(*packed, socket.IPPROTO_UDP, udp)) + udp[8:]
    header = struct.pack("!IHBB", 6 << 28, len(udp), socket.IPPROTO_UDP, 64) + b"".join(packed)
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        sock.sendto(header + udp, (destination, 0))


def checksum(source: bytes, destination: bytes, protocol: int, data: bytes) -> int:
    """RFC 8200, 8.1."""
    whole = source + destination + struct.pack("!II", len(data), protocol) + data + bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(whole) // 2}H", whole))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def advertise(place: Place, name: str) -> None:
    """A router's advertisement of itself for ten minutes, RFC 4861, from the link-local address of link `name`."""
    place.call(_advertise, name)


def _advertise(name: str) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sock.sendto(
            struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 600, 0, 0), ("ff02::1", 0, 0, socket.if_nametoindex(name))
        )


def within_default(name: str, seconds: float = 5) -> bool:
    """Whether a default route learnt from a router appears on link `name`: flag RTF_ADDRCONF."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for line in Path("/proc/self/net/ipv6_route").read_text().splitlines():
            words = line.split()
            if words[1] == "00" and words[-1] == name and int(words[8], 16) & 0x40000:
                return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("guard", ["the source rule", "the input rule", "the link"])
def test_what_a_job_advertises_is_not_listened_to(world: World, run_folder: str, guard: str) -> None:
    """Three guards, each tried alone, then none: a job does not become the machine's router."""
    way_out()
    with holder(run_folder):
        plan = plan_of(world, 0)
        job = world.job(plan)
        job.call(programs.add_address, "eth0", "fe80::2", 64)
        programs.add_address(plan.host_name, "fe80::1", 64)  # as if somebody had seen to it
        if guard != "the link":
            (CONF / plan.host_name / "accept_ra").write_text("2")
        if guard != "the source rule":
            nft("flush", "chain", "inet", "batchns", "source")
        if guard != "the input rule":
            nft("flush", "chain", "inet", "batchns", "input")
        advertise(job, "eth0")
        assert not within_default(plan.host_name, 0.5)
        (CONF / plan.host_name / "accept_ra").write_text("2")
        nft("flush", "chain", "inet", "batchns", "source")
        nft("flush", "chain", "inet", "batchns", "input")
        advertise(job, "eth0")
        assert within_default(plan.host_name), "without guards"


def test_a_pool_that_the_host_uses_is_refused_before_anything_is_changed(world: World, run_folder: str) -> None:
    way_out()
    before = settings()
    with pytest.raises(HostError, match=rf"pool6 = '2001:db8:1::/64' overlaps .* 2001:db8:1::/64 on {UPLINK}"):
        holder(run_folder, pool6="2001:db8:1::/64").hold()
    assert settings() == before
    assert "batchns" not in nft("list", "tables")


def test_holders_with_other_ideas_of_the_same_pool_are_refused(world: World, run_folder: str) -> None:
    way_out()
    with holder(run_folder):
        other = Firewall(run_folder=run_folder, pool="10.214.0.0/16", nat=True, pool6=POOL6, outside=("::/0",))
        with pytest.raises(HostError, match=r"network.pool6 = .* another batchns is running with other settings"):
            other.hold()


def test_a_route_of_refusal_is_no_way_out(world: World) -> None:
    assert ipv6.way_out() == ""
    way_out()
    assert ipv6.way_out() == UPLINK
