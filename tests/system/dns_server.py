"""A name server with one name, in a network namespace of its own: `dns_server.py INTERFACE ADDRESS...`.

It waits for the interface to be given to it, prints "ready", then every name that it is asked for.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import subprocess
import sys
import time

NAME = "service.batchns.test"
ADDRESS = "203.0.113.7"
_A, _AAAA, _NXDOMAIN = 1, 28, 3


def answer(query: bytes) -> tuple[str, bytes]:
    """(the name asked for, the answer). RFC 1035, 4.1: a header of six numbers, one question, at most one answer."""
    (number,) = struct.unpack_from("!H", query)
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode())
        at += 1 + length
    name = ".".join(labels)
    (kind,) = struct.unpack_from("!H", query, at + 1)
    known = name.lower() == NAME
    records = b""
    if known and kind == _A:
        records = struct.pack("!HHHIH", 0xC00C, _A, 1, 60, 4) + socket.inet_aton(ADDRESS)
    flags = 0x8580 | (0 if known else _NXDOMAIN)
    header = struct.pack("!HHHHHH", number, flags, 1, 1 if records else 0, 0, 0)
    return name, header + query[12 : at + 5] + records


def main(interface: str, *addresses: str) -> None:
    end = time.monotonic() + 30
    while not os.path.exists(f"/proc/self/net/dev_snmp6/{interface}") and time.monotonic() < end:
        time.sleep(0.01)
    selector = selectors.DefaultSelector()
    for address in addresses:
        six = ":" in address
        length = "64" if six else "24"
        subprocess.run(
            ["ip", "address", "add", f"{address}/{length}", "dev", interface, *(["nodad"] if six else [])], check=True
        )
    subprocess.run(["ip", "link", "set", interface, "up"], check=True)
    for address in addresses:
        server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((address, 53))
        selector.register(server, selectors.EVENT_READ, server)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            query, client = key.data.recvfrom(4096)
            name, reply = answer(query)
            print(name, flush=True)
            key.data.sendto(reply, client)


if __name__ == "__main__":
    main(*sys.argv[1:])
