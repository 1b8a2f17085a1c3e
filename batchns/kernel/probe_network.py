"""What this machine has for the jobs' networks beside links and rules: name servers, and a way out for IPv6."""

from __future__ import annotations

from batchns.kernel.facts import Fact, Place, Status
from batchns.kernel.network import ipv6, resolver


def name_servers(place: Place) -> Fact:
    """Those that jobs ask."""
    found = resolver.find(place.dns, root=place.files)
    if found.servers:
        return Fact(name="name servers", status=Status.OK, found=f"{', '.join(found.servers)} ({found.source})")
    return Fact(
        name="name servers",
        status=Status.LIMITED,
        found=found.source,
        meaning="jobs look up no names: their loopback is their own, and what listens on this machine's is not there",
        hint=resolver.WHAT_TO_WRITE,
    )


def way_out_by_ipv6() -> Fact:
    if interface := ipv6.way_out():
        return Fact(name="IPv6", status=Status.OK, found=f"default route on {interface}")
    return Fact(
        name="IPv6",
        status=Status.OK,
        found="no default route; jobs have IPv4 only",
    )
