"""The search for the knee: the highest rate that is held."""

from __future__ import annotations

import math
from collections.abc import Sequence

from halftime.records.gateway import Load

_START = 10.0  # requests a second, where nothing is known
_HIGHEST = 20_000.0
_CLOSE_ENOUGH = 1.1  # between a rate that is held and one that is not
_MOST_LOADS = 14


class Knee:
    """Doubles the rate until one is not held, then halves the ratio between the two.

    It begins at half of what the closed loop completed.
    """

    def __init__(self, finished: Sequence[Load]) -> None:
        closed = [load.throughput for load in finished if load.mode == "closed" and load.throughput]
        self._rate = max(1.0, closed[0] / 2) if closed else _START
        self._left = _MOST_LOADS
        self.held: float | None = None
        self._broken = math.inf

    def next_rate(self) -> float | None:
        """The rate to try now; None where it has been found."""
        low, high = self.held or 0.0, self._broken
        close = high <= _CLOSE_ENOUGH * low
        if close or not self._left or self._rate > _HIGHEST or self._rate < 0.1:
            return None
        return self._rate

    def note(self, load: Load) -> None:
        """Whether that rate was held."""
        self._left -= 1
        rate = load.rate or self._rate
        if load.unclear or load.cut:
            self._left = 0  # nothing is told by it, nor would be by the next
        elif load.saturated or load.failing:
            self._broken = min(self._broken, rate)
        else:
            self.held = max(self.held or 0.0, rate)
        if self._broken == math.inf:
            self._rate = 2 * rate
        elif self.held is None:
            self._rate = rate / 2
        else:
            self._rate = math.sqrt(self.held * self._broken)
