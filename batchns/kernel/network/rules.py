"""The text of the firewall: what nft gets on its standard input. Pure.

1. One table, by interface prefix: no rule is ever made or removed for one job.
2. What is not allowed is dropped: in a table of one's own only a drop is final, an accept leaves it to others.
3. A script replaces the whole table in one transaction, so there is no moment without rules.
4. What only some jobs may reach goes by the device group of their links. A link is born with its group and ends with
   its job, so there is nothing to add when a job starts, nothing to take away when it ends, and no address to recycle.

Sources: nft(8), wiki.nftables.org "Netfilter hooks".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv6Network, collapse_addresses, ip_network

from batchns.kernel.network.addresses import PREFIX, network
from batchns.kernel.network.types import Grant, Hold
from batchns.model.reach import SPECIAL, Range, is_special

TABLE = "batchns"

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
    set peers {{ type devgroup . devgroup; {peers} }}
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


def render(holds: Sequence[Hold], opened: Iterable[str], *, closed6: bool = False) -> str:
    """The script that puts the table in place of whatever was there.

    `opened`: interfaces that forward IPv4 only because batchns asked them to, so that nothing but the jobs' traffic may
    use that. `closed6`: the same of all IPv6.
    """
    out = [hold for hold in holds if hold.nat]
    out6 = [hold for hold in out if hold.pool6]
    resolvers = sorted({address for hold in out for address in hold.resolvers})
    grants = dict(grant for hold in holds for grant in hold.grants)
    return REMOVE + _RULES.format(
        table=TABLE,
        prefix=PREFIX,
        pools=_set(map(str, collapse_addresses(network(hold.pool) for hold in out))),
        pools6=_set(map(str, collapse_addresses(IPv6Network(hold.pool6) for hold in out6))),
        outside=_set(_ranges({hold.pool: _of_family(4, hold.outside) for hold in out})),
        outside6=_set(_ranges({hold.pool6: _of_family(6, hold.outside) for hold in out6})),
        special=_set(str(special) for special in SPECIAL if special.version == 4),
        special6=_set(str(special) for special in SPECIAL if special.version == 6),
        resolvers=_set(address for address in resolvers if ":" not in address),
        resolvers6=_set(address for address in resolvers if ":" in address),
        peers=_set(_peers(grants)),
        tcp_ports=_set(_ports(grants, "tcp")),
        udp_ports=_set(_ports(grants, "udp")),
        trusted=_set(_granted(grants, 4, special=True)),
        trusted6=_set(_granted(grants, 6, special=True)),
        ranges=_set(_granted(grants, 4, special=False)),
        ranges6=_set(_granted(grants, 6, special=False)),
        opened=_set(f'"{name}"' for name in sorted(opened)),
        closed6=_CLOSED6 if closed6 else "",
    )


def _of_family(version: int, ranges: Iterable[str]) -> list[Range]:
    return [found for found in map(ip_network, ranges) if found.version == version]


def _ranges(of: Mapping[str, Sequence[Range]]) -> Iterator[str]:
    """Each key with each of its ranges, which must not overlap in one set."""
    for key, ranges in of.items():
        for part in collapse_addresses(ranges):  # type: ignore[type-var]  # one family
            yield f"{key} . {part}"


def _granted(grants: Mapping[int, Grant], version: int, *, special: bool) -> Iterator[str]:
    """The ranges of each group: those that are special, or those that are not."""
    return _ranges(
        {
            str(group): [found for found in _of_family(version, grant.ranges) if bool(is_special(found)) is special]
            for group, grant in grants.items()
        }
    )


def _ports(grants: Mapping[int, Grant], protocol: str) -> Iterator[str]:
    """Each group's ports, as ranges that do not overlap.

    A set for each protocol: nft 1.0.6 asks the kernel to turn the one byte of `meta l4proto` into network order where
    the set has ranges, which new kernels refuse.
    """
    for group, grant in grants.items():
        last = 0
        for first, end in sorted((first, end) for name, first, end in grant.ports if name == protocol):
            if end > last:
                yield f"{group} . {max(first, last + 1)}-{end}"
                last = end


def _peers(grants: Mapping[int, Grant]) -> Iterator[str]:
    """Both directions of every pair of groups of one user that have "jobs", a group and itself included."""
    members = [(group, grant.user) for group, grant in grants.items() if grant.jobs]
    return (f"{one} . {other}" for one, user in members for other, same in members if user == same)


def _set(values: Iterable[str]) -> str:
    joined = ", ".join(values)
    return f"elements = {{ {joined} }};" if joined else ""
