"""How long a job has run: its time limit stands still while it is frozen, by whoever."""

from __future__ import annotations

import time
from collections.abc import Callable


class RunClock:
    """Stands until `go`. `clock`: seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ran = 0.0
        self._stood = 0.0
        self._since: float | None = None  # it runs, or stands, since then
        self._runs = False

    def go(self) -> None:
        self._turn(runs=True)

    def stand(self) -> None:
        self._turn(runs=False)

    def _turn(self, *, runs: bool) -> None:
        self._ran, self._stood = self.running, self.standing
        self._since, self._runs = self._clock(), runs

    @property
    def running(self) -> float:
        return self._ran + (self._clock() - self._since if self._since is not None and self._runs else 0.0)

    @property
    def standing(self) -> float:
        """Frozen, from the first `go` on."""
        return self._stood + (self._clock() - self._since if self._since is not None and not self._runs else 0.0)
