"""What a job can reach and who can reach it. Each closed door is first seen open, so that a test of it could fail."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import network_programs as programs
import pytest
from network_world import HOST, OUTSIDE, POOL, UPLINK, Place, World, nft, open_world

from batchns.errors import HostError
from batchns.kernel.network import nft as nft_program
from batchns.kernel.network import rules
from batchns.kernel.network.firewall import Firewall

pytestmark = pytest.mark.kernel

PORT = 5000
CONF = Path("/proc/sys/net/ipv4/conf")


@pytest.fixture
def world() -> Iterator[World]:
    with open_world() as world:
        yield world


@pytest.fixture
def run_folder(tmp_path: Path) -> str:
    return str(tmp_path / "run")


def forwarding(name: str = UPLINK) -> str:
    return (CONF / name / "forwarding").read_text().strip()


def table_exists() -> bool:
    return f"table inet {rules.TABLE}" in nft("list", "tables")


def holder(run_folder: str, *, nat: bool = True, pool: str = POOL) -> Firewall:
    return Firewall(run_folder=run_folder, pool=pool, nat=nat)


def leftovers(run_folder: str) -> list[str]:
    return [path.name for path in (Path(run_folder) / "firewall").iterdir()]


def test_a_job_reaches_the_outside_with_the_hosts_address(world: World, run_folder: str) -> None:
    job = world.job(world.plan())
    world.outside.call(programs.listen, "tcp", PORT)
    with holder(run_folder):
        world.outside.begin(programs.accept, PORT)
        assert job.call(programs.connect_at_last, OUTSIDE, PORT) == "connected"
        assert world.outside.result() == HOST


def test_without_nat_a_job_reaches_nothing_outside(world: World, run_folder: str) -> None:
    job = world.job(world.plan())
    world.outside.call(programs.listen, "tcp", PORT)
    world.outside.call(programs.add_route, POOL, HOST)  # an answer would find its way
    with holder(run_folder):
        assert job.call(programs.connect_at_last, OUTSIDE, PORT) == "connected"
    with holder(run_folder, nat=False):
        (CONF / UPLINK / "forwarding").write_text("1")  # not for want of forwarding
        assert job.call(programs.connect, OUTSIDE, PORT) == "timeout"


def test_a_job_does_not_reach_another_job(world: World, run_folder: str) -> None:
    one, other = world.plan(), world.plan()
    target, job = world.job(one), world.job(other)
    target.call(programs.listen, "tcp", PORT)
    assert job.call(programs.connect_at_last, one.job_address, PORT) == "connected", "without rules"
    with holder(run_folder):
        assert job.call(programs.connect, one.job_address, PORT) == "timeout"


def test_a_job_reaches_no_service_of_the_host_by_ipv4(world: World, run_folder: str) -> None:
    job = world.job(world.plan())
    programs.listen("tcp", PORT, "0.0.0.0")
    assert job.call(programs.connect_at_last, HOST, PORT) == "connected", "without rules"
    with holder(run_folder):
        assert job.call(programs.connect, HOST, PORT) == "timeout"
        assert job.call(programs.connect, "169.254.1.1", PORT) != "connected"


def test_a_job_reaches_no_service_of_the_host_by_ipv6(world: World, run_folder: str) -> None:
    """Neither end has an IPv6 address by itself; here both get link-local ones, as if somebody had seen to it."""
    plan = world.plan()
    job = world.job(plan)
    programs.add_address(plan.host_name, "fe80::1", 64)
    job.call(programs.add_address, "eth0", "fe80::2", 64)
    programs.listen("tcp", PORT, "::")
    assert job.call(programs.connect_at_last, "fe80::1%eth0", PORT) == "connected", "without rules"
    with holder(run_folder):
        assert job.call(programs.connect, "fe80::1%eth0", PORT) == "timeout"


def test_a_job_does_not_reach_link_local_services_outside(world: World, run_folder: str) -> None:
    """Cloud machines serve their credentials at 169.254.169.254."""
    job = world.job(world.plan())
    world.outside.call(programs.add_address, "eth0", "169.254.169.254", 32)
    world.outside.call(programs.listen, "tcp", PORT)
    programs.add_route("169.254.169.254/32", OUTSIDE)
    with holder(run_folder):
        assert job.call(programs.connect_at_last, OUTSIDE, PORT) == "connected"
        assert job.call(programs.connect, "169.254.169.254", PORT) == "timeout"
        nft("flush", "chain", "inet", rules.TABLE, "from_job")
        assert job.call(programs.connect_at_last, "169.254.169.254", PORT) == "connected", "without that rule"


def test_a_service_behind_a_port_forwarding_of_the_host_is_out_of_reach(world: World, run_folder: str) -> None:
    """As Docker publishes ports: the packet is forwarded, so it never comes to the input chain."""
    job = world.job(world.plan())
    world.outside.call(programs.listen, "tcp", PORT)
    nft("add table ip ports; add chain ip ports pre { type nat hook prerouting priority dstnat; }")
    nft("add rule ip ports pre ip daddr", HOST, "tcp dport 8080 dnat to", f"{OUTSIDE}:{PORT}")
    with holder(run_folder):
        assert job.call(programs.connect, HOST, 8080) == "timeout"
        nft("flush", "chain", "inet", rules.TABLE, "from_job")
        assert job.call(programs.connect_at_last, HOST, 8080) == "connected", "without that rule"


def test_nothing_unasked_reaches_a_job(world: World, run_folder: str) -> None:
    plan = world.plan()
    job = world.job(plan)
    job.call(programs.listen, "tcp", PORT)
    job.call(programs.listen, "udp", PORT)
    world.outside.call(programs.add_route, POOL, HOST)
    with holder(run_folder):
        assert world.outside.call(programs.connect, plan.job_address, PORT) == "timeout"
        world.outside.call(programs.send_datagram, plan.job_address, PORT, b"unasked")
        with pytest.raises(PermissionError):
            programs.send_datagram(plan.job_address, PORT, b"from the host")
        assert job.call(programs.receive, PORT) is None
        nft("delete", "table", "inet", rules.TABLE)
        assert world.outside.call(programs.connect_at_last, plan.job_address, PORT) == "connected", "without rules"
        world.outside.call(programs.send_datagram, plan.job_address, PORT, b"unasked")
        assert job.call(programs.receive, PORT)[0] == b"unasked"


def test_a_job_learns_that_the_hosts_uplink_takes_smaller_packets_only(world: World, run_folder: str) -> None:
    """The host's word on it is the one thing that it sends to jobs unasked."""
    job = world.job(world.plan())
    subprocess.run(["/usr/sbin/ip", "link", "set", UPLINK, "mtu", "1300"], check=True)
    with holder(run_folder):
        nft("insert rule inet", rules.TABLE, "output icmp type destination-unreachable drop")
        assert job.call(programs.path_mtu, OUTSIDE) == 1500, "without that word"
    with holder(run_folder):
        assert job.call(programs.path_mtu, OUTSIDE) == 1300


@pytest.mark.parametrize("guard", ["the firewall", "the link"])
def test_no_spoofed_address_gets_out(world: World, run_folder: str, guard: str) -> None:
    """Two guards, each tried alone, then none: even root in a job's namespace sends with the job's address only."""
    plan, victim = world.plan(), world.plan()
    job = world.job(plan)
    world.job(victim)
    world.outside.call(programs.listen, "udp", PORT)
    with holder(run_folder):
        if guard == "the firewall":
            (CONF / plan.host_name / "rp_filter").write_text("0")
        else:
            nft("flush", "chain", "inet", rules.TABLE, "source")
        assert spoof(world, job, plan.job_address) == (b"as " + plan.job_address.encode(), HOST), "the probe works"
        for source in (victim.job_address, HOST, OUTSIDE, "203.0.113.5"):
            assert spoof(world, job, source) is None
        (CONF / plan.host_name / "rp_filter").write_text("0")
        nft("flush", "chain", "inet", rules.TABLE, "source")
        assert spoof(world, job, victim.job_address) is not None, "without guards"


def spoof(world: World, job: Place, source: str) -> tuple[bytes, str] | None:
    """What the outside sees of a datagram that `job` sends as `source`."""
    job.call(programs.send_from, source, OUTSIDE, PORT, b"as " + source.encode())
    found: tuple[bytes, str] | None = world.outside.call(programs.receive, PORT)
    return found


def test_the_host_becomes_no_router_for_others(world: World, run_folder: str) -> None:
    """Forwarding is on for the uplink while jobs run, but only jobs have anything of it."""
    second = world.neighbour("out1", "203.0.113.1", "203.0.113.2")
    second.call(programs.listen, "tcp", PORT)
    second.call(programs.add_route, "198.51.100.0/24", "203.0.113.1")
    world.outside.call(programs.add_route, "203.0.113.0/24", HOST)
    with holder(run_folder):
        assert forwarding() == forwarding("out1") == "1"
        assert world.outside.call(programs.connect, "203.0.113.2", PORT) == "timeout"
        nft("flush", "chain", "inet", rules.TABLE, "forward")
        assert world.outside.call(programs.connect_at_last, "203.0.113.2", PORT) == "connected", "without that rule"


def test_a_hold_installs_and_leaving_removes_everything(world: World, run_folder: str) -> None:
    assert forwarding() == "0" and not table_exists()
    with holder(run_folder):
        assert forwarding() == "1" and table_exists()
        with holder(run_folder):
            pass
        assert forwarding() == "1" and table_exists(), "the first is still there"
    assert forwarding() == "0" and not table_exists()
    assert leftovers(run_folder) == ["lock"]


def test_forwarding_that_was_on_before_stays_on(world: World, run_folder: str) -> None:
    (CONF / UPLINK / "forwarding").write_text("1")
    with holder(run_folder):
        assert UPLINK not in nft("list", "set", "inet", rules.TABLE, "opened"), "others may go on forwarding there"
    assert forwarding() == "1"


def test_forwarding_that_somebody_switches_on_for_all_meanwhile_stays_on(world: World, run_folder: str) -> None:
    with holder(run_folder):
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    assert forwarding() == "1"


def test_many_holders_that_come_and_go_never_miss_their_rules_and_leave_nothing(world: World, run_folder: str) -> None:
    crowd = [world.place(int) for _ in range(5)]
    for seed, place in enumerate(crowd):
        place.begin(come_and_go, run_folder, seed)
    assert [place.result() for place in crowd] == [4] * 5
    assert forwarding() == "0" and not table_exists()


def come_and_go(run_folder: str, seed: int) -> int:
    """Hold and leave four times; how often the rules were there throughout."""
    wait = random.Random(seed)
    good = 0
    for _ in range(4):
        with holder(run_folder):
            before = table_exists() and forwarding() == "1"
            time.sleep(wait.uniform(0, 0.05))
            good += before and table_exists() and forwarding() == "1"
        time.sleep(wait.uniform(0, 0.05))
    return good


def test_what_a_killed_holder_left_is_removed_by_the_next(world: World, run_folder: str) -> None:
    world.place(hold_for_ever, run_folder).close()  # by SIGKILL
    assert table_exists() and forwarding() == "1", "it had no chance"
    with holder(run_folder, nat=False):
        assert forwarding() == "0", "nobody alive needs it"
    assert not table_exists() and forwarding() == "0"


_kept: list[Firewall] = []


def hold_for_ever(run_folder: str) -> None:
    _kept.append(holder(run_folder))
    _kept[0].hold()


def test_holders_with_other_ideas_of_the_same_pool_are_refused(world: World, run_folder: str) -> None:
    with holder(run_folder):
        for pool, nat in ((POOL, False), ("10.213.4.0/24", True)):
            with pytest.raises(HostError, match=r"another batchns is running with pool = '10.213.0.0/16'"):
                holder(run_folder, pool=pool, nat=nat).hold()
        with holder(run_folder, pool="10.214.0.0/16", nat=False):
            assert forwarding() == "1"
        assert table_exists()
    assert not table_exists()


def test_a_pool_that_the_host_uses_is_refused_before_anything_is_changed(world: World, run_folder: str) -> None:
    with pytest.raises(HostError, match=rf"route to 198.51.100.0/24 on {UPLINK}.*e.g. pool = "):
        holder(run_folder, pool="198.51.0.0/16").hold()
    assert not table_exists() and forwarding() == "0"


def test_a_machine_without_nft_is_told_what_to_install(
    world: World, run_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nft_program, "_PROGRAMS", "/nowhere")
    with pytest.raises(HostError, match="apt-get install nftables"):
        holder(run_folder).hold()
    assert forwarding() == "0"
    assert leftovers(run_folder) == ["lock"]
    assert ["apt-get install nftables" in problem for problem in nft_program.problems()] == [True]


def test_rules_that_the_kernel_refuses_leave_nothing_behind(
    world: World, run_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rules, "_RULES", "add rule inet {table} nowhere drop\n")
        with pytest.raises(HostError, match=r"nft: .*No such file"):
            holder(run_folder).hold()
    assert forwarding() == "0" and not table_exists()
    assert leftovers(run_folder) == ["lock"]


def test_somebody_who_is_not_root_is_told_so(world: World) -> None:
    ordinary = world.place(os.setresuid, 65534, 65534, 65534)
    with pytest.raises(HostError, match="permission denied - run batchns as root"):
        ordinary.call(Firewall.hold, holder("/root/batchns-test"))


@pytest.mark.parametrize("table", ["inet guard", "ip filter"])
def test_a_foreign_drop_of_forwarded_packets_is_a_problem_until_it_lets_jobs_pass(
    world: World, run_folder: str, table: str
) -> None:
    chain = f"{table} FORWARD"
    assert nft_program.problems() == []
    job = world.job(world.plan())
    world.outside.call(programs.listen, "tcp", PORT)
    nft(f"add table {table}; add chain {chain} {{ type filter hook forward priority 0; policy drop; }}")
    with holder(run_folder):
        assert job.call(programs.connect, OUTSIDE, PORT) == "timeout"
        (problem,) = nft_program.problems()
        assert chain in problem
        # What the message says for nft; for iptables the same two rules.
        nft(f'insert rule {chain} iifname "bns*" accept')
        nft(f'insert rule {chain} oifname "bns*" ct state established,related accept')
        assert nft_program.problems() == []
        assert job.call(programs.connect_at_last, OUTSIDE, PORT) == "connected"


def test_the_test_world_is_not_the_machine(world: World) -> None:
    """These tests change firewall and forwarding: never those of the machine itself."""
    assert sorted(name for _, name in socket.if_nameindex() if not name.startswith("ifb")) == ["lo", UPLINK]
