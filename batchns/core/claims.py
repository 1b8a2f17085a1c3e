"""Room that is being made: which waiting job has asked whom to give way, until all of them have.

A claim holds what is free already for its job meanwhile. It is given up as a whole when one of those that were asked
cannot do it, when its job stops competing, and when its job starts: it gives nobody a better place in the queue.
"""

from __future__ import annotations

from collections.abc import Iterator


class Claims:
    """By waiting job: those that still have to make room for it."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[str, dict[str, None]] = {}

    def __iter__(self) -> Iterator[str]:
        """The waiting jobs, the one that asked first first."""
        return iter(self._open)

    def __bool__(self) -> bool:
        return bool(self._open)

    def copy(self) -> Claims:
        other = Claims()
        other._open = {waiting: asked.copy() for waiting, asked in self._open.items()}
        return other

    def under_way(self, waiting: str) -> bool:
        """Somebody has not yet made room for it."""
        return bool(self._open.get(waiting))

    def ask(self, waiting: str, victim: str) -> None:
        self._open.setdefault(waiting, {})[victim] = None

    def made(self, victim: str) -> None:
        """The victim has given way, or is over."""
        for asked in self._open.values():
            asked.pop(victim, None)

    def failed(self, victim: str) -> None:
        """The victim will not give way: whom it was asked for waits as everybody does."""
        for waiting in [waiting for waiting, asked in self._open.items() if victim in asked]:
            del self._open[waiting]

    def drop(self, waiting: str) -> None:
        """The job has started, or does not compete any more; one without a claim is no error."""
        self._open.pop(waiting, None)
