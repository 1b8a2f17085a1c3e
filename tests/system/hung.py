"""A file system that never answers: a FUSE mount whose server says hello, and then nothing more.

Whoever waits for it can still be killed, and gets an error at the latest when the server is: its end ends the mount.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..alone import end_with_parent

_IN = struct.Struct("=IIQQIIIHH")  # struct fuse_in_header, include/uapi/linux/fuse.h
_OUT = struct.Struct("=IiQ")  # struct fuse_out_header
_INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")  # struct fuse_init_out


@contextmanager
def hung_file_system(point: Path) -> Iterator[Path]:
    """Mounted at `point`, for as long as the block runs."""
    point.mkdir()
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    subprocess.run(["mount", "-i", "-t", "fuse", "-o", options, "hung", point], check=True, pass_fds=[device])
    server = os.fork()
    if server == 0:
        try:
            end_with_parent()
            _, _, unique, *_ = _IN.unpack_from(os.read(device, 1 << 17))
            hello = _INIT_OUT.pack(7, 31, 0, 0, 0, 0, 4096, 1, 1, 0, 0)
            os.write(device, _OUT.pack(_OUT.size + len(hello), 0, unique) + hello)
            signal.pause()
        finally:
            os._exit(0)
    os.close(device)
    try:
        yield point
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
        subprocess.run(["umount", "-l", point], check=True)
