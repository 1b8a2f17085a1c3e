"""A summary of use is of so many ends at most, and says where there are more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import trio

from batchns.daemon.reading import Reading
from batchns.daemon.service import HistoryQuery

from ..store.batches import ending


def test_use_of_more_ends_than_are_looked_at_says_so() -> None:
    assert [more_of(pages) for pages in (1, 20, 21, 1000)] == [False, False, True, True]


def more_of(pages: int) -> bool:
    left = iter(range(pages - 1, -1, -1))

    async def endings(*_: Any) -> Any:
        return SimpleNamespace(endings=(ending(1),) * 1000, next="x" if next(left) else "")

    reading: Any = SimpleNamespace(_endings=endings)
    answer = trio.run(Reading.usage, reading, None, HistoryQuery())
    assert len(answer.rows) <= 1
    return answer.more
