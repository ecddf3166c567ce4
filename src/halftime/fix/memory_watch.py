"""A captured graph can hide a leak: watch the memory over runs, and say so when it only ever
grows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from halftime.base import units

RUNS = 8  # growth in every one of so many runs is no warm-up and no noise


@dataclass
class MemoryWatch:
    """`read` gives the bytes in use; `limit` is how much growth over the last runs is too much."""

    read: Callable[[], int]
    limit: int
    seen: deque[int] = field(default_factory=lambda: deque(maxlen=RUNS))

    def grew(self) -> bool:
        """Note the memory after a run. True where it grew in each of the last runs, and by more
        than the limit."""
        self.seen.append(self.read())
        values = list(self.seen)
        rising = all(later > earlier for earlier, later in pairwise(values))
        return len(values) == RUNS and rising and values[-1] - values[0] > self.limit

    def message(self) -> str:
        """What was seen, in plain words."""
        return (
            f"memory grew by {units.size(self.seen[-1] - self.seen[0])} over the last "
            f"{len(self.seen)} runs"
        )
