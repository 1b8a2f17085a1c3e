"""fs-verity: a file that the kernel keeps from ever changing, with a measurement of what it holds.

Source: Documentation/filesystems/fsverity.rst
"""

from __future__ import annotations

import fcntl
import struct
from errno import ENODATA, ENOTTY, EOPNOTSUPP, EOVERFLOW

_MEASURE = 0xC0046686  # FS_IOC_MEASURE_VERITY, _IOWR('f', 134, struct fsverity_digest)
_HEAD = struct.Struct("=HH")  # algorithm, size of the digest that follows
_MOST = 64  # bytes of a digest


def measurement(fd: int) -> bytes | None:
    """Algorithm and digest of the file's content; None where it has no fs-verity.

    Raises:
        OSError: the file cannot be read.
    """
    buffer = bytearray(_HEAD.pack(0, _MOST) + bytes(_MOST))
    try:
        fcntl.ioctl(fd, _MEASURE, buffer)
    except OSError as error:
        if error.errno in (ENODATA, ENOTTY, EOPNOTSUPP, EOVERFLOW):
            return None
        raise
    _, size = _HEAD.unpack_from(buffer)
    return bytes(buffer[: _HEAD.size + size])
