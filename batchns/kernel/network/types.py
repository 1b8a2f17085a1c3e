"""The data of one job's network: what the launcher gets, and what it reads at the end.

Named tuples, because the launcher imports little. Addresses are dotted quads, MACs "aa:bb:cc:dd:ee:ff",
rates bits per second of TCP payload in full-size segments (None: no shaper).
"""

from __future__ import annotations

from typing import NamedTuple


class NetworkPlan(NamedTuple):
    """A routed veth pair. `host_name` is unique on the machine and begins with the firewall's prefix.

    The firewall knows by `group`, the host end's device group, what the job may reach besides (0: nothing).
    """

    mode: str  # "private", "none", "host" (the rates and `strict` count), or "pasta" (`program` does)
    host_name: str = ""
    job_name: str = "eth0"
    job_address: str = ""
    gateway: str = "169.254.1.1"  # on-link next hop inside the job; static neighbour, held by no interface
    host_mac: str = ""
    job_mac: str = ""
    egress: int | None = None
    ingress: int | None = None
    mtu: int = 1500
    job_address6: str = ""  # "": no IPv6
    gateway6: str = "fe80::1"  # as `gateway`
    group: int = 0
    serves: bool = False  # the host end holds `gateway`, so that the job finds services of the host there
    program: str = ""  # path of pasta
    strict: bool = False  # in mode "host": rates that are not to be had fail the launch


class Grant(NamedTuple):
    """What some jobs may reach beside what all jobs reach."""

    user: int  # whose jobs they are
    jobs: bool = False  # jobs of the same user that have this, too
    ports: tuple[tuple[str, int, int], ...] = ()  # the host's, each (protocol, first, last)
    ranges: tuple[str, ...] = ()  # outside, each "address/length"


class Hold(NamedTuple):
    """What one run's jobs need of the firewall."""

    pool: str
    nat: bool
    pool6: str = ""  # "": its jobs have no IPv6
    outside: tuple[str, ...] = ("0.0.0.0/0", "::/0")  # what all its jobs reach there
    resolvers: tuple[str, ...] = ()  # name servers that its jobs may ask
    grants: tuple[tuple[int, Grant], ...] = ()  # by device group


class Counters(NamedTuple):
    """Bytes as the job sees them (the host end's rx and tx swapped)."""

    sent_bytes: int
    received_bytes: int


class Shapers(NamedTuple):
    """The rates in force, read back from the kernel."""

    egress: int | None = None
    ingress: int | None = None
