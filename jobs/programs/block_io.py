"""Write 64 MiB in pieces that are synced to the disk, drop them from the page cache, read them back, compare."""

import hashlib
import os
import pathlib
import sys
import time

PIECE, PIECES = 4 << 20, 16

text = b"".join(path.read_bytes() for path in sorted(pathlib.Path("data").glob("*.txt")))
piece = (text * (PIECE // len(text) + 1))[:PIECE]
path = pathlib.Path("results/block-io.data")
written, read = hashlib.sha256(), hashlib.sha256()
try:
    start = time.monotonic()
    with path.open("wb", buffering=0) as file:
        for number in range(PIECES):
            block = number.to_bytes(8, "little") + piece[8:]
            file.write(block)
            os.fsync(file.fileno())
            written.update(block)
        # Only clean pages are dropped, and after fsync all are: what follows is read from the disk.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    middle = time.monotonic()
    with path.open("rb", buffering=0) as file:
        while block := file.read(PIECE):
            read.update(block)
    end = time.monotonic()
finally:
    path.unlink(missing_ok=True)
size = PIECE * PIECES >> 20
print(
    f"{size} MiB written and synced at {size / (middle - start):.0f} MiB/s, read at {size / (end - middle):.0f} MiB/s"
)
if written.digest() != read.digest():
    sys.exit("what was read is not what was written")
