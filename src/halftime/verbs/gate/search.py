"""A noisy binary search: which of many versions in order is the first bad one?

Each answer may be wrong, so a probability is held for each version that it is the first bad one,
the version is asked that halves it best, and the search ends once one is likely enough: Burnashev
and Zigangirov (1974), whose number of questions is the least but for a constant; Karp and Kleinberg
(SODA 2007) treat the same where the chance of an error is not known.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

SURE = 0.99
LEAST_ERROR = 0.001  # of an answer that has no noise: somebody may still have changed the machine


class Suspects(NamedTuple):
    """Versions among which the first bad one is: those after `good` up to `bad`; more than one
    where those between cannot be asked."""

    good: int
    bad: int  # one more than there are versions: none is bad
    probability: float


@dataclass
class VersionSearch:
    """Versions 1 to `count`, after a base 0 that is good. `count` + 1 stands for: none is bad."""

    count: int
    error: float  # how often an answer is wrong

    def __post_init__(self) -> None:
        self.error = max(self.error, LEAST_ERROR)
        before = 0.5 / self.count
        self._chances = [before] * self.count + [0.5]  # of version 1, 2, … and of none

    def learn(self, version: int, *, bad: bool) -> None:
        """An answer: where `version` is bad, the first bad one is it or an earlier one."""
        weights = [
            chance * ((1 - self.error) if (first <= version) == bad else self.error)
            for first, chance in enumerate(self._chances, start=1)
        ]
        total = sum(weights)
        self._chances = [weight / total for weight in weights]

    def ask(self, silent: Collection[int] = ()) -> int | None:
        """The version whose answer says most; those in `silent` cannot be asked. None where nothing
        is left to ask."""
        below = list(accumulate(self._chances))
        versions = [v for v in range(1, self.count + 1) if v not in silent]
        return min(versions, key=lambda v: (abs(below[v - 1] - 0.5), -v), default=None)

    def likeliest(self, silent: Collection[int] = ()) -> Suspects:
        """The versions that most speaks for, which no version that can be asked divides."""
        ends = [v for v in range(1, self.count + 1) if v not in silent]
        return max(self._groups([0, *ends, self.count + 1]), key=lambda group: group.probability)

    def _groups(self, ends: Sequence[int]) -> list[Suspects]:
        return [Suspects(good, bad, sum(self._chances[good:bad])) for good, bad in pairwise(ends)]
