"""The data of one job's network: what the launcher gets, and what it reads at the end.

Named tuples, because the launcher imports little. Addresses are dotted quads, MACs "aa:bb:cc:dd:ee:ff",
rates bits per second of TCP payload in full-size segments (None: no shaper).
"""

from __future__ import annotations

from typing import NamedTuple


class NetworkPlan(NamedTuple):
    """A routed veth pair. `host_name` is unique on the machine and begins with the firewall's prefix."""

    mode: str  # "private" or "none"
    host_name: str = ""
    job_name: str = "eth0"
    job_address: str = ""
    gateway: str = "169.254.1.1"  # on-link next hop inside the job; static neighbour, held by no interface
    host_mac: str = ""
    job_mac: str = ""
    egress: int | None = None
    ingress: int | None = None
    mtu: int = 1500


class Counters(NamedTuple):
    """Bytes as the job sees them (the host end's rx and tx swapped)."""

    sent_bytes: int
    received_bytes: int


class Shapers(NamedTuple):
    """The rates in force, read back from the kernel."""

    egress: int | None = None
    ingress: int | None = None
