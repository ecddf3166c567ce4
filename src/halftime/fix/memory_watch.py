"""A captured graph can hide a leak: watch the memory over runs, and say so where it only grows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from halftime.base import units

RUNS = 8  # growth in every one of so many runs is neither warm-up nor noise


@dataclass
class MemoryWatch:
    """`read` gives the bytes in use; `limit` is how much growth over the last runs is too much."""

    read: Callable[[], int]
    limit: int
    readings: deque[int] = field(default_factory=lambda: deque(maxlen=RUNS))

    def grew(self) -> bool:
        """Note the memory after a run. True where it grew in each of the last runs, and by more
        than the limit."""
        self.readings.append(self.read())
        values = list(self.readings)
        rising = all(later > earlier for earlier, later in pairwise(values))
        return len(values) == RUNS and rising and values[-1] - values[0] > self.limit

    def message(self) -> str:
        """The growth, in plain words."""
        return (
            f"memory grew by {units.size(self.readings[-1] - self.readings[0])} over the last "
            f"{len(self.readings)} runs"
        )
