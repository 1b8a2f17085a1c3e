"""One job's network, on the per-job path: own rtnetlink messages, as few socket writes as possible.

Runs in the job's child process, as host root, before it enters its user namespace. Imports os, socket, struct only.
"""

from __future__ import annotations

from batchns.kernel.network.types import Counters, NetworkPlan


def set_up(plan: NetworkPlan) -> None:
    """Unshare the network namespace, make the veth pair, addresses, routes, neighbours and shapers.

    Raises:
        StepError: step "network: ..." with the object and errno.
    """
    raise NotImplementedError


def counters(host_name: str) -> Counters | None:
    """What went through the job's veth so far; None when the link is gone. Called in the host's namespace."""
    raise NotImplementedError


def shaper_rates(host_name: str) -> int | None:
    """The rate in force on the host end (ingress of the job) in bits per second, None where there is no shaper."""
    raise NotImplementedError
