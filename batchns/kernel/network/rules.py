"""The text of the firewall: what nft gets on its standard input. Pure.

1. One table, by interface prefix: no rule is ever made or removed for one job.
2. What is not allowed is dropped: in a table of one's own only a drop is final, an accept leaves it to others.
3. A script replaces the whole table in one transaction, so there is no moment without rules.

Sources: nft(8), wiki.nftables.org "Netfilter hooks".
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import collapse_addresses

from batchns.kernel.network.addresses import PREFIX, network

TABLE = "batchns"

_RULES = """\
table inet {table} {{
    set pools {{
        type ipv4_addr
        flags interval
        {pools}
    }}
    set opened {{
        type ifname
        {opened}
    }}
    chain source {{
        comment "a job sends IPv4 with its own address, or nothing"
        type filter hook prerouting priority raw
        iifname "{prefix}*" meta nfproto != ipv4 drop
        iifname "{prefix}*" fib saddr . iif oif missing drop
    }}
    chain input {{
        comment "no service of the host is there for jobs"
        type filter hook input priority filter
        iifname "{prefix}*" drop
    }}
    chain forward {{
        type filter hook forward priority filter
        iifname "{prefix}*" jump from_job
        oifname "{prefix}*" jump to_job
        iifname @opened ct state != {{ established, related }} drop comment "no router for others"
    }}
    chain output {{
        type filter hook output priority filter
        oifname "{prefix}*" jump to_job
    }}
    chain from_job {{
        oifname "{prefix}*" drop
        ip daddr @pools drop comment "an address that no job has: nobody outside may answer for it"
        ip daddr 169.254.0.0/16 drop comment "cloud metadata"
        ct status dnat drop comment "a service of the host that lives behind a port forwarding"
        ip saddr @pools accept
        drop
    }}
    chain to_job {{
        ct state {{ established, related }} accept
        drop
    }}
    chain nat {{
        type nat hook postrouting priority srcnat
        ip saddr @pools oifname != "{prefix}*" masquerade
    }}
}}
"""

# Deleting a table that is not there would fail, making one that is there does not.
REMOVE = f"add table inet {TABLE}\ndelete table inet {TABLE}\n"


def render(pools: Iterable[str], opened: Iterable[str]) -> str:
    """The script that puts the table in place of whatever was there.

    `pools`: networks whose jobs reach the outside. `opened`: interfaces that forward only because batchns asked them
    to, so that nothing but the jobs' traffic may use that.
    """
    networks = collapse_addresses(network(pool) for pool in pools)
    return REMOVE + _RULES.format(
        table=TABLE,
        prefix=PREFIX,
        pools=_elements(str(entry) for entry in networks),
        opened=_elements(f'"{name}"' for name in sorted(opened)),
    )


def _elements(values: Iterable[str]) -> str:
    joined = ", ".join(values)
    return f"elements = {{ {joined} }}" if joined else ""
