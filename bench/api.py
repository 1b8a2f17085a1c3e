"""How long the API takes, apart from the scheduler: the real server and client, a service that is all in memory.

    python -m bench.api [--seconds 2]

The server is a process of its own; each client is one, too, and asks again as soon as it has its answer.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from batchns.client.sync import Client
from batchns.wire import types as wire

ROWS = 1000
TEXT = 'name = "train"\ncommand = ["python", "train.py"]\n\n[resources]\ncpus = 2\nmemory = "4GiB"\n'


def serve(folder: Path) -> int:
    """The server's pid; it listens when this returns."""
    child = os.fork()
    if child:
        while not (folder / "api.sock").exists():
            time.sleep(0.01)
        return child
    import trio

    from batchns.daemon.http import Settings
    from batchns.daemon.http import serve as run
    from tests.daemon.http.fake import FakeService

    service = FakeService(ROWS)
    service.asked = Nothing()
    trio.run(run, service, Settings(socket=folder / "api.sock"))
    raise AssertionError


class Nothing(list[object]):
    """Remembers nothing: the service would grow with each question."""

    def append(self, _: object) -> None:
        pass


QUESTIONS: dict[str, Callable[[Client], object]] = {
    f"page of {ROWS} rows": lambda client: client.jobs_page(limit=ROWS),
    "one job": lambda client: client.job("7"),
    "submit": lambda client: client.submit(wire.SubmitRequest(files=(wire.JobFile(text=TEXT),))),
}


def one_client(socket: Path, ask: Callable[[Client], object], seconds: float) -> list[float]:
    """Milliseconds of each question."""
    times = []
    with Client(socket) as client:
        for _ in range(5):
            ask(client)
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            ask(client)
            times.append((time.perf_counter() - begin) * 1000)
    return times


def measure(socket: Path, ask: Callable[[Client], object], clients: int, seconds: float) -> list[float]:
    """Of all clients, sorted."""
    pipes = []
    for _ in range(clients):
        reading, writing = os.pipe()
        if os.fork() == 0:
            try:
                with os.fdopen(writing, "w") as pipe:
                    pipe.write(" ".join(f"{value:.4f}" for value in one_client(socket, ask, seconds)))
            finally:
                os._exit(0)
        os.close(writing)
        pipes.append(reading)
    times: list[float] = []
    for reading in pipes:
        with os.fdopen(reading) as pipe:
            times += map(float, pipe.read().split())
        os.wait()
    return sorted(times)


def main() -> None:
    parser = argparse.ArgumentParser(description="Times of the API, apart from the scheduler.")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each line (2)")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = serve(folder)
        try:
            print(f"{'question':<20}{'clients':>8}{'p50 ms':>9}{'p99 ms':>9}{'per second':>12}")
            for question, ask in QUESTIONS.items():
                for clients in (1, 8):
                    times = measure(folder / "api.sock", ask, clients, seconds)
                    p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
                    print(f"{question:<20}{clients:>8}{p50:>9.2f}{p99:>9.2f}{len(times) / seconds:>12.0f}")
        finally:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)


if __name__ == "__main__":
    main()
