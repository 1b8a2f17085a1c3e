"""Which name servers jobs ask, and the resolv.conf that says so. resolv.conf(5).

1. A job has a loopback of its own: a resolver of the host that listens on the host's is not there for it.
2. Where the host asks such a resolver (systemd-resolved, NetworkManager's dnsmasq), jobs ask those whom it asks.
3. Everything but the servers (search, options) stays as the host has it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

HOSTS_OWN = "/etc/resolv.conf"
# Files that name the servers behind a local resolver: systemd-resolved(8) "/etc/resolv.conf", NetworkManager.conf(5).
UPSTREAM = ("/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf")
WHAT_TO_WRITE = 'write under [network] in batchns.toml: dns = ["ADDRESS"], a name server that is not on the loopback'


class Resolver(NamedTuple):
    """`servers`: addresses that jobs may ask. `lines`: the other lines of `source`, which says why there are none."""

    servers: tuple[str, ...]
    lines: tuple[str, ...]
    source: str


def find(configured: Sequence[str] = (), *, root: Path = Path("/")) -> Resolver:
    """The servers of batchns.toml, or those that this machine uses. `root`: where its files are."""
    own = _read(root, HOSTS_OWN)
    if own is None:
        return Resolver(tuple(configured), (), "network.dns" if configured else f"there is no {HOSTS_OWN}")
    servers, lines = own
    if configured:
        return Resolver(tuple(configured), lines, "network.dns")
    if usable := _usable(servers):
        return Resolver(usable, lines, HOSTS_OWN)
    if servers:
        for path in UPSTREAM:
            upstream = _read(root, path)
            if upstream and (usable := _usable(upstream[0])):
                return Resolver(usable, upstream[1], path)
    why = f"{HOSTS_OWN} names {', '.join(servers)} only" if servers else f"{HOSTS_OWN} names no server"
    return Resolver((), lines, why)


def text(resolver: Resolver, *, ipv6: bool) -> str:
    """The resolv.conf of a job. `ipv6`: whether it can reach servers by IPv6."""
    servers = [server for server in resolver.servers if ipv6 or ":" not in server]
    # Without a line of its own the C library asks 127.0.0.1, which is the job itself.
    told = [f"nameserver {server}" for server in servers] or [f"# no name server: {WHAT_TO_WRITE}"]
    return "\n".join((f"# batchns, from {resolver.source}", *told, *resolver.lines)) + "\n"


def copy(place: Path, *, root: Path = Path("/")) -> bool:
    """The host's own file as it is, for jobs in the host's network, where all its servers are; False: there is none.

    What it is a link to may lie in the host's /run, which a sandbox does not show.
    """
    try:
        content = (root / HOSTS_OWN.lstrip("/")).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return False
    write_in_place(str(place), content)
    return True


def write_in_place(path: str, content: bytes) -> None:
    """Text that jobs may have mounted and be reading: the old or the new, with empty lines where more was before."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        os.fchmod(descriptor, 0o644)  # whatever the umask: jobs are other users
        os.pwrite(descriptor, content.ljust(os.fstat(descriptor).st_size, b"\n"), 0)
    finally:
        os.close(descriptor)


def _read(root: Path, path: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """(servers, other lines) of a resolv.conf; None where there is none."""
    try:
        content = (root / path.lstrip("/")).read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    servers, others = [], []
    for line in content.splitlines():
        words = line.split()
        if words[:1] == ["nameserver"]:
            servers += words[1:2]
        elif words and words[0][0] not in "#;":
            others.append(line)
    return tuple(servers), tuple(others)


def _usable(servers: Sequence[str]) -> tuple[str, ...]:
    """Those that are somewhere else than on a loopback or on one very link."""
    found = []
    for server in servers:
        try:
            address = ip_address(server)
        except ValueError:  # "fe80::1%eth0", or nonsense that the C library passes over, too
            continue
        if not (address.is_loopback or address.is_unspecified or (address.version == 6 and address.is_link_local)):
            found.append(str(address))
    return tuple(found)
