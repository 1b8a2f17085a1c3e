"""One node's part of a job of several nodes: srun starts it there, and by srun's streams it talks to the first node.

    standard input    the job, then numbers of signals, each on a line: all nodes get the same
    standard output   what has become of it, for `nodes`

What the command writes goes to the job's files on the first node, and on node N to files with .N behind their names.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from batchns.supervise.batch.results import Result

PIECE = 600  # characters: srun keeps lines apart that are shorter than 1 KiB


def say(channel: int, rank: int, told: Mapping[str, Any]) -> None:
    """JSON in lines "RANK - PIECE" of base64, the last of them "RANK . PIECE"."""
    text = base64.b64encode(json.dumps(told, separators=(",", ":")).encode()).decode()
    pieces = [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
    lines = [f"{rank} {'.' if piece is pieces[-1] else '-'} {piece}\n" for piece in pieces]
    data = "".join(lines).encode()
    while data:
        data = data[os.write(channel, data) :]


class Heard:
    """What `say` has said, put together again."""

    def __init__(self) -> None:
        self._rest = b""
        self._pieces: dict[int, str] = {}

    def messages(self, data: bytes) -> list[tuple[int, dict[str, Any]]]:
        """Those that are complete with `data`, each with its rank. What is none is skipped."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        found = []
        for line in lines:
            rank, mark, piece = [*line.decode(errors="replace").split(" "), "", ""][:3]
            if not rank.isdecimal() or mark not in (".", "-"):
                continue
            self._pieces[int(rank)] = self._pieces.get(int(rank), "") + piece
            if mark == ".":
                try:
                    found.append((int(rank), json.loads(base64.b64decode(self._pieces.pop(int(rank))))))
                except ValueError:
                    continue
        return found


class Told(Result):
    """A result that is told to the first node, which writes the file."""

    def __init__(self, channel: int, rank: int, values: dict[str, Any]) -> None:
        super().__init__("", values)
        self._channel = channel
        self._rank = rank

    def end(self, state: str, **values: Any) -> None:
        super().end(state, **values, over=True)

    def _write(self, *, sync: bool) -> None:
        with suppress(OSError):  # the first node is gone, and Slurm ends what is left
            say(self._channel, self._rank, {**self.values, "happened": []})


class Orders:
    """Numbers of signals from the first node; its end is one to end."""

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._rest = b""
        os.set_blocking(channel, False)

    def fileno(self) -> int:
        return self._channel

    def first(self) -> dict[str, Any]:
        """The job.

        Raises:
            ValueError: there is none.
        """
        os.set_blocking(self._channel, True)
        while b"\n" not in self._rest:
            data = os.read(self._channel, 1 << 16)
            if not data:
                raise ValueError("no job has come from its first node")
            self._rest += data
        os.set_blocking(self._channel, False)
        line, _, self._rest = self._rest.partition(b"\n")
        content: dict[str, Any] = json.loads(line)
        return content

    def numbers(self) -> list[int]:
        try:
            data = os.read(self._channel, 1 << 12)
        except BlockingIOError:
            data = b""
        else:
            if not data:
                self._be_quiet()
                return [signal.SIGTERM]
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [int(line) for line in lines if line.isdigit()]

    def _be_quiet(self) -> None:
        """Nothing comes any more: in the same place there is a pipe that nobody writes to."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.dup2(reading, self._channel, inheritable=False)
        os.close(reading)
        os.set_inheritable(writing, False)  # it stays open: an end would be heard again and again


def set_up(environ: Mapping[str, str]) -> tuple[dict[str, Any], Orders, Told]:
    """The job, its orders and its result; standard streams are the command's from now on.

    Raises:
        OSError: its files cannot be written to.
        ValueError: there is no job.
    """
    rank = int(environ["SLURM_NODEID"])
    orders = Orders(os.dup(0))
    channel = os.dup(1)
    content = orders.first()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    so_far = {"state": "PENDING", "attempts": content["attempt"] - 1, "failures": 0, "happened": []}
    told = Told(channel, rank, {**so_far, "limits": {}, "usage": {}, "host": environ.get("SLURMD_NODENAME", "")})
    try:
        for number, path in enumerate(content["outputs"], 1):
            special = os.path.exists(path) and not os.path.isfile(path)  # /dev/null
            name = path if rank == 0 or special else f"{path}.{rank}"
            file = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.dup2(file, number)
            os.close(file)
    except OSError as error:
        told.end("FAILED", reason=f"{error.filename}: {error.strerror}", ended=time.time())
        raise
    return content, orders, told
