"""A dict of values that change in place, whose copy costs little: a value is copied when one side first changes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, Self, TypeVar


class Copied(Protocol):
    def copy(self) -> Self: ...


K = TypeVar("K")
V = TypeVar("V", bound=Copied)


class Sharing(Mapping[K, V]):
    """Reading is a mapping's. A value that is to be changed is asked for with `own`.

    A copy and the original may be used by two threads: what both have is not changed by either.
    """

    def __init__(self) -> None:
        self._values: dict[K, V] = {}
        self._own: set[K] = set()  # whose values nobody else has

    def copy(self) -> Sharing[K, V]:
        other = Sharing[K, V]()
        other._values = self._values.copy()
        self._own = set()
        return other

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[K]:
        return iter(self._values)

    def __getitem__(self, key: K) -> V:
        """To be read. Raises KeyError."""
        return self._values[key]

    def __len__(self) -> int:
        return len(self._values)

    def __setitem__(self, key: K, value: V) -> None:
        """`value`: nobody else's."""
        self._values[key] = value
        self._own.add(key)

    def __delitem__(self, key: K) -> None:
        del self._values[key]
        self._own.discard(key)

    def own(self, key: K) -> V:
        """To be changed. Raises KeyError."""
        value = self._values[key]
        if key not in self._own:
            value = self[key] = value.copy()
        return value
