"""send.py MBIT: send datagrams for four seconds and compare the rate with MBIT, within 5 percent."""

import pathlib
import socket
import statistics
import struct
import sys
import time

# A rate is what TCP can carry as payload in full-size segments: 1448 bytes in each frame of 1514, the rest is headers.
FRAME, PAYLOAD = 1514, 1448
WARM_UP, WINDOW, WINDOWS = 1.0, 0.5, 8  # the shaper lets a first burst through at once: it is not measured


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


def waiting() -> float:
    """Seconds that this process was ready to run and had no CPU: the second number of /proc/self/schedstat."""
    return int(pathlib.Path("/proc/self/schedstat").read_text().split()[1]) / 1e9


asked = float(sys.argv[1])
target = (gateway(), 9)  # the discard port
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
# A small buffer, so that a send waits for the shaper instead of filling the shaper's queue, which would drop.
link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
datagram = bytes(FRAME - 14 - 20 - 8)  # less the headers of Ethernet, IP and UDP


def send_for(seconds: float) -> tuple[float, float]:
    """Send for so long: Mbit/s on the wire, and the seconds that it really took."""
    start, before = time.monotonic(), sent_bytes()
    while time.monotonic() < start + seconds:
        link.sendto(datagram, target)
    took = time.monotonic() - start
    return (sent_bytes() - before) * 8 / took / 1e6, took


send_for(WARM_UP)
stalled = waiting()
windows = [send_for(WINDOW) for _ in range(WINDOWS)]
stalled = waiting() - stalled

# The median, so that a moment in which the machine was busy elsewhere does not count as the shaper's rate.
wire = statistics.median(rate for rate, _ in windows)
mean = sum(rate * took for rate, took in windows) / sum(took for _, took in windows)
rate = wire * PAYLOAD / FRAME
print(f"{wire:.2f} Mbit/s on the wire are {rate:.2f} of TCP payload; asked for {asked:.0f}")
print(f"median of {WINDOWS} windows; mean {mean * PAYLOAD / FRAME:.2f}; {stalled:.2f} s spent waiting for a CPU")
if rate > 1.05 * asked:
    sys.exit("the limit does not hold")
if rate < 0.95 * asked:
    # A sender without a CPU is slow under any shaper: then a low rate says nothing of the limit, and is not a failure.
    if stalled < WINDOWS * WINDOW / 2:
        sys.exit("the rate is lower than what was asked for")
    print("too slow, and more than half of the time without a CPU: this machine is too busy to tell")
