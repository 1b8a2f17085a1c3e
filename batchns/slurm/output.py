"""What a job writes, from its file: read here where the file system is shared, else on the job's node."""

from __future__ import annotations

import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

from batchns.slurm.tools import Tools

_PIECE = 1 << 16
PAUSE = 0.2  # seconds between two looks at a file
T = TypeVar("T")


class Pieces(Iterator[T], Generic[T]):
    """See `wire.engine.Pieces`. `close`: what ends it."""

    def __init__(self, items: Iterator[T], close: Callable[[], None] = lambda: None) -> None:
        self._items = items
        self.close = close

    def __next__(self) -> T:
        return next(self._items)

    def __enter__(self) -> Pieces[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def last_lines(path: str, lines: int | None) -> tuple[bytes, int]:
    """The end of a file, or all of it, and how far that goes."""
    with open(path, "rb") as file:  # noqa: PTH123
        if lines is None:
            data = file.read()
            return data, len(data)
        kept = b"".join(deque(file, lines)) if lines else b""
        return kept, file.seek(0, os.SEEK_END)


def following(path: str, lines: int | None, over: Callable[[], bool], pause: float = PAUSE) -> Iterator[bytes]:
    """What is in the file and what comes, until the job is over; the file may not be there yet."""
    place: int | None = None
    while True:
        last = over()
        try:
            if place is None:
                data, place = last_lines(path, lines)
                if data:
                    yield data
            with open(path, "rb") as file:  # noqa: PTH123
                file.seek(place)
                while data := file.read(_PIECE):
                    place += len(data)
                    yield data
        except FileNotFoundError:
            pass
        if last:
            return
        time.sleep(pause)


def on_node(tools: Tools, raw: str, path: str, lines: int | None, *, follow: bool) -> Pieces[bytes]:
    """Through a step of the job's own; it ends with the job. A job that Slurm has suspended answers when it goes on."""
    count = "+1" if lines is None else str(lines)
    words = ["srun", f"--jobid={raw}", "--overlap", "--mpi=none", "--ntasks=1", "--quiet", "tail", "-n", count]
    process = subprocess.Popen(
        [*words, *(["-F"] if follow else []), path],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=tools.environment(),
    )
    output = process.stdout
    assert output is not None

    def pieces() -> Iterator[bytes]:
        while data := os.read(output.fileno(), _PIECE):
            yield data

    def close() -> None:
        process.terminate()
        process.wait()
        output.close()

    return Pieces(pieces(), close)
