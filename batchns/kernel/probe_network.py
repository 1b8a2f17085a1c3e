"""What this machine has for the jobs' networks beside links and rules: name servers, IPv6, rates in its own network."""

from __future__ import annotations

from batchns.kernel import trial
from batchns.kernel.cgroups.detect import own_unified
from batchns.kernel.facts import Fact, Place, Status
from batchns.kernel.network import ipv6, police, resolver


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
