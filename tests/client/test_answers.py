"""Answers of HTTP, however their bytes come in."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchns.client.answers import Answer

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def answer(*pieces: bytes, exact: bool = False) -> tuple[Answer, socket.socket]:
    """Of what is sent in these pieces, after which the connection is closed."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    here.settimeout(5)

    def send() -> None:
        with there, suppress(BrokenPipeError):  # who has read enough closes
            for piece in pieces:
                there.sendall(piece)

    threading.Thread(target=send, daemon=True).start()  # a socket takes only so many pieces before some are read
    return Answer(here, exact=exact), here


@given(st.lists(st.binary(min_size=1, max_size=30)), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_chunks_come_out_as_they_went_in(chunks: list[bytes], step: int) -> None:
    data = CHUNKED + b"".join(b"%x;ext=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nA: b\r\n\r\n"
    got, connection = answer(*(data[start : start + step] for start in range(0, len(data), step)))
    with connection:
        assert got.read() == b"".join(chunks)
        assert got.piece() == b""


def test_a_length_is_believed_and_no_byte_more_taken_for_the_body() -> None:
    got, connection = answer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabcdef")
    with connection:
        assert (got.status, got.read(), got.last) == (404, b"abc", True)


def test_exactly_the_head_is_taken_where_something_else_follows() -> None:
    _, connection = answer(b"HTTP/1.1 101 \r\nUpgrade: x\r\n\r\nframes", exact=True)
    with connection:
        assert connection.recv(100) == b"frames"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"A" * 100_000,
        b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nabc",
        CHUNKED + b"5\r\nabc",
        CHUNKED + b"3\r\nabc\r\n",
        CHUNKED + b"x\r\n",
        CHUNKED + b"0\r\n",
    ],
)  # fmt: skip
def test_what_is_cut_off_or_no_http_is_an_error(data: bytes) -> None:
    with pytest.raises(ConnectionError):
        answer(data)[0].read()
