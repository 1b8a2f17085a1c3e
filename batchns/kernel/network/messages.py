"""The rtnetlink requests of one job's network, as pure functions.

1. One function, one message; what it acts on is named in the request for the error message.
2. Names are resolved once, by whoever sends: everything but a link's making takes interface indices.

Sources: rtnetlink(7), include/uapi/linux/{if_link,if_addr,rtnetlink,neighbour,pkt_sched,veth,ip}.h.
"""

from __future__ import annotations

import socket
import struct

from batchns.kernel.network import shaper
from batchns.kernel.network.netlink import (
    NLM_F_CREATE,
    NLM_F_ECHO,
    NLM_F_EXCL,
    Request,
    attribute,
    attributes,
    nested,
    number,
    text,
)

_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_RTM_NEWADDR = 20
_RTM_NEWROUTE = 24
_RTM_NEWNEIGH = 28
_RTM_NEWQDISC, _RTM_GETQDISC = 36, 38

_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, device type, index, flags, which flags
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, lengths, tos, table, protocol, scope, type, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, index, state, flags, type
_TRAFFIC = struct.Struct("=BxxxiIII")  # struct tcmsg: family, index, handle, parent, info

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO = 1, 3, 4, 18
_IFLA_AF_SPEC, _IFLA_GROUP, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 26, 27, 28, 29
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_VETH_INFO_PEER = 1
_IFLA_INET_CONF = 1
_IFLA_INET6_ADDR_GEN_MODE = 8
_NO_LINK_LOCAL_ADDRESS = 1  # IN6_ADDR_GEN_MODE_NONE
_IPV4_DEVCONF_FORWARDING, _IPV4_DEVCONF_RP_FILTER, _IPV4_DEVCONF_ARP_IGNORE = 1, 8, 19
_RTEXT_FILTER_SKIP_STATS = 1 << 3
_IFF_UP = 1

_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD = 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_RT_TABLE_MAIN, _RTPROT_STATIC, _RTN_UNICAST = 254, 4, 1
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT = 0x80
_TC_H_ROOT = 0xFFFFFFFF
_TCA_KIND, _TCA_OPTIONS = 1, 2

_NEW = NLM_F_CREATE | NLM_F_EXCL
_INET, _INET6 = socket.AF_INET, socket.AF_INET6


def new_veth(
    host_name: str, host_mac: str, job_name: str, job_mac: str, *, mtu: int, namespace: int, group: int = 0
) -> Request:
    """A veth pair; the end called `job_name` is born in the network namespace of descriptor `namespace`.

    `group`: the other end's device group.
    """
    peer = _LINK.pack(0, 0, 0, 0, 0) + _link_attributes(job_name, job_mac, mtu) + number(_IFLA_NET_NS_FD, namespace)
    info = nested(
        _IFLA_LINKINFO,
        text(_IFLA_INFO_KIND, "veth"),
        nested(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, peer)),
    )
    member = number(_IFLA_GROUP, group) if group else b""
    body = _LINK.pack(0, 0, 0, 0, 0) + _link_attributes(host_name, host_mac, mtu) + member + info
    return Request("make the veth pair", host_name, _RTM_NEWLINK, _NEW, body)


def _link_attributes(name: str, mac: str, mtu: int) -> bytes:
    return text(_IFLA_IFNAME, name) + attribute(_IFLA_ADDRESS, _mac(mac)) + number(_IFLA_MTU, mtu)


def get_link(name: str) -> Request:
    """Ask for one link, without its statistics; answered with what `index` reads."""
    body = _LINK.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name) + number(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    return Request("look at the link", name, _RTM_GETLINK, 0, body)


def index(answer: bytes) -> int:
    """The interface index in an answer to `get_link`."""
    return int(_LINK.unpack_from(answer)[2])


def link_up(name: str, link: int) -> Request:
    """Bring a link up."""
    return Request("bring the link up", name, _RTM_NEWLINK, 0, _LINK.pack(0, 0, link, _IFF_UP, _IFF_UP))


def keep_quiet(name: str, link: int) -> Request:
    """No IPv6 address of its own: nothing listens to router advertisements or speaks before it is asked to."""
    return Request("switch automatic IPv6 addresses off", name, _RTM_NEWLINK, 0, _settings(link, {}))


def route_for_job(name: str, link: int) -> Request:
    """The host end: forward, take only what would be answered through this very link, answer no ARP."""
    settings = {_IPV4_DEVCONF_FORWARDING: 1, _IPV4_DEVCONF_RP_FILTER: 1, _IPV4_DEVCONF_ARP_IGNORE: 8}
    return Request("set forwarding and the source filter", name, _RTM_NEWLINK, 0, _settings(link, settings))


def _settings(link: int, inet: dict[int, int]) -> bytes:
    quiet = attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_NO_LINK_LOCAL_ADDRESS]))
    families = [nested(socket.AF_INET6, quiet)]
    if inet:
        values = [number(kind, value) for kind, value in inet.items()]
        families.append(nested(_INET, nested(_IFLA_INET_CONF, *values)))
    return _LINK.pack(0, 0, link, 0, 0) + nested(_IFLA_AF_SPEC, *families)


def new_address(address: str, link: int, *, local: bool = False) -> Request:
    """`address` alone (/32, /128) on the link. `local`: never taken as the source of what leaves by other links."""
    family, packed = _packed(address)
    flags = _IFA_F_NODAD if family == _INET6 else 0  # nobody else is on this link to ask
    body = _ADDRESS.pack(family, len(packed) * 8, flags, _SCOPE_LINK if local else _SCOPE_UNIVERSE, link)
    body += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    return Request("add the address", address, _RTM_NEWADDR, _NEW, body)


def new_route(destination: str, link: int, *, via: str = "") -> Request:
    """A route to `destination` (one address, or "default"), on the link itself or via a gateway there."""
    everything = destination == "default"
    scope = _SCOPE_UNIVERSE if via else _SCOPE_LINK
    family, packed = _packed(via if everything else destination)
    length = 0 if everything else len(packed) * 8
    body = _ROUTE.pack(family, length, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, scope, _RTN_UNICAST, 0)
    if not everything:
        body += attribute(_RTA_DST, packed)
    if via:
        body += attribute(_RTA_GATEWAY, _packed(via)[1])
    return Request("add the route", destination, _RTM_NEWROUTE, _NEW, body + number(_RTA_OIF, link))


def new_neighbour(address: str, mac: str, link: int) -> Request:
    """A permanent neighbour entry: nobody is asked who has `address`, and no answer changes it."""
    family, packed = _packed(address)
    body = _NEIGHBOUR.pack(family, link, _NUD_PERMANENT, 0, 0)
    body += attribute(_NDA_DST, packed) + attribute(_NDA_LLADDR, _mac(mac))
    return Request("add the neighbour", address, _RTM_NEWNEIGH, _NEW, body)


def new_shaper(name: str, link: int, rate: int, mtu: int) -> Request:
    """A token bucket filter of `rate` bits per second on what the link sends."""
    body = _TRAFFIC.pack(0, link, 0, _TC_H_ROOT, 0)
    body += text(_TCA_KIND, "tbf") + nested(_TCA_OPTIONS, shaper.options(rate, mtu))
    return Request("add the shaper", name, _RTM_NEWQDISC, _NEW, body)


def get_shaper(name: str, link: int) -> Request:
    """Ask for the queueing discipline of the link; answered with what `shaper_rate` reads.

    Older kernels answer the one who asks only when he wants an echo.
    """
    return Request("look at the shaper", name, _RTM_GETQDISC, NLM_F_ECHO, _TRAFFIC.pack(0, link, 0, _TC_H_ROOT, 0))


def shaper_rate(answer: bytes, mtu: int) -> int | None:
    """The rate in bits per second in an answer to `get_shaper`; None when it is no token bucket filter."""
    found = dict(attributes(answer[_TRAFFIC.size :]))
    if found.get(_TCA_KIND, b"").rstrip(b"\0") != b"tbf":
        return None
    return shaper.rate(found[_TCA_OPTIONS], mtu)


def _packed(address: str) -> tuple[int, bytes]:
    """Family and bytes of an address."""
    family = _INET6 if ":" in address else _INET
    return family, socket.inet_pton(family, address)


def _mac(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
