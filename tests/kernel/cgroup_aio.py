"""Direct reads with a queue depth: the only load that keeps a device contended while CPUs are busy elsewhere.

A process that reads one block at a time leaves its queue empty whenever it is not on a CPU, and a fair scheduler then
rightly gives its share away. Kernel AIO (io_submit(2), linux/aio_abi.h) keeps many reads queued.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Callable

_CALLS = {"x86_64": (206, 208, 209), "aarch64": (0, 4, 2)}  # io_setup, io_getevents, io_submit
SUPPORTED = os.uname().machine in _CALLS
_IOCB = struct.Struct("<QIIHhIQQqQII")  # data, key, flags, opcode, priority, fd, buffer, length, offset, ...
_EVENT = struct.Struct("<QQqq")  # data, iocb, result, result2
_LIBC = ctypes.CDLL(None, use_errno=True)


def reader(device: str, start: int, size: int, *, block: int, depth: int) -> Callable[[], None]:
    """A payload that reads `size` bytes of `device` from `start` again and again, `depth` blocks at a time."""

    def read() -> None:
        setup, getevents, submit = _CALLS[os.uname().machine]
        descriptor = os.open(device, os.O_RDONLY | os.O_DIRECT)
        buffer = mmap.mmap(-1, block)  # all reads go there: nobody looks at the data
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        context = ctypes.c_ulong(0)
        _checked(setup, depth, ctypes.byref(context))
        requests = [ctypes.create_string_buffer(_IOCB.size) for _ in range(depth)]
        events = ctypes.create_string_buffer(_EVENT.size * depth)
        done, ready = 0, list(range(depth))
        while True:
            for slot in ready:
                offset = start + done * block % size
                _IOCB.pack_into(requests[slot], 0, slot, 0, 0, 0, 0, descriptor, address, block, offset, 0, 0, 0)
                _checked(submit, context, 1, (ctypes.c_void_p * 1)(ctypes.addressof(requests[slot])))
                done += 1
            count = _checked(getevents, context, 1, depth, events, None)
            ready = [_EVENT.unpack_from(events, number * _EVENT.size)[0] for number in range(count)]

    return read


def _checked(number: int, *arguments: object) -> int:
    result: int = _LIBC.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"system call {number}")
    return result
