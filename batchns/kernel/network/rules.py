"""The text of the firewall: what nft gets on its standard input. Pure.

1. One table, by interface prefix: no rule is ever made or removed for one job.
2. What is not allowed is dropped: in a table of one's own only a drop is final, an accept leaves it to others.
3. A script replaces the whole table, or changes elements of its sets, in one transaction: there is no moment without
   rules.
4. What only some jobs may reach goes by the device group of their links. A link is born with its group and ends with
   its job, so there is nothing to add when a job starts, nothing to take away when it ends, and no address to recycle.

Sources: nft(8), wiki.nftables.org "Netfilter hooks".
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv6Network, collapse_addresses, ip_network
from typing import Any, NamedTuple

from batchns.kernel.network import groups
from batchns.kernel.network.addresses import PREFIX, network
from batchns.kernel.network.types import Grant, Hold
from batchns.model.reach import SPECIAL, Range, is_special

TABLE = "batchns"
_BY_GROUP = ("tcp_ports", "udp_ports", "trusted", "trusted6", "ranges", "ranges6")

_RULES = """\
table inet {table} {{
    set pools {{ type ipv4_addr; flags interval; {pools} }}
    set pools6 {{ type ipv6_addr; flags interval; {pools6} }}
    set outside {{ type ipv4_addr . ipv4_addr; flags interval; {outside} }}
    set outside6 {{ type ipv6_addr . ipv6_addr; flags interval; {outside6} }}
    set special {{ type ipv4_addr; flags interval; {special} }}
    set special6 {{ type ipv6_addr; flags interval; {special6} }}
    set resolvers {{ type ipv4_addr; {resolvers} }}
    set resolvers6 {{ type ipv6_addr; {resolvers6} }}
    set peers {{ type devgroup . devgroup; flags interval; {peers} }}
    set tcp_ports {{ type devgroup . inet_service; flags interval; {tcp_ports} }}
    set udp_ports {{ type devgroup . inet_service; flags interval; {udp_ports} }}
    set trusted {{ type devgroup . ipv4_addr; flags interval; {trusted} }}
    set trusted6 {{ type devgroup . ipv6_addr; flags interval; {trusted6} }}
    set ranges {{ type devgroup . ipv4_addr; flags interval; {ranges} }}
    set ranges6 {{ type devgroup . ipv6_addr; flags interval; {ranges6} }}
    set opened {{ type ifname; {opened} }}
    chain source {{
        comment "a job sends with its own address, or nothing"
        type filter hook prerouting priority raw
        iifname "{prefix}*" ip6 saddr != @pools6 drop
        iifname "{prefix}*" fib saddr . iif oif missing drop
    }}
    chain input {{
        type filter hook input priority filter
        iifname "{prefix}*" jump to_host
    }}
    chain to_host {{
        comment "no service of the host is there for jobs"
        iifgroup . tcp dport @tcp_ports accept comment "unless they may ask for it"
        iifgroup . udp dport @udp_ports accept comment "the same"
        ip saddr @pools ip daddr @resolvers meta l4proto {{ tcp, udp }} th dport 53 accept
        ip6 saddr @pools6 ip6 daddr @resolvers6 meta l4proto {{ tcp, udp }} th dport 53 accept
        drop
    }}
    chain forward {{
        type filter hook forward priority filter
        iifname "{prefix}*" jump from_job
        oifname "{prefix}*" jump to_job
        meta nfproto ipv4 iifname @opened ct state != {{ established, related }} drop comment "no router for others"
        {closed6}
    }}
    chain output {{
        type filter hook output priority filter
        oifname "{prefix}*" jump to_job
    }}
    chain from_job {{
        oifname "{prefix}*" iifgroup . oifgroup @peers accept
        oifname "{prefix}*" drop
        ip daddr @pools drop comment "an address that no job has: nobody outside may answer for it"
        ip6 daddr @pools6 drop comment "the same"
        ct status dnat drop comment "a service of the host that lives behind a port forwarding"
        ip saddr @pools ip daddr @resolvers meta l4proto {{ tcp, udp }} th dport 53 accept
        ip6 saddr @pools6 ip6 daddr @resolvers6 meta l4proto {{ tcp, udp }} th dport 53 accept
        ip saddr @pools iifgroup . ip daddr @trusted accept
        ip6 saddr @pools6 iifgroup . ip6 daddr @trusted6 accept
        ip daddr @special drop comment "cloud metadata, also where a wider range is allowed"
        ip6 daddr @special6 drop comment "the same"
        ip saddr @pools iifgroup . ip daddr @ranges accept
        ip6 saddr @pools6 iifgroup . ip6 daddr @ranges6 accept
        ip saddr . ip daddr @outside accept
        ip6 saddr . ip6 daddr @outside6 accept
        drop
    }}
    chain to_job {{
        ct state {{ established, related }} accept
        drop
    }}
    chain nat {{
        type nat hook postrouting priority srcnat
        ip saddr @pools oifname != "{prefix}*" masquerade
        ip6 saddr @pools6 oifname != "{prefix}*" masquerade
    }}
}}
"""

_CLOSED6 = (
    f'meta nfproto ipv6 iifname != "{PREFIX}*" ct state != {{ established, related }} drop '
    'comment "no router for others"'
)

# Deleting a table that is not there would fail, making one that is there does not.
REMOVE = f"add table inet {TABLE}\ndelete table inet {TABLE}\n"


class Table(NamedTuple):
    """What is in the table. Its rules are the same everywhere, but for one.

    `sets`: elements by the set's name. `closed6`: no IPv6 is forwarded but that of jobs.
    """

    sets: Mapping[str, Sequence[str]]
    closed6: bool = False


def table(holds: Sequence[Hold], opened: Iterable[str], *, closed6: bool = False) -> Table:
    """What `holds` need.

    `opened`: interfaces that forward IPv4 only because batchns asked them to, so that nothing but the jobs' traffic may
    use that. `closed6`: the same of all IPv6.
    """
    out = [hold for hold in holds if hold.nat]
    out6 = [hold for hold in out if hold.pool6]
    resolvers = sorted({address for hold in out for address in hold.resolvers})
    grants = dict(grant for hold in holds for grant in hold.grants)
    sets = {
        "pools": map(str, collapse_addresses(network(hold.pool) for hold in out)),
        "pools6": map(str, collapse_addresses(IPv6Network(hold.pool6) for hold in out6)),
        "outside": _ranges({hold.pool: _of_family(4, hold.outside) for hold in out}),
        "outside6": _ranges({hold.pool6: _of_family(6, hold.outside) for hold in out6}),
        "special": (str(special) for special in SPECIAL if special.version == 4),
        "special6": (str(special) for special in SPECIAL if special.version == 6),
        "resolvers": (address for address in resolvers if ":" not in address),
        "resolvers6": (address for address in resolvers if ":" in address),
        "peers": _peers(grants),
        "opened": (f'"{name}"' for name in sorted(opened)),
        **{name: [found for entry in grants.items() for found in _elements(*entry)[name]] for name in _BY_GROUP},
    }
    return Table({name: list(elements) for name, elements in sets.items()}, closed6)


def render(wanted: Table) -> str:
    """The script that puts the table in place of whatever was there."""
    return REMOVE + _RULES.format(
        table=TABLE,
        prefix=PREFIX,
        closed6=_CLOSED6 if wanted.closed6 else "",
        **{name: f"elements = {{ {', '.join(found)} }};" if found else "" for name, found in wanted.sets.items()},
    )


def difference(before: Table, after: Table) -> str | None:
    """The script that makes one of the other, "" for nothing to do; None: their rules differ.

    A table that is replaced is without the elements of its sets of ranges for some microseconds (the kernel puts those
    in place last), and drops what jobs send then. One whose elements change is not.
    """
    if before.closed6 != after.closed6 or before.sets.keys() != after.sets.keys():
        return None
    script = ""
    for verb, those, others in (("delete", before.sets, after.sets), ("add", after.sets, before.sets)):
        for name, elements in those.items():
            known = set(others[name])
            if changed := [element for element in elements if element not in known]:
                script += f"{verb} element inet {TABLE} {name} {{ {', '.join(changed)} }}\n"
    return script


def contents(wanted: Table) -> dict[str, int]:
    """How much there is in each chain (rules) and each set (elements)."""
    found, chain = {name: len(elements) for name, elements in wanted.sets.items()}, ""
    for line in _RULES.splitlines():
        match line.split():
            case ["chain", name, *_]:
                chain = name
                found[chain] = 0
            case ["{closed6}"]:
                found[chain] += wanted.closed6
            case [] | ["type" | "comment" | "}}" | "set" | "table", *_]:
                pass
            case _:
                found[chain] += 1
    return found


def listed_contents(entries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The same of a table as nft lists it in JSON."""
    found: dict[str, int] = {}
    for entry in entries:
        for kind, what in entry.items():
            if kind == "rule":
                found[what["chain"]] += 1
            elif kind in ("chain", "set"):
                found[what["name"]] = len(what.get("elem", ()))
    return found


VERSION = zlib.crc32(_RULES.encode())  # of the rules


def _of_family(version: int, ranges: Iterable[str]) -> list[Range]:
    return [found for found in map(ip_network, ranges) if found.version == version]


def _ranges(of: Mapping[str, Sequence[Range]]) -> Iterator[str]:
    """Each key with each of its ranges, which must not overlap in one set."""
    for key, ranges in of.items():
        for part in collapse_addresses(ranges):  # type: ignore[type-var]  # one family
            yield f"{key} . {part}"


@lru_cache(4096)
def _elements(group: int, grant: Grant) -> dict[str, list[str]]:
    """What the group has in each set that goes by groups, but for the peers."""
    special = [found for found in map(ip_network, grant.ranges) if is_special(found)]
    usual = [found for found in map(ip_network, grant.ranges) if not is_special(found)]
    return {
        "tcp_ports": list(_ports(group, grant, "tcp")),
        "udp_ports": list(_ports(group, grant, "udp")),
        "trusted": list(_ranges({str(group): [found for found in special if found.version == 4]})),
        "trusted6": list(_ranges({str(group): [found for found in special if found.version == 6]})),
        "ranges": list(_ranges({str(group): [found for found in usual if found.version == 4]})),
        "ranges6": list(_ranges({str(group): [found for found in usual if found.version == 6]})),
    }


def _ports(group: int, grant: Grant, protocol: str) -> Iterator[str]:
    """The group's ports, as ranges that do not overlap.

    A set for each protocol: nft 1.0.6 asks the kernel to turn the one byte of `meta l4proto` into network order where
    the set has ranges, which new kernels refuse.
    """
    last = 0
    for first, end in sorted((first, end) for name, first, end in grant.ports if name == protocol):
        if end > last:
            yield f"{group} . {max(first, last + 1)}-{end}"
            last = end


def _peers(grants: Mapping[int, Grant]) -> Iterator[str]:
    for one, other in groups.peers(grants):
        yield f"{one}-{one + groups.BLOCK - 1} . {other}-{other + groups.BLOCK - 1}"
