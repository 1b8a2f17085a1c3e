"""What to ask for next time, from what was used: short sentences, and only where it makes a difference."""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchns.model.lifecycle import State
from batchns.store.interface import Ending
from batchns.units import format_duration, format_size
from batchns.wire import types as wire

_ROOM = 1.25  # what is asked for above the most that was ever needed
_WASTE = 2.0  # asked for more than so many times the advice: worth a sentence
_MIB = 1 << 20
_LEAST_RUN = 10.0  # seconds: of shorter jobs nothing is said about CPUs


def advice(row: wire.UsageRow, endings: Sequence[Ending]) -> tuple[str, ...]:
    """`row`: the summary of `endings`, the newest first."""
    found = [_memory(row, endings), _cpus(row), _time(row, endings)]
    return tuple(sentence for sentence in found if sentence)


def _memory(row: wire.UsageRow, endings: Sequence[Ending]) -> str:
    if row.memory is None or row.memory_peak is None:
        return ""
    killed = sum(ending.result.state is State.OUT_OF_MEMORY for ending in endings)
    if killed:
        return f'{killed} of {row.jobs} ran out of memory: ask for memory = "{format_size(_round(row.memory * 1.5))}"'
    enough = _round(row.memory_peak * _ROOM)
    if enough * _WASTE < row.memory:
        return f'at most {format_size(row.memory_peak)} of memory used: memory = "{format_size(enough)}" is enough'
    return ""


def _cpus(row: wire.UsageRow) -> str:
    if row.cpu_efficiency is None or row.cpus <= 1 or row.longest_seconds < _LEAST_RUN:
        return ""
    busy = row.cpus * row.cpu_efficiency
    enough = max(1, math.ceil(busy * 1.1))
    if enough < row.cpus:
        return f"{busy:.1f} of {row.cpus:g} CPUs were busy: cpus = {enough} is enough"
    return ""


def _time(row: wire.UsageRow, endings: Sequence[Ending]) -> str:
    late = sum(ending.result.state is State.TIMEOUT for ending in endings)
    if late and row.time_limit:
        longer = format_duration(row.time_limit * 2)
        return f'{late} of {row.jobs} ran into their time limit: ask for time_limit = "{longer}"'
    enough = max(60.0, math.ceil(row.longest_seconds * 1.5 / 60) * 60.0)
    if row.time_limit is None:
        return f'a time_limit = "{format_duration(enough)}" lets it start earlier in gaps' if row.jobs > 2 else ""
    if enough * _WASTE < row.time_limit:
        longest = format_duration(row.longest_seconds)
        return f'the longest took {longest}: time_limit = "{format_duration(enough)}" is enough'
    return ""


def _round(size: float) -> int:
    """Up to whole 16 MiB, or a sixteenth of the size."""
    step = max(16 * _MIB, 1 << max(0, int(size).bit_length() - 5))
    return math.ceil(size / step) * step
