"""A small rtnetlink: encode attributes, send several requests in one write, check every answer.

1. A request is data: built by pure functions, sent by `Socket.exchange`.
2. One write carries a whole batch; the kernel works through it within that write, in order, and answers each request.
3. Every request is acknowledged, and a refusal is raised with the kernel's own words.

Only what a job's network needs: no dumps, no multicast groups. Numbers are in the machine's byte order.
Sources: netlink(7), rtnetlink(7), include/uapi/linux/netlink.h, Documentation/userspace-api/netlink/intro.rst.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from batchns.errors import StepError

# Message flags (include/uapi/linux/netlink.h)
NLM_F_REQUEST = 0x01
NLM_F_ACK = 0x04
NLM_F_ECHO = 0x08
NLM_F_ACK_TLVS = 0x200
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400

_NLMSG_ERROR = 2
_NLMSGERR_ATTR_MSG = 1
_NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11

_MESSAGE = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length without padding, type
_ERROR = struct.Struct("=i")  # struct nlmsgerr, which goes on with the request's header

_LONGEST_ANSWER = 64 * 1024


class Request(NamedTuple):
    """One message. `operation` and `path` say what is done to what, for the error if the kernel refuses it.

    `hint` is what to do about a refusal that the kernel itself does not explain.
    """

    operation: str
    path: str
    type: int
    flags: int
    body: bytes
    hint: str = ""


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes.

    Raises:
        ValueError: the value does not fit an attribute (65531 bytes).
    """
    length = _ATTRIBUTE.size + len(value)
    if length > 0xFFFF:
        raise ValueError(f"netlink attribute {kind}: {len(value)} bytes do not fit, at most 65531 do")
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def number(kind: int, value: int) -> bytes:
    """An attribute that is an unsigned 32-bit number."""
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    """An attribute that is a NUL-terminated string."""
    return attribute(kind, value.encode("ascii") + b"\0")


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | _NLA_F_NESTED, b"".join(attributes))


def attributes(buffer: bytes) -> Iterator[tuple[int, bytes]]:
    """The (type, value) pairs in `buffer`, in order, without flags and padding.

    Raises:
        ValueError: the buffer is not a sequence of attributes.
    """
    position = 0
    while position < len(buffer):
        if len(buffer) - position < _ATTRIBUTE.size:
            raise ValueError(f"netlink attributes: {len(buffer) - position} stray bytes at {position}")
        length, kind = _ATTRIBUTE.unpack_from(buffer, position)
        if not _ATTRIBUTE.size <= length <= len(buffer) - position:
            raise ValueError(f"netlink attributes: length {length} at {position} of {len(buffer)} bytes")
        yield kind & _NLA_TYPE_MASK, buffer[position + _ATTRIBUTE.size : position + length]
        position += (length + 3) & ~3


def encode(requests: Sequence[Request]) -> bytes:
    """The batch as one write; the sequence numbers are 1, 2, 3, ..."""
    return b"".join(
        _MESSAGE.pack(
            _MESSAGE.size + len(request.body), request.type, request.flags | NLM_F_REQUEST | NLM_F_ACK, sequence, 0
        )
        + request.body
        + bytes(-len(request.body) % 4)
        for sequence, request in enumerate(requests, 1)
    )


class Socket:
    """A netlink socket of the network namespace in which it is opened; it stays there wherever the process goes."""

    def __init__(self) -> None:
        """Open it.

        Raises:
            StepError: the kernel gives no such socket.
        """
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        except OSError as error:
            raise StepError("network: open a netlink socket", "", error.errno or 0) from error
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def exchange(self, requests: Sequence[Request]) -> list[bytes]:
        """Send a batch; for each request the body of the kernel's answer (b"" where it only acknowledges).

        A refused request does not keep the kernel from performing those after it.

        Raises:
            StepError: the first request that was refused, as "network: <operation>".
        """
        self._socket.send(encode(requests))
        bodies = [b""] * len(requests)
        refused: dict[int, StepError] = {}
        waiting = len(requests)
        while waiting:
            for kind, flags, sequence, body in _messages(self._socket.recv(_LONGEST_ANSWER)):
                if kind != _NLMSG_ERROR:
                    bodies[sequence - 1] = body
                    continue
                waiting -= 1
                (code,) = _ERROR.unpack_from(body)
                if code:
                    request = requests[sequence - 1]
                    hint = _explanation(flags, body) or request.hint
                    refused[sequence] = StepError(f"network: {request.operation}", request.path, -code, hint)
        if refused:
            raise refused[min(refused)]
        return bodies


def _messages(buffer: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence, body) of each message in one datagram."""
    position = 0
    while position < len(buffer):
        length, kind, flags, sequence, _ = _MESSAGE.unpack_from(buffer, position)
        yield kind, flags, sequence, buffer[position + _MESSAGE.size : position + length]
        position += (length + 3) & ~3


def _explanation(flags: int, body: bytes) -> str:
    """The text that the kernel attached to a refusal, or ""."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    found = dict(attributes(body[_ERROR.size + _MESSAGE.size :]))
    words = found.get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode("utf-8", "replace")
    return f"the kernel says: {words}" if words else ""
