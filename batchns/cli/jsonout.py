"""A job's result as one line of JSON: what `--json` prints.

1. Every key is always there, in one order; what is not known is null, never zero.
2. The line is plain ASCII: any name or path survives any locale, and no byte in it can command a terminal.
3. A thread of its own writes: a reader that stalls holds up no job, and one that goes away ends none.
"""

from __future__ import annotations

import json
import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

from batchns.errors import HostError
from batchns.model.result import JobResult, LimitReading


def result_to_json(result: JobResult) -> str:
    """One JSON object without a line break. Seconds (to the microsecond), bytes; limits in their base units.

    `limits` maps a limit's name to `{"value": ..., "source": ...}` as the kernel holds it, or to
    `{"value": null, "why": ...}`.
    """
    usage = result.usage
    return json.dumps(
        {
            "job_id": result.job_id,
            "name": result.name,
            "state": result.state.value,
            "exit_code": result.exit_code,
            "signal": result.signal,
            "reason": result.reason,
            "attempts": result.attempts,
            "queued_seconds": round(result.queued_seconds, 6),
            "running_seconds": round(result.running_seconds, 6),
            "frozen_seconds": round(result.frozen_seconds, 6),
            "cpu_seconds": None if usage.cpu_seconds is None else round(usage.cpu_seconds, 6),
            "memory_peak_bytes": usage.memory_peak_bytes,
            "io_read_bytes": usage.io_read_bytes,
            "io_write_bytes": usage.io_write_bytes,
            "net_sent_bytes": usage.net_sent_bytes,
            "net_received_bytes": usage.net_received_bytes,
            "stdout": result.stdout,
            "stderr": result.stderr,
            "limits": {name: _limit(reading) for name, reading in result.limits.items()},
        },
        allow_nan=False,
    ).replace("\x7f", "\\u007f")  # the one control character that JSON lets through


@contextmanager
def json_lines(descriptor: int) -> Iterator[Callable[[JobResult], None]]:
    """A function that writes a result's line to `descriptor` some time, and at the latest at the end of the block.

    A reader that has closed its end gets no more lines; that is no error.

    Raises:
        HostError: at the end of the block, when something else kept lines from being written.
    """
    lines: SimpleQueue[bytes | None] = SimpleQueue()
    failed: list[OSError] = []

    def write() -> None:
        try:
            while (line := lines.get()) is not None:
                _write_all(descriptor, line)
        except BrokenPipeError:
            pass
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=write, name="json", daemon=True)
    thread.start()
    try:
        yield lambda result: lines.put(f"{result_to_json(result)}\n".encode())
    finally:
        lines.put(None)
        thread.join()
    if failed:
        raise HostError(f"--json: not all results could be written: {os.strerror(failed[0].errno or 0)}")


def _write_all(descriptor: int, data: bytes) -> None:
    """To its last byte, also where the caller has left us a descriptor that does not block."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            select.select((), (descriptor,), ())


def _limit(reading: LimitReading) -> dict[str, int | str | None]:
    if reading.value is None:
        return {"value": None, "why": reading.why}
    return {"value": reading.value, "source": reading.source}
