"""send.py MBIT: send datagrams for four seconds and compare the rate on the wire with MBIT, within 5 percent."""

import pathlib
import socket
import struct
import sys
import time

WARM_UP, SECONDS = 1.0, 4.0  # the shaper lets a first burst through at once: it is not measured


def gateway() -> str:
    """The next hop of the default route, from /proc/net/route (addresses as hexadecimal numbers)."""
    for line in pathlib.Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == "00000000":
            return socket.inet_ntoa(struct.pack("=I", int(fields[2], 16)))
    sys.exit("this job has no default route")


def sent_bytes() -> int:
    """What left through eth0 so far, as the kernel counts it: column nine of /proc/net/dev."""
    for line in pathlib.Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "eth0":
            return int(numbers.split()[8])
    sys.exit("this job has no eth0")


asked = float(sys.argv[1])
target = (gateway(), 9)  # the discard port
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
# A small buffer, so that a send waits for the shaper instead of filling the shaper's queue, which would drop.
link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
payload = bytes(1400)

begin = time.monotonic()
while time.monotonic() < begin + WARM_UP:
    link.sendto(payload, target)
start, before = time.monotonic(), sent_bytes()
while time.monotonic() < start + SECONDS:
    link.sendto(payload, target)
took, after = time.monotonic() - start, sent_bytes()

rate = (after - before) * 8 / took / 1e6
print(f"sent {(after - before) / 1e6:.2f} MB in {took:.2f} s: {rate:.2f} Mbit/s, asked for {asked:.0f}")
if abs(rate / asked - 1) > 0.05:
    sys.exit("the rate is not the one that was asked for")
