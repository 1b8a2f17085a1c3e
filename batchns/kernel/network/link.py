"""One job's network, on the per-job path: own rtnetlink messages, as few socket writes as possible.

1. `isolate` and `connect` run in the job's single-threaded first process, as host root, before its user namespace.
2. The namespace holds everything: when its last process ends the kernel removes the link, its routes and shapers.
   Nothing here is ever deleted by hand (deleting a veth blocks for 20 ms).
3. Three writes: the pair, the host's end, the job's end. What the job may send is bounded before it can send.

Little is imported (os, socket, struct, the syscall layer): the launcher carries this module.
"""

from __future__ import annotations

import os

from batchns.errors import StepError
from batchns.kernel import syscalls
from batchns.kernel.network import messages
from batchns.kernel.network.netlink import Request, Socket
from batchns.kernel.network.types import Counters, NetworkPlan, Shapers

_LOOPBACK = 1  # its index in every network namespace
_CLONE_NEWNET = 0x40000000
_TAKEN = "does another batchns use this address? Write a pool of its own under [network] in batchns.toml"


def isolate() -> Socket:
    """Unshare the network namespace, loopback up: all that is the same for every job.

    Returns a socket to the host's side, for `connect`.

    Raises:
        StepError: step "network: ..." with the object and errno.
    """
    host = Socket()
    _unshare()
    with Socket() as inside:
        inside.exchange([messages.link_up("lo", _LOOPBACK)])
    return host


def connect(plan: NetworkPlan, host: Socket) -> Shapers:
    """In mode "private" alone: the veth pair, addresses, routes, neighbours, shapers. `host`: what `isolate` returned.

    Returns the rates in force, read back from the kernel.

    Raises:
        StepError: step "network: ..." with the object and errno. What was made vanishes with the calling process.
    """
    if plan.mode != "private":
        return Shapers()
    namespace = _own_namespace()
    try:
        host_link = _make_pair(host, plan, namespace)
    finally:
        os.close(namespace)
    ingress = _set_up_host_end(host, plan, host_link)
    with Socket() as inside:
        egress = _set_up_job_end(inside, plan)
    return Shapers(egress=egress, ingress=ingress)


def set_up(plan: NetworkPlan) -> Shapers:
    """Both in one go."""
    with isolate() as host:
        return connect(plan, host)


def counters(host_name: str) -> Counters | None:
    """What went through the job's veth so far; None when the link is gone. Called in the host's namespace.

    Bytes of packets with their headers, up to what the shaper has let through. From proc_pid_net(5) dev, which takes no
    lock: an answer by rtnetlink would wait for every link that is being made or removed.
    """
    fd = os.open("/proc/thread-self/net/dev", os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        table = file.read()
    for line in table.splitlines():
        name, _, numbers = line.partition(b":")
        if name.strip() == host_name.encode():
            values = numbers.split()
            return Counters(sent_bytes=int(values[0]), received_bytes=int(values[8]))
    return None


def _unshare() -> None:
    try:
        syscalls.unshare(_CLONE_NEWNET)
    except OSError as error:
        raise StepError("network: make the namespace", "", error.errno or 0) from error


def _own_namespace() -> int:
    path = "/proc/self/ns/net"
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StepError("network: open the namespace", path, error.errno or 0) from error


def _make_pair(host: Socket, plan: NetworkPlan, namespace: int) -> int:
    """The pair; returns the index of the host's end."""
    pair = messages.new_veth(
        plan.host_name,
        plan.host_mac,
        plan.job_name,
        plan.job_mac,
        mtu=plan.mtu,
        namespace=namespace,
        group=plan.group,
    )
    _, answer = host.exchange([pair, messages.get_link(plan.host_name)])
    return messages.index(answer)


def _set_up_host_end(host: Socket, plan: NetworkPlan, link: int) -> int | None:
    """Shaper first, link up, then the way to the job; returns the rate in force."""
    name = plan.host_name
    more = []
    if plan.serves:
        more.append(messages.new_address(plan.gateway, link, local=True))
    if plan.job_address6:
        more.append(messages.new_route(plan.job_address6, link))
        more.append(messages.new_neighbour(plan.job_address6, plan.job_mac, link))
    return _exchange_with_shaper(
        host,
        name,
        link,
        plan.ingress,
        plan.mtu,
        [
            messages.route_for_job(name, link),
            messages.link_up(name, link),
            messages.new_route(plan.job_address, link)._replace(hint=_TAKEN),
            messages.new_neighbour(plan.job_address, plan.job_mac, link),
            *more,
        ],
    )


def _set_up_job_end(inside: Socket, plan: NetworkPlan) -> int | None:
    """Shaper, address, link up, the way out; returns the rate in force."""
    name = plan.job_name
    (answer,) = inside.exchange([messages.get_link(name)])
    link = messages.index(answer)
    more = []
    if plan.job_address6:
        more.append(messages.new_address(plan.job_address6, link))
        more.append(messages.new_neighbour(plan.gateway6, plan.host_mac, link))
        more.append(messages.new_route("default", link, via=plan.gateway6))
    return _exchange_with_shaper(
        inside,
        name,
        link,
        plan.egress,
        plan.mtu,
        [
            messages.keep_quiet(name, link),
            messages.new_address(plan.job_address, link),
            messages.link_up(name, link),
            messages.new_route(plan.gateway, link),
            messages.new_route("default", link, via=plan.gateway),
            messages.new_neighbour(plan.gateway, plan.host_mac, link),
            *more,
        ],
    )


def _exchange_with_shaper(
    where: Socket, name: str, link: int, rate: int | None, mtu: int, requests: list[Request]
) -> int | None:
    """One write: the shaper (where there is one) before everything else, and its rate as the kernel holds it."""
    if rate is None:
        where.exchange(requests)
        return None
    shaper = [messages.new_shaper(name, link, rate, mtu), messages.get_shaper(name, link)]
    return messages.shaper_rate(where.exchange(shaper + requests)[1], mtu)
