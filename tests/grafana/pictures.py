"""The pictures of docs/dashboards: `python -m tests.grafana.pictures`, or `make pictures`.

A daemon, its jobs and a Prometheus, all real; what its dashboards show of these jobs, drawn from Prometheus' answers.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from grafana.source.drawing import draw

from ..alone import alone
from ..daemon.live import live
from ..people import users, way_for_all
from .known import BOARDS
from .scene import Scene, settings
from .server import free_port, prometheus

FOLDER = Path(__file__).parents[2] / "docs/dashboards"
FROZEN = 40.0  # seconds for which a job makes room
JOB = "render"  # whose dashboard is drawn
PAUSED = 15.0  # seconds for which its owner freezes it
RENDER = """
name = "render"
command = ["python3", "-c", '''
import mmap, os, socket, time
disk = os.open(os.path.realpath("/usr/bin/python3"), os.O_RDONLY | os.O_DIRECT)
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
piece, held, turn = mmap.mmap(-1, 1 << 20), [], 0
while True:
    turn += 1
    end = time.process_time() + 0.008
    while time.process_time() < end: pass
    os.preadv(disk, [piece], turn % 5 << 20)
    for _ in range(50): out.sendto(bytes(1400), ("169.254.1.1", 9))  # its gateway: no packet leaves the machine
    if turn % 8 == 0 and len(held) < 70: held.append(bytearray(1 << 20))
    time.sleep(0.08)
''']
resources = { cpus = 0.1, memory = "96MiB" }
network = { egress = "8mbit", ingress = "8mbit" }
"""


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    at = f"127.0.0.1:{free_port()}"
    with (
        alone(),
        way_for_all(),
        users(ada=31001, bob=31002),
        live(settings(at)) as daemon,
        tempfile.TemporaryDirectory() as folder,
        prometheus(Path(folder), at) as server,
    ):
        scene = Scene(daemon)
        scene.submit(RENDER, "ada")

        def pause() -> None:
            time.sleep(5)
            daemon("freeze", scene.ids[JOB], user="ada")
            time.sleep(PAUSED)
            daemon("thaw", scene.ids[JOB], user="ada")

        scene.play(frozen=FROZEN, until=pause)
        time.sleep(20)
        for name, board in BOARDS.items():
            values = {
                "job": "batchns",
                "instance": at,
                "queue": ".*",
                "user": ".*",
                "job_id": scene.ids[JOB],
                "window": "30s",
                "__rate_interval": "5s",
                "datasource": "prometheus",
            }
            draw(board, server, values, scene.begun, time.time(), FOLDER / f"{name}.png")
            print(FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
