"""What went through the links of all jobs so far: one look for all of them, in the host's namespace.

1. Bytes from proc_pid_net(5) dev, which takes no lock.
2. Drops from the queueing disciplines on the host's ends, by one dump: what the shapers of what comes in threw away.
3. What a job sends is shaped in its own namespace: a thread goes there to ask, and ends without coming back. No socket
   is kept there, since one would keep the namespace, and with it the job's link, beyond the job's end.

Sources: rtnetlink(7), setns(2), include/uapi/linux/{gen_stats,pkt_sched,rtnetlink}.h.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from typing import TypeVar

from batchns.kernel import syscalls as sys
from batchns.kernel.network.netlink import attributes
from batchns.kernel.network.types import Counters

_RTM_NEWQDISC, _RTM_GETQDISC, _NLMSG_DONE = 36, 38, 3
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_MESSAGE = struct.Struct("=IHHII")  # struct nlmsghdr
_TRAFFIC = struct.Struct("=BxxxiIII")  # struct tcmsg: family, index, handle, parent, info
_TCA_KIND, _TCA_STATS2, _TCA_STATS_QUEUE = 1, 7, 3
_QUEUE = struct.Struct("=IIIII")  # struct gnet_stats_queue: length, backlog, drops, requeues, overlimits
_SHAPER = b"tbf\0"
_LARGEST = 1 << 16

Key = TypeVar("Key")


def links() -> dict[str, Counters]:
    """Of every link, by its name, as the one at the other end sees it."""
    fd = os.open("/proc/thread-self/net/dev", os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(fd, "r") as file:
        lines = file.read().splitlines()[2:]
    found = {}
    for line in lines:
        name, _, numbers = line.partition(":")
        values = numbers.split()
        found[name.strip()] = Counters(sent_bytes=int(values[0]), received_bytes=int(values[8]))
    return found


def drops() -> dict[int, int]:
    """Packets that shapers have dropped, by the link's index, in the namespace of the calling thread.

    Raises:
        OSError: the kernel does not tell.
    """
    found = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asked:
        body = _TRAFFIC.pack(0, 0, 0, 0, 0)
        asked.send(_MESSAGE.pack(_MESSAGE.size + len(body), _RTM_GETQDISC, _DUMP, 1, 0) + body)
        for kind, payload in _answers(asked):
            if kind == _RTM_NEWQDISC:
                index = _TRAFFIC.unpack_from(payload)[1]
                parts = dict(attributes(payload[_TRAFFIC.size :]))
                if parts.get(_TCA_KIND) == _SHAPER and _TCA_STATS2 in parts:
                    queue = dict(attributes(parts[_TCA_STATS2])).get(_TCA_STATS_QUEUE)
                    found[index] = _QUEUE.unpack_from(queue)[2] if queue else 0
    return found


def drops_inside(processes: Mapping[Key, int]) -> dict[Key, int | OSError]:
    """Packets that shapers have dropped in the network namespaces of these processes (pidfds), or why it is not known.

    ESRCH: there is no such process any more. Blocks.
    """
    found: dict[Key, int | OSError] = {}

    def visit() -> None:
        for key, process in processes.items():
            try:
                sys.setns(process, sys.CLONE_NEWNET)
                found[key] = sum(drops().values())
            except OSError as error:
                found[key] = error

    thread = threading.Thread(target=visit, name="batchns-drops")  # its own: it stays where it went last
    thread.start()
    thread.join()
    return found


def _answers(asked: socket.socket) -> Iterator[tuple[int, bytes]]:
    while True:
        data, position = asked.recv(_LARGEST), 0
        while position < len(data):
            length, kind, _, _, _ = _MESSAGE.unpack_from(data, position)
            if kind == _NLMSG_DONE:
                return
            yield kind, data[position + _MESSAGE.size : position + length]
            position += (length + 3) & ~3
