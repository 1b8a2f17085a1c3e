"""The program nft: one script is one transaction. And what other firewalls of this machine do to jobs' packets.

It takes 10 to 30 ms, and blocks for as long. nft(8).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

from batchns.errors import HostError
from batchns.kernel.network.addresses import PREFIX

# Not the caller's PATH: this runs as root.
_PROGRAMS = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
_SECONDS = 20.0


def load(script: str) -> None:
    """Run a script of nft commands as one transaction.

    Raises:
        HostError: there is no nft, it refuses, or it does not come to an end; nothing has changed.
    """
    _nft("-f", "-", script=script)


def listed(table: str) -> list[dict[str, Any]]:
    """The table (as "inet name") as nft shows it in JSON; nothing where there is none.

    Raises:
        HostError: as `load`.
    """
    try:
        entries: list[dict[str, Any]] = json.loads(_nft("-j", "list", "table", *table.split()))["nftables"]
    except HostError as error:
        if "No such file" in str(error):
            return []
        raise
    return entries


def problems() -> list[str]:
    """What keeps jobs in mode "private" from reaching the outside here, each "what - what to type". For doctor."""
    try:
        chains = json.loads(_nft("-j", "list", "chains"))
    except HostError as error:
        return [str(error)]
    found = []
    for entry in chains["nftables"]:
        chain = entry.get("chain", {})
        if chain.get("hook") != "forward" or chain.get("policy") != "drop" or chain["family"] not in ("ip", "inet"):
            continue
        # Rules about the jobs' interfaces in that table: the administrator has seen to it.
        if f'"{PREFIX}*"' not in _nft("list", "table", chain["family"], chain["table"]):
            found.append(_forward_drop(f"{chain['family']} {chain['table']}", chain["name"]))
    return found


def _forward_drop(table: str, chain: str) -> str:
    """A foreign chain that drops what it does not know, as Docker's does, and how to let the jobs pass."""
    what = f"the firewall chain '{table} {chain}' drops forwarded packets, those of jobs too"
    if (table, chain) == ("ip filter", "FORWARD"):
        commands = (
            f"iptables -I FORWARD -i {PREFIX}+ -j ACCEPT",
            f"iptables -I FORWARD -o {PREFIX}+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        )
    else:
        commands = (
            f"nft insert rule {table} {chain} iifname '\"{PREFIX}*\"' accept",
            f"nft insert rule {table} {chain} oifname '\"{PREFIX}*\"' ct state established,related accept",
        )
    return f"{what} - {'; '.join(commands)}"


def _nft(*arguments: str, script: str = "") -> str:
    """What nft prints.

    Raises:
        HostError: there is no nft, it refuses, or it does not come to an end.
    """
    program = shutil.which("nft", path=_PROGRAMS)
    if program is None:
        raise HostError(
            'the program nft is not installed; jobs with network.mode = "private" need it', "apt-get install nftables"
        )
    try:
        done = subprocess.run(
            [program, *arguments],
            input=script,
            capture_output=True,
            text=True,
            env={"LC_ALL": "C"},
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise HostError(f"nft: no answer within {_SECONDS:.0f} s", "see what holds it up: ps -C nft") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise HostError(
            f"nft: {said[0]}", "batchns must run as root, on a kernel with nf_tables, conntrack, NAT and fib"
        )
    return done.stdout
