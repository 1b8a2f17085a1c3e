"""Jobs of two users in two queues that give every panel something to show: what each does is in its name."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from attrs import field, frozen

from batchns.client.errors import ApiError

from ..daemon.live import Live

HELD = 100 << 20  # bytes that the job "hold" holds
RATE = 20e6 / 8  # bytes per second that the job "send" may send
PREEMPTED = 10.0  # seconds after which the urgent job comes

SETTINGS = """
[node]
cpus = "0-1"
memory = "1GiB"
egress = "1gbit"
ingress = "1gbit"
[schedule]
learn = false
min_run = "0s"
[queues.urgent]
priority = 90
preempts = ["normal"]
[metrics]
listen = "AT"
linger = "10m"
"""
ADA = f"""
[[job]]
name = "spin"
script = "while :; do :; done"
resources = {{ cpus = 0.4, memory = "32MiB" }}
network.mode = "none"

[[job]]
name = "hold"
command = ["python3", "-c", "import time; held = bytearray({HELD}); time.sleep(3600)"]
resources = {{ cpus = 0.1, memory = "160MiB" }}
network.mode = "none"

[[job]]
name = "victim"
command = ["python3", "-c", "held = bytearray(40 << 20)\\nwhile True: pass"]
resources = {{ cpus = 1, cpuset = "1", memory = "128MiB" }}
network.mode = "none"

[[job]]
name = "freeze"
script = "while sleep 0.1; do :; done"
resources = {{ cpus = 0.1, memory = "32MiB" }}
network.mode = "none"

[[job]]
name = "oom"
command = ["python3", "-c", "held = []\\nwhile True: held.append(bytearray(1 << 20))"]
resources = {{ cpus = 0.1, memory = "32MiB" }}
network.mode = "none"
"""
BOB = f"""
[[job]]
name = "send"
command = ["python3", "-c", '''
import socket
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
while True: out.sendto(bytes(1400), ("169.254.1.1", 9))  # its gateway: no packet leaves the machine
''']
resources = {{ cpus = 0.1, memory = "32MiB" }}
network = {{ egress = "{RATE * 8 / 1e6:.0f}mbit", ingress = "20mbit" }}

[[job]]
name = "disk"
script = "while sleep 0.2; do dd if=$(readlink -f /usr/bin/python3) of=/dev/null bs=64k count=64 iflag=direct; done"
resources = {{ cpus = 0.1, memory = "32MiB" }}
network.mode = "none"

[[job]]
name = "short"
script = "sleep 0.3"
array = "0-9"
resources = {{ cpus = 0.1, memory = "32MiB" }}
network.mode = "none"

[[job]]
name = "wrong"
script = "exit 3"
resources = {{ cpus = 0.1, memory = "32MiB" }}
network.mode = "none"

[[job]]
name = "late"
script = "exit 0"
begin = "+6s"
resources = {{ cpus = 0.1, memory = "32MiB" }}
network.mode = "none"

[[job]]
name = "urgent"
queue = "urgent"
begin = "+{PREEMPTED:.0f}s"
script = "sleep LONG"
resources = {{ cpus = 1, cpuset = "1", memory = "32MiB" }}
network.mode = "none"
"""
BIG = """
name = "big"
priority = 10
script = "exit 0"
resources = { cpus = 2, memory = "32MiB" }
network.mode = "none"
"""


@frozen
class Scene:
    """`ids`: of jobs by name, arrays left out. `begun`: seconds since the epoch."""

    daemon: Live
    begun: float = field(factory=time.time)
    ids: dict[str, str] = field(factory=dict)

    def submit(self, text: str, user: str) -> None:
        ran = self.daemon("submit", "--parsable", "-", user=user, given=text)
        assert ran.code == 0, ran
        for job_id in ran.stdout.split():
            with self.daemon.client() as client:
                job = next((job for job in client.jobs(ended=True) if job.id == job_id), None)
            if job is not None:
                self.ids[job.name] = job_id

    def play(self, *, frozen: float = 8.0, until: Callable[[], object] = lambda: None) -> None:
        """All of it, up to the thaw of the job that was preempted. `frozen`: seconds, of that one."""
        self.submit(ADA, "ada")
        self.submit(BOB.replace("LONG", f"{frozen:.0f}"), "bob")
        self.daemon.over(self.ids["oom"])
        self.daemon.over(self.ids["wrong"])
        self.daemon("freeze", self.ids["freeze"], user="ada")
        self.daemon.until(self.ids["freeze"], "SUSPENDED")
        with self.daemon.client() as client, contextlib.suppress(ApiError):
            client.job("99999")
        self.daemon("ps", user="bob")
        self.daemon.until(self.ids["victim"], "SUSPENDED", seconds=60)
        self.submit(BIG, "bob")
        until()
        self.daemon.over(self.ids["urgent"], seconds=frozen + 60)
        self.daemon.until(self.ids["victim"], "RUNNING")


def settings(at: str) -> str:
    """`at`: where the metrics are served."""
    return SETTINGS.replace("AT", at)
