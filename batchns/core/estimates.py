"""How long a job will run, from what its user's jobs before it took. Pure.

1. People ask for far more time than they need, but repeat themselves: the last jobs of a user, and of the same name
   above all, tell more than a time limit does (Tsafrir, Etsion, Feitelson: Backfilling Using System-Generated
   Predictions, IEEE TPDS 18(6), 2007).
2. Not everyone does: for each user each way of telling is scored by how far off it was, and used only where it has
   been closer than the time limit.
3. Nothing grows for ever: the users and names that were heard of last are kept.
"""

from __future__ import annotations

import math
import statistics
from collections import OrderedDict, deque
from typing import Generic, TypeVar

from attrs import define, field

from batchns.model.lifecycle import State

OF_NAME = 5  # records of the same user and name
OF_USER = 2  # of the user: more would mix what has nothing to do with each other
_KEPT = 10_000  # users, and names
_WEIGHT = 0.2  # of the newest error in the mean
_SHORTEST = 1.0  # seconds: below that a ratio says nothing
_TELLING = frozenset({State.COMPLETED, State.FAILED, State.TIMEOUT, State.OUT_OF_MEMORY})

K = TypeVar("K")
V = TypeVar("V")


class _Last(OrderedDict[K, V], Generic[K, V]):
    """The `_KEPT` keys that were set last."""

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > _KEPT:
            self.popitem(last=False)


@define
class _Error:
    """The decayed mean of |log(estimate / actual)|: 0.7 is a factor of 2. None before the first one."""

    mean: float | None = None

    def add(self, estimate: float, actual: float) -> None:
        error = abs(math.log(max(estimate, _SHORTEST) / max(actual, _SHORTEST)))
        self.mean = error if self.mean is None else self.mean + _WEIGHT * (error - self.mean)

    def smaller_than(self, other: _Error) -> bool:
        return self.mean is not None and (other.mean is None or self.mean < other.mean)


@define
class _User:
    last: deque[float] = field(factory=lambda: deque(maxlen=OF_USER))
    by_name: _Error = field(factory=_Error)
    by_user: _Error = field(factory=_Error)
    # Of the time limit, on the very jobs on which the one above it was scored: else a user's first jobs decide.
    limit_beside_name: _Error = field(factory=_Error)
    limit_beside_user: _Error = field(factory=_Error)


@define
class Estimates:
    """Told of attempts in the order in which they ended."""

    _users: _Last[str, _User] = field(factory=_Last, init=False)
    _names: _Last[tuple[str, str], deque[float]] = field(factory=_Last, init=False)

    def learn(self, user_name: str, name: str, actual: float, limit: float | None) -> None:
        """An attempt of the user's job of this name ran for `actual` seconds, of at most `limit`.

        Score what would have been said of it, then remember what it took. Only of one that `tells`.
        """
        user = self._users.get(user_name) or _User()
        of_name = self._names.get((user_name, name)) or deque(maxlen=OF_NAME)
        for past, error, beside in (
            (of_name, user.by_name, user.limit_beside_name),
            (user.last, user.by_user, user.limit_beside_user),
        ):
            if past:
                error.add(_within(statistics.median(past), limit), actual)
                if limit is not None:
                    beside.add(limit, actual)
        of_name.append(actual)
        user.last.append(actual)
        self._names[user_name, name] = of_name
        self._users[user_name] = user

    def expected(self, user_name: str, name: str, time_limit: float | None) -> float | None:
        """Seconds that a job of this user and name will run, at most `time_limit`.

        None: nothing is known that has been better than the time limit, so that is all there is to go by. A job
        without a limit is told what is known in any case.
        """
        user = self._users.get(user_name)
        if user is None:
            return None
        of_name = self._names.get((user_name, name))
        if of_name and (time_limit is None or user.by_name.smaller_than(user.limit_beside_name)):
            return _within(statistics.median(of_name), time_limit)
        if user.last and (time_limit is None or user.by_user.smaller_than(user.limit_beside_user)):
            return _within(statistics.median(user.last), time_limit)
        return None


def tells(state: State) -> bool:
    """Whether an attempt with this end ran for as long as such jobs do: a cancelled one would have run on."""
    return state in _TELLING


def _within(seconds: float, limit: float | None) -> float:
    return seconds if limit is None else min(seconds, limit)
