"""When to make room for what else the machine does, and when to come back: two thresholds, each to hold for a time.

1. Pure: samples and times are told.
2. What is not known decides nothing: whatever was under way starts anew.
"""

from __future__ import annotations

from attrs import define, field


@define
class Neighbourly:
    """`freeze_above`, `thaw_below`: fractions (0 to 1) of the node's CPUs that others keep busy. `seconds`: how long.

    Raises:
        ValueError: `thaw_below` is the larger one, so that jobs would be frozen and thawed at once.
    """

    freeze_above: float
    thaw_below: float
    seconds: float
    yielding: bool = field(default=False, init=False)
    _since: float | None = field(default=None, init=False)  # the first sample of those that ask for a change

    def __attrs_post_init__(self) -> None:
        if not self.thaw_below <= self.freeze_above:
            raise ValueError(f"thaw_below {self.thaw_below} is larger than freeze_above {self.freeze_above}")

    def told(self, fraction: float | None, now: float) -> bool:
        """Take a sample (None: not known), made at `now` seconds; returns whether to yield from now on.

        Yielding begins once every sample over `seconds` was above `freeze_above`, and ends once every sample over
        `seconds` was below `thaw_below`. A sample that equals a threshold changes nothing.
        """
        if fraction is None or not self._asks_for_change(fraction):
            self._since = None
        elif self._since is None or now < self._since:
            self._since = now
        if self._since is not None and now - self._since >= self.seconds:
            self.yielding = not self.yielding
            self._since = None
        return self.yielding

    def _asks_for_change(self, fraction: float) -> bool:
        return fraction < self.thaw_below if self.yielding else fraction > self.freeze_above
