"""Addresses, MACs and names of jobs: all different, all valid, and a bad pool is refused with what to write."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchns.errors import HostError
from batchns.kernel.network import addresses
from batchns.kernel.network.addresses import Route
from batchns.kernel.network.types import NetworkPlan

POOL = "10.213.0.0/16"


def test_slots_get_the_addresses_of_the_pool_in_order_without_its_own_and_the_broadcast_address() -> None:
    assert addresses.capacity("192.168.9.0/29") == 6
    assert [addresses.job_address("192.168.9.0/29", slot) for slot in range(6)] == [
        f"192.168.9.{last}" for last in range(1, 7)
    ]


@given(st.integers(8, 30), st.data())
def test_every_slot_has_an_address_of_its_own_in_the_pool_and_macs_of_its_own(length: int, data: st.DataObject) -> None:
    pool = f"10.0.0.0/{length}"
    slots = st.integers(0, addresses.capacity(pool) - 1)
    one, other = data.draw(slots), data.draw(slots)
    address = addresses.job_address(pool, one)
    assert IPv4Address(address) in IPv4Network(pool)
    macs = {*addresses.macs(address), *addresses.macs(addresses.job_address(pool, other))}
    assert len(macs) == (2 if one == other else 4)
    for mac in macs:
        first = int(mac[:2], 16)
        assert first & 2 and not first & 1, "locally administered, not multicast"


@pytest.mark.parametrize("slot", [-1, 2])
def test_a_slot_outside_the_pool_is_refused(slot: int) -> None:
    with pytest.raises(HostError, match=r"addresses for 2 jobs, none for slot .*\[network\] in batchns.toml"):
        addresses.job_address("10.0.0.0/30", slot)


@pytest.mark.parametrize(
    ("pool", "what"),
    [
        ("10.213.0.0/31", "holds no job"),
        ("10.213.0.1/16", "host bits"),
        ("fd00::/64", "no IPv4 network"),
        ("jobs", "no IPv4 network"),
        ("127.0.0.0/16", "loopback"),
        ("169.254.0.0/24", "link-local"),
        ("224.0.0.0/8", "multicast"),
    ],
)
def test_what_is_no_pool_is_refused_with_an_example(pool: str, what: str) -> None:
    with pytest.raises(HostError, match=what) as caught:
        addresses.capacity(pool)
    assert 'e.g. pool = "10.213.0.0/16"' in str(caught.value)


def test_a_link_name_holds_the_attempt_and_no_more_than_the_kernel_takes() -> None:
    assert addresses.host_name("abcdefgh-12") == "bnsabcdefgh-12"
    with pytest.raises(ValueError, match="15 characters"):
        addresses.host_name("abcdefghijklm")
    with pytest.raises(ValueError, match="4 to"):
        addresses.host_name("")


def test_a_plan_is_complete_in_mode_private_and_empty_in_mode_none() -> None:
    assert addresses.network_plan("none", "7-1", "", 5, 6, 1500) == NetworkPlan("none")
    assert addresses.network_plan("private", "7-1", "10.213.0.9", 5, 6, 1400) == NetworkPlan(
        mode="private",
        host_name="bns7-1",
        job_name="eth0",
        job_address="10.213.0.9",
        gateway="169.254.1.1",
        host_mac="02:b0:0a:d5:00:09",
        job_mac="02:b1:0a:d5:00:09",
        egress=5,
        ingress=6,
        mtu=1400,
    )
    with pytest.raises(ValueError, match="mtu 500"):
        addresses.network_plan("private", "7-1", "10.213.0.9", None, None, 500)


def test_routes_are_read_from_the_kernels_table() -> None:
    table = (
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    assert addresses.parse_routes(table) == [Route("0.0.0.0/0", "eth0"), Route("192.0.2.0/24", "eth0")]


@pytest.mark.parametrize("taken", ["10.213.4.0/24", "10.0.0.0/8", "10.213.7.7/32"])
def test_a_pool_that_the_host_reaches_otherwise_is_refused_with_a_free_one(taken: str) -> None:
    with pytest.raises(HostError) as caught:
        addresses.check_pool(POOL, [Route("0.0.0.0/0", "eth0"), Route(taken, "tun0")])
    message = str(caught.value)
    assert f"route to {taken} on tun0" in message
    free = message.split('pool = "')[1].split('"')[0]
    addresses.check_pool(free, [Route(taken, "tun0")])


def test_no_free_pool_is_promised_where_all_are_taken() -> None:
    everything = [Route("10.0.0.0/8", "a"), Route("172.16.0.0/12", "a"), Route("192.168.0.0/16", "a")]
    with pytest.raises(HostError) as caught:
        addresses.check_pool(POOL, everything)
    assert "e.g." not in str(caught.value)


def test_default_routes_their_halves_and_routes_to_jobs_do_not_take_a_pool() -> None:
    routes = [Route("0.0.0.0/0", "eth0"), Route("0.0.0.0/1", "tun0"), Route("10.213.0.1/32", "bns7-1")]
    addresses.check_pool(POOL, routes)
