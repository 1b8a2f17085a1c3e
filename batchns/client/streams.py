"""Answers that go on: what the client without an event loop reads and writes bit by bit."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

from batchns.client.answers import Answer
from batchns.client.errors import Lost, broken, slow
from batchns.client.requests import ended, refusal
from batchns.wire import frames

T = TypeVar("T")


class Stream(Iterator[T], Generic[T]):
    """Items of an answer that has no end yet. Use it in a `with`, or call `close`, which ends the iteration.

    Iterating raises `Lost` where the daemon goes away or stops before the end.
    """

    def __init__(self, connection: socket.socket, answer: Answer, read: Callable[[bytes], Iterator[T]]) -> None:
        self._connection = connection
        self._answer = answer
        self._read = read
        self._items: Iterator[T] = iter(())
        self._open = True
        self.begins = answer.begins

    def __next__(self) -> T:
        while self._open:
            for item in self._items:
                return item
            try:
                data = self._answer.piece()
            except OSError as error:
                self.close()
                raise lost(error) from None
            self._items = self._read(data)
            if not data:
                self.close()
        raise StopIteration

    def close(self) -> None:
        self._open = False
        self._connection.close()

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Execution:
    """A process in a job. It is killed when its connection closes before it has ended.

    `fileno` is readable when `read` has something to say: for select. Where `write`, `resize` or `signal` are told not
    to `wait`, what the connection does not take is `unsent`: `flush` is due when `fileno` is writable. Whoever waits
    while the process waits for its output to be read waits for ever.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._unsent = bytearray()
        self._end: tuple[int | None, int | None] | None = None

    def fileno(self) -> int:
        return self._connection.fileno()

    def read(self) -> tuple[str, bytes] | None:
        """The next piece of ("stdout" or "stderr"), as it comes; None: it has ended, see `wait`."""
        while self._end is None:
            try:
                kind, length = frames.opened(self._exactly(frames.HEADER.size))
                payload = self._exactly(length)
            except OSError as error:
                raise lost(error) from None
            if kind in frames.OUTPUTS:
                return frames.OUTPUTS[kind], payload
            if kind == frames.FAILURE:
                raise refusal(0, payload)
            if kind == frames.END:
                self._end = ended(payload)
        return None

    def _exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = self._connection.recv(length - len(data))
            if not piece:
                raise ConnectionResetError("closed before the process had ended")
            data += piece
        return bytes(data)

    @property
    def unsent(self) -> bool:
        """There is something for `flush`."""
        return bool(self._unsent)

    def write(self, data: bytes, *, wait: bool = True) -> None:
        """To its stdin; b"" closes it. No error once it has ended."""
        for frame in frames.stdin(data):
            self._send(frame, wait)

    def resize(self, rows: int, columns: int, *, wait: bool = True) -> None:
        """Its terminal has another size."""
        self._send(frames.resize(rows, columns), wait)

    def signal(self, number: int, *, wait: bool = True) -> None:
        self._send(frames.frame(frames.SIGNAL, bytes([number])), wait)

    def flush(self) -> None:
        """Send what the connection takes, without waiting."""
        with suppress(BlockingIOError), self._as_far_as_it_is_heard():
            del self._unsent[: self._connection.send(self._unsent, socket.MSG_DONTWAIT)]

    def _send(self, frame: bytes, wait: bool) -> None:
        self._unsent += frame
        if not wait:
            self.flush()
            return
        with self._as_far_as_it_is_heard():
            self._connection.sendall(self._unsent)
            self._unsent.clear()

    @contextmanager
    def _as_far_as_it_is_heard(self) -> Iterator[None]:
        try:
            yield
        except (BrokenPipeError, ConnectionResetError):  # `read` tells
            self._unsent.clear()

    def wait(self) -> tuple[int | None, int | None]:
        """(exit code, signal), one of them None; both None where it was killed with its job. Drops output not read."""
        while self.read() is not None:
            pass
        assert self._end is not None
        return self._end

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Execution:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lost(error: Exception) -> Lost:
    return slow() if isinstance(error, TimeoutError) else broken()
