"""What this machine has for the jobs' networks beside links and rules: name servers, IPv6, rates in its own network."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from batchns.kernel import trial
from batchns.kernel.cgroups.detect import own_unified
from batchns.kernel.facts import Fact, Place, Status
from batchns.kernel.network import ipv6, police, resolver
from batchns.kernel.network.addresses import parse_routes

# Not the caller's PATH: what carries a job's network is the system's.
_PROGRAMS = "/usr/bin:/bin:/usr/local/bin"


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


class WayOut(NamedTuple):
    """The program that carries what a user's jobs send, "" where there is none, and then why, and what to type."""

    program: str = ""
    why: str = ""
    hint: str = ""


def way_out(tun: str = "/dev/net/tun", routes: str = "/proc/self/net/route") -> WayOut:
    """pasta(1), where it is installed and can work."""
    program = shutil.which("pasta", path=_PROGRAMS)
    if program is None:
        return WayOut(why="pasta is not installed", hint="apt-get install passt (as root)")
    if not os.access(tun, os.R_OK | os.W_OK):
        return WayOut(why=f"pasta needs {tun}, and you may not open it", hint=f"chmod 666 {tun} (as root)")
    four = any(route.destination == "0.0.0.0/0" for route in parse_routes(Path(routes).read_text()))
    if not four and not ipv6.way_out():
        return WayOut(why="this machine has no default route, so there is no outside", hint="ip route")
    return WayOut(program)


def a_users_network() -> Fact:
    """What jobs of whoever is not root reach."""
    way = way_out()
    if way.program:
        return Fact(
            name="network",
            status=Status.LIMITED,
            found=f"the outside through {way.program}",
            meaning="no rate is held, and jobs do not reach each other",
            hint="sudo batchns run --user $USER FILE",
        )
    return Fact(
        name="network",
        status=Status.LIMITED,
        found=f"loopback only: {way.why}",
        meaning="jobs reach themselves, and there is no rate to limit",
        hint=way.hint,
    )


def rates_in_the_hosts_network() -> Fact:
    """For jobs with mode "host"; all others have shapers on links of their own."""
    name, meaning = "host rates (bpf)", 'egress and ingress have no effect with network mode "host"'
    if own_unified() is None:
        found, _, hint = police.NO_TREE.partition(": ")
        return Fact(name=name, status=Status.LIMITED, found=found, meaning=meaning, hint=hint)

    def load() -> str:
        police.attempt()
        return ""

    outcome = trial.attempt(load)
    if outcome.ok:
        return Fact(name=name, status=Status.OK, found="works")
    hint = "use a kernel with CONFIG_CGROUP_BPF and CONFIG_BPF_SYSCALL"
    return Fact(name=name, status=Status.LIMITED, found=outcome.text, meaning=meaning, hint=hint)
