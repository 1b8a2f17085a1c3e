"""What jobs, the outside and the host do in network tests. Listening sockets stay open between two calls."""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from contextlib import suppress
from typing import Any

from pyroute2 import IPRoute

_open: dict[tuple[str, int], socket.socket] = {}

PATIENCE = 1.0  # seconds after which an answer that has not come counts as none


def listen(kind: str, port: int, address: str = "") -> None:
    """Listen on TCP or UDP, every IPv4 (or, for "::", IPv6) address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((address, port))
    sock.settimeout(PATIENCE)
    if kind == "tcp":
        sock.listen(8)
    _open[kind, port] = sock


def close_all() -> None:
    """Close what `listen` has opened: a socket keeps its network namespace."""
    while _open:
        _open.popitem()[1].close()


def accept(port: int) -> str | None:
    """Who has connected; None: nobody."""
    try:
        connection, peer = _open["tcp", port].accept()
    except TimeoutError:
        return None
    connection.close()
    return str(peer[0])


def receive(port: int) -> tuple[bytes, str] | None:
    """The next datagram and its sender; None: there is none."""
    try:
        data, peer = _open["udp", port].recvfrom(2048)
    except TimeoutError:
        return None
    return data, str(peer[0])


def connect(address: str, port: int) -> str:
    """ "connected", or the name of the error."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        try:
            sock.connect(socket.getaddrinfo(address, port, family)[0][4])
        except TimeoutError:
            return "timeout"
        except OSError as error:
            return errno.errorcode[error.errno or 0]
    return "connected"


def connect_at_last(address: str, port: int) -> str:
    """The same for a door that is open: on a busy machine the first answers may take longer than `PATIENCE`."""
    end = time.monotonic() + 15
    while (answer := connect(address, port)) != "connected" and time.monotonic() < end:
        time.sleep(0.05)
    return answer


def send_datagram(address: str, port: int, data: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(data, (address, port))


def send_from(source: str, address: str, port: int, data: bytes) -> None:
    """A datagram with a source address of one's choice. Needs CAP_NET_RAW."""
    udp = struct.pack("!HHHH", 40000, port, 8 + len(data), 0) + data
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(address)
    )
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        sock.sendto(ip + udp, (address, 0))


def path_mtu(address: str) -> int:
    """The MTU of the path to `address`, as a datagram of 1400 bytes that nobody may fragment finds it."""
    ip_mtu_discover, do, ip_mtu = 10, 2, 14  # include/uapi/linux/in.h
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, ip_mtu_discover, do)
        sock.connect((address, 9))
        sock.send(bytes(1400))
        time.sleep(0.2)
        return sock.getsockopt(socket.IPPROTO_IP, ip_mtu)


def pour(address: str, port: int, seconds: float) -> None:
    """Connect and send as much as goes through."""
    with socket.create_connection((address, port), timeout=10) as sock:
        _pour(sock, seconds)


def accept_and_pour(port: int, seconds: float) -> None:
    """Wait for a connection and send as much as goes through."""
    connection, _ = _open["tcp", port].accept()
    with connection:
        connection.settimeout(10)
        _pour(connection, seconds)


def connect_and_measure(address: str, port: int, ramp: float, window: float) -> float:
    """Connect and receive: TCP goodput in bits per second, over `window` seconds after `ramp` seconds."""
    with socket.create_connection((address, port), timeout=10) as sock:
        return _measure(sock, ramp, window)


def accept_and_measure(port: int, ramp: float, window: float) -> float:
    """The same for the one who connects."""
    _open["tcp", port].settimeout(10)
    connection, _ = _open["tcp", port].accept()
    with connection:
        connection.settimeout(10)
        return _measure(connection, ramp, window)


def accept_and_count(port: int) -> int:
    """How many bytes the one who connects sends until he closes."""
    connection, _ = _open["tcp", port].accept()
    total = 0
    with connection:
        while part := connection.recv(1 << 16):
            total += len(part)
    return total


def send_bytes(address: str, port: int, count: int) -> None:
    with socket.create_connection((address, port), timeout=10) as sock:
        sock.sendall(bytes(count))
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)  # until the other side has everything and closes


def swallow(port: int, seconds: float) -> None:
    """Take what all who connect send, for so long."""
    end = time.monotonic() + seconds
    sockets = [_open["tcp", port]]
    while time.monotonic() < end:
        for ready in select.select(sockets, (), (), 0.1)[0]:
            if ready is _open["tcp", port]:
                sockets.append(ready.accept()[0])
            elif not ready.recv(1 << 20):
                sockets.remove(ready)
                ready.close()


def flood(address: str, port: int, seconds: float) -> int:
    """Datagrams as fast as they go, without a stop for an error: how many bytes."""
    sent = 0
    end = time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        while time.monotonic() < end:
            sent += sock.sendto(bytes(1400), (address, port))
    return sent


def _pour(sock: socket.socket, seconds: float) -> None:
    block = bytes(1 << 16)
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            sock.send(block)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the one who measures has seen enough


def _measure(sock: socket.socket, ramp: float, window: float) -> float:
    buffer = bytearray(1 << 20)
    start = time.monotonic()
    while time.monotonic() < start + ramp:
        assert sock.recv_into(buffer)
    begin = time.monotonic()
    count = 0
    while (now := time.monotonic()) < begin + window:
        part = sock.recv_into(buffer)
        assert part, "the sender stopped too early"
        count += part
    return count * 8 / (now - begin)


def add_address(name: str, address: str, prefix: int) -> None:
    with IPRoute() as ipr:
        index = ipr.link_lookup(ifname=name)[0]
        ipr.addr("add", index=index, address=address, prefixlen=prefix, flags=0x02)  # IFA_F_NODAD


def add_route(destination: str, via: str) -> None:
    with IPRoute() as ipr:
        ipr.route("add", dst=destination, gateway=via)


def look(name: str) -> dict[str, Any]:
    """All that pyroute2 knows of a link: the oracle for what our own messages have made."""
    with IPRoute() as ipr:
        index = ipr.link_lookup(ifname=name)[0]
        link = ipr.get_links(index)[0]
        return {
            "state": link.get_attr("IFLA_OPERSTATE"),
            "mac": link.get_attr("IFLA_ADDRESS"),
            "mtu": link.get_attr("IFLA_MTU"),
            "addresses": [(entry.get_attr("IFA_ADDRESS"), entry["prefixlen"]) for entry in ipr.get_addr(index=index)],
            "routes": sorted(
                (entry.get_attr("RTA_DST") or "default", entry["dst_len"], entry.get_attr("RTA_GATEWAY"))
                for entry in ipr.get_routes(family=socket.AF_INET, table=254)
                if entry.get_attr("RTA_OIF") == index
            ),
            "neighbours": [
                (entry.get_attr("NDA_DST"), entry.get_attr("NDA_LLADDR"), entry["state"])
                for entry in ipr.get_neighbours(family=socket.AF_INET, ifindex=index)
            ],
            "qdiscs": [entry.get_attr("TCA_KIND") for entry in ipr.get_qdiscs(index)],
            "links": sorted(entry.get_attr("IFLA_IFNAME") for entry in ipr.get_links()),
        }


def send_numbered(address: str, port: int, seconds: float) -> int:
    """Numbered datagrams, 50 us apart where the machine is quick enough, also where they are refused: how many."""
    now, number = time.monotonic(), 0
    end, due = now + seconds, now
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        while now < end:
            if now >= due:
                with suppress(OSError):
                    sock.sendto(struct.pack("!I", number), (address, port))
                number += 1
                due = now + 50e-6
            now = time.monotonic()
    return number


def collect_numbers(port: int, quiet: float) -> list[int]:
    """The numbers that come, until there are none for so many seconds. None is lost for want of room."""
    sock = _open["udp", port]
    sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE, include/uapi/asm-generic/socket.h
    sock.settimeout(quiet)
    numbers = []
    with suppress(TimeoutError):
        while True:
            numbers.append(struct.unpack("!I", sock.recv(64))[0])
    return numbers


def echo_stream(port: int) -> int:
    """Send back what the one who connects sends, until he closes: how much had to be sent again."""
    _open["tcp", port].settimeout(10)
    connection, _ = _open["tcp", port].accept()
    with connection:
        connection.settimeout(10)
        while part := connection.recv(4096):
            connection.sendall(part)
        return _sent_again(connection)


def ask_and_wait(address: str, port: int, seconds: float) -> tuple[int, int]:
    """One connection that asks and waits for its answer, again and again: how often, how much had to be sent again."""
    end, times = time.monotonic() + seconds, 0
    with socket.create_connection((address, port), timeout=10) as sock:
        while time.monotonic() < end:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            times += 1
            time.sleep(0.0005)
        return times, _sent_again(sock)


def _sent_again(sock: socket.socket) -> int:
    """tcpi_total_retrans of struct tcp_info, include/uapi/linux/tcp.h."""
    return int(struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0])
