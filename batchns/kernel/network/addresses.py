"""Who is who on the jobs' network: address, MACs and link name of each slot. Pure.

1. Everything derives from the slot's number and the attempt's name, so nothing needs to be stored or handed out twice.
2. The pool is the administrator's: a pool that is too small or taken is refused with what to write in batchns.toml.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from batchns.errors import HostError
from batchns.kernel.network.types import NetworkPlan

PREFIX = "bns"  # of every host end; the firewall's rules go by it
LONGEST_LINK_NAME = 15  # IFNAMSIZ - 1
SMALLEST_MTU = 576  # what every IPv4 host must take, RFC 791

_CANDIDATES = ("10.213.0.0/16", "10.214.0.0/16", "172.29.0.0/16", "172.30.0.0/16", "192.168.213.0/24")
_RESERVED = (IPv4Network("127.0.0.0/8"), IPv4Network("169.254.0.0/16"), IPv4Network("224.0.0.0/3"))


_RTF_REJECT = 0x200  # include/uapi/linux/route.h
_SITE = 48  # bits of a site's prefix, RFC 4193


class Route(NamedTuple):
    """One route of the host: destination as "address/length", and the interface."""

    destination: str
    interface: str


def network(pool: str) -> IPv4Network:
    """The pool as a network.

    Raises:
        HostError: it is none, or too small to hold a job, or no addresses that a job could have.
    """
    example = f'write a private network under [network] in batchns.toml, e.g. pool = "{_CANDIDATES[0]}"'
    try:
        parsed = IPv4Network(pool)
    except ValueError as error:
        raise HostError(f"network.pool = {pool!r} is no IPv4 network: {error}", example) from None
    if parsed.prefixlen > 30:
        raise HostError(f"network.pool = {pool!r} holds no job: the longest prefix is /30, for two jobs", example)
    if any(parsed.overlaps(reserved) for reserved in _RESERVED):
        raise HostError(f"network.pool = {pool!r} is no network for hosts (loopback, link-local or multicast)", example)
    return parsed


def capacity(pool: str) -> int:
    """How many jobs the pool has an address for: all but the network's own and the broadcast address.

    Raises:
        HostError: as `network`.
    """
    return network(pool).num_addresses - 2


def job_address(pool: str, slot: int) -> str:
    """The address of slot 0, 1, 2, ...

    Raises:
        HostError: the pool has no such slot, or is none.
    """
    holds = capacity(pool)
    if not 0 <= slot < holds:
        raise HostError(
            f"network.pool = {pool!r} has addresses for {holds} jobs, none for slot {slot}",
            "write a larger pool under [network] in batchns.toml, or run fewer jobs at a time",
        )
    return str(network(pool)[slot + 1])


def job_address6(pool6: str, slot: int) -> str:
    """The IPv6 address of slot 0, 1, 2, ...; "" where there is no pool."""
    return str(IPv6Network(pool6)[slot + 1]) if pool6 else ""


def macs(address: str) -> tuple[str, str]:
    """(MAC of the host's end, of the job's end): locally administered, unicast, ending in the address."""
    tail = ":".join(f"{int(part):02x}" for part in address.split("."))
    return f"02:b0:{tail}", f"02:b1:{tail}"


def host_name(attempt: str) -> str:
    """The name of the host's end.

    Raises:
        ValueError: the attempt's name is too long for it.
    """
    name = PREFIX + attempt
    if not attempt or len(name) > LONGEST_LINK_NAME:
        raise ValueError(f"attempt {attempt!r}: a link name {name!r} must have 4 to {LONGEST_LINK_NAME} characters")
    return name


def network_plan(
    mode: str,
    attempt: str,
    address: str,
    egress: int | None,
    ingress: int | None,
    mtu: int,
    *,
    address6: str = "",
    group: int = 0,
    serves: bool = False,
    strict: bool = False,
) -> NetworkPlan:
    """The plan for one job: in mode "none" nothing but the mode, in mode "host" the rates besides.

    `group`, `serves` and `strict`: see `NetworkPlan`.

    Raises:
        ValueError: the attempt's name is too long, or the MTU below 576 bytes.
    """
    if mode == "none":
        return NetworkPlan(mode)
    if mode == "host":
        return NetworkPlan(mode, egress=egress, ingress=ingress, strict=strict)
    if mtu < SMALLEST_MTU:
        raise ValueError(f"mtu {mtu}: at least {SMALLEST_MTU} bytes")
    host_mac, job_mac = macs(address)
    return NetworkPlan(
        mode=mode,
        host_name=host_name(attempt),
        job_address=address,
        host_mac=host_mac,
        job_mac=job_mac,
        egress=egress,
        ingress=ingress,
        mtu=mtu,
        job_address6=address6,
        group=group,
        serves=serves,
    )


def parse_routes(table: str) -> list[Route]:
    """The routes in the text of /proc/net/route, whose numbers are in the machine's byte order. proc(5)."""
    routes = []
    for line in table.splitlines()[1:]:
        interface, destination, _, _, _, _, _, mask, *_ = line.split()
        address = ".".join(str(byte) for byte in int(destination, 16).to_bytes(4, sys.byteorder))
        routes.append(Route(f"{address}/{int(mask, 16).bit_count()}", interface))
    return routes


def parse_routes6(table: str) -> list[Route]:
    """The routes in the text of /proc/net/ipv6_route that lead somewhere: no refusals, nothing of the loopback.

    Columns (net/ipv6/route.c, rt6_info_route): destination, its length, source, its length, next hop, metric, two
    counters, flags, interface; numbers are hexadecimal.
    """
    routes = []
    for line in table.splitlines():
        destination, length, _, _, _, _, _, _, flags, interface = line.split()
        if interface != "lo" and not int(flags, 16) & _RTF_REJECT:
            routes.append(Route(str(IPv6Network((int(destination, 16), int(length, 16)))), interface))
    return routes


def check_pool6(pool6: str, routes: Iterable[Route]) -> None:
    """Refuse an IPv6 pool that is part of what the host reaches some other way, or the other way round.

    Raises:
        HostError: it overlaps with a network of a site or smaller; larger ones are default routes of VPNs and the like.
    """
    wanted = IPv6Network(pool6)
    for route in routes:
        destination = IPv6Network(route.destination)
        if destination.prefixlen >= _SITE and not route.interface.startswith(PREFIX) and wanted.overlaps(destination):
            raise HostError(
                f"network.pool6 = {pool6!r} overlaps with this machine's route to {destination} on {route.interface}",
                'write another network under [network] in batchns.toml, or pool6 = "" for no IPv6 in jobs',
            )


def check_pool(pool: str, routes: Iterable[Route]) -> None:
    """Refuse a pool that the host already reaches some other way.

    Default routes, the halves of one that VPNs use, and routes to jobs do not count.

    Raises:
        HostError: the pool overlaps with a route, with a free pool to write instead where one is known.
    """
    wanted = network(pool)
    taken = [
        (destination, route)
        for route in routes
        if (destination := IPv4Network(route.destination)).prefixlen > 1 and not route.interface.startswith(PREFIX)
    ]
    for destination, route in taken:
        if wanted.overlaps(destination):
            free = [name for name in _CANDIDATES if not any(IPv4Network(name).overlaps(other) for other, _ in taken)]
            example = f', e.g. pool = "{free[0]}"' if free else ""
            raise HostError(
                f"network.pool = {pool!r} overlaps with this machine's route to {route.destination} "
                f"on {route.interface}",
                f"write a network that is free here under [network] in batchns.toml{example}",
            )
