"""What a job may reach beside what all jobs reach: "jobs", "host:8080", "host:53/udp", "10.1.0.0/16".

1. One small language for both sides: what a job asks for, and what batchns.toml lets jobs ask for.
2. A job gets what one entry of batchns.toml covers as a whole, or what every job reaches anyway.
3. Addresses at which clouds keep credentials are covered only by an entry that means them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

from attrs import frozen

from batchns.errors import UserError
from batchns.units import quote

Range = IPv4Network | IPv6Network

EXAMPLE = '"host:8080"'
PATTERN = "^(jobs|host:[0-9]+(-[0-9]+)?(/(tcp|udp))?|[0-9a-fA-F.:]+(/[0-9]+)?)$"
RANGE_PATTERN = "^[0-9a-fA-F.:]+(/[0-9]+)?$"
_HINT = 'write "jobs", "host:8080", "host:53/udp" or an address range such as "10.1.0.0/16"'
_PORTS = re.compile("([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp))?")

# Where clouds serve metadata, credentials among them; kernel.network.rules keeps jobs from these.
SPECIAL: tuple[Range, ...] = (
    IPv4Network("169.254.0.0/16"),
    IPv4Network("100.100.100.200/32"),  # Alibaba Cloud
    IPv6Network("fe80::/10"),
    IPv6Network("fd00:ec2::254/128"),  # AWS
    IPv6Network("fd20:ce::254/128"),  # Google Cloud
    IPv6Network("fd00:c1::a9fe:a9fe/128"),  # Oracle Cloud
    IPv6Network("64:ff9b::a9fe:0/112"),  # 169.254.0.0/16 through NAT64, RFC 6052
)


@frozen
class Jobs:
    """Running jobs of the same user that ask for this, too."""


@frozen
class HostPorts:
    """Services of the host: `protocol` "tcp" or "udp", ports `first` to `last`."""

    protocol: str
    first: int
    last: int


Target = Jobs | HostPorts | IPv4Network | IPv6Network


def parse_target(text: str) -> Target:
    """One entry of `allow`.

    Raises:
        UserError: it is none.
    """
    if text == "jobs":
        return Jobs()
    word, colon, ports = text.partition(":")
    if word == "host":
        return _host_ports(text, ports if colon else "")
    return parse_range(text, _HINT)


def parse_range(text: str, hint: str = 'write an address range such as "10.1.0.0/16" or "fd00::/8"') -> Range:
    """An IPv4 or IPv6 network; one address is a network of its own.

    Raises:
        UserError: it is none, or not one that lies outside of a job.
    """
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise UserError(f"{quote(text)} is none of what can be allowed", hint) from None
    if str(network) != text and str(network.network_address) != text:
        # Also leading zeros and the like: what is read must be what was meant.
        raise UserError(f"{quote(text)} is not written as a range", f'write "{network}"')
    if network.is_loopback or network.is_multicast:
        raise UserError(
            f"{quote(text)} is not outside of a job", "write a range of hosts: jobs have their own loopback"
        )
    return network


def format_target(target: Target) -> str:
    """The inverse of `parse_target`."""
    if isinstance(target, Jobs):
        return "jobs"
    if isinstance(target, HostPorts):
        ports = f"{target.first}" if target.first == target.last else f"{target.first}-{target.last}"
        return f"host:{ports}" + ("" if target.protocol == "tcp" else f"/{target.protocol}")
    return str(target)


def permitted(asked: Target, allow: Iterable[Target], outside: Iterable[Range]) -> bool:
    """Whether a job may have `asked`: an entry of `allow` covers it, or every job reaches it as part of `outside`."""
    if any(_covers(entry, asked) for entry in allow):
        return True
    return (
        not isinstance(asked, Jobs | HostPorts)
        and is_special(asked) is None
        and any(_covers(entry, asked) for entry in outside)
    )


def is_special(network: Range) -> Range | None:
    """The special range that `network` is part of."""
    return next((special for special in SPECIAL if _within(network, special)), None)


def _covers(entry: Target, asked: Target) -> bool:
    if isinstance(entry, HostPorts) and isinstance(asked, HostPorts):
        return entry.protocol == asked.protocol and entry.first <= asked.first and asked.last <= entry.last
    if isinstance(entry, Jobs | HostPorts) or isinstance(asked, Jobs | HostPorts):
        return entry == asked
    return _within(asked, entry) and (is_special(asked) is None or is_special(entry) is not None)


def _within(inner: Range, outer: Range) -> bool:
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def _host_ports(text: str, ports: str) -> HostPorts:
    match = _PORTS.fullmatch(ports)
    if match is None:
        raise UserError(
            f"{quote(text)} names no port of the host", 'write "host:8080", "host:8000-8099" or "host:53/udp"'
        )
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= 65535 or not 1 <= last <= 65535:
        raise UserError(f"{quote(text)}: ports are 1 to 65535", 'write for example "host:8080"')
    if last < first:
        raise UserError(f"{quote(text)} runs backwards", f'write "host:{last}-{first}"')
    return HostPorts(match[3] or "tcp", first, last)
