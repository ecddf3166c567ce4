"""Which settings of approximate fixes are tested, in what order, and when a test passes.

Everything here is a function of numbers: how far each pair of pictures is apart, in units of what
is just not visible (`visible.Ruler`), and how fast a setting is. The search may look at its
pictures as often as it likes; the tests are on pictures that it has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median, stdev
from typing import Generic, TypeVar

from halftime.base.certain import most_failures, pass_chance
from halftime.base.stats import largest_share, smallest_share

T = TypeVar("T")
ROUNDS = (4, 8, 16, 24)  # pictures of the search that a setting has after each round
SURE = 0.9  # the chance to pass that the first test should have
_SMALLEST = 1e-3  # sizes under it count as it: equal pictures have no logarithm
_FEWEST_FOR_SPREAD = 4
_WORTH = 1.01  # a setting that is not faster than a more harmless one by this is left out
_HOPELESS = 0.95  # confidence that more than is allowed would differ, by which it leaves the race


@dataclass(frozen=True)
class Raced(Generic[T]):
    """A setting after its search."""

    setting: T
    speedup: float
    sizes: tuple[float, ...]

    @property
    def different(self) -> int:
        """How many of its pictures differ visibly."""
        return sum(size > 1 for size in self.sizes)

    @property
    def predicted_share(self) -> float:
        """Of all pictures, how many will."""
        return predicted_share(self.sizes)


def predicted_share(sizes: Sequence[float]) -> float:
    """The share of pictures beyond 1, if the sizes' logarithms are normal, or as counted where
    that is more.

    Counts alone say nothing of 24 pictures of which none is beyond; their distance from 1 does.
    """
    counted = sum(size > 1 for size in sizes) / len(sizes)
    finite = [math.log(max(size, _SMALLEST)) for size in sizes if size < math.inf]
    if len(finite) < _FEWEST_FOR_SPREAD:
        return max(counted, 0.5 / len(sizes))
    n = len(finite)
    # mean and spread are estimates themselves: Student's spread, for a further picture
    spread = max(stdev(finite) * math.sqrt((1 + 1 / n) * (n - 1) / max(n - 3, 1)), 1e-6)
    return max(counted, 1 - NormalDist(fmean(finite), spread).cdf(0.0))


def hopeless(sizes: Sequence[float], alpha: float) -> bool:
    """Whether so many pictures of the search differ that no test would pass."""
    different = sum(size > 1 for size in sizes)
    return smallest_share(different, len(sizes), confidence=_HOPELESS) > alpha


def order(raced: Sequence[Raced[T]], draws: int, alpha: float, confidence: float) -> list[Raced[T]]:
    """What is tested on so many draws, from harmless to harsh.

    Each setting is faster than all that are more harmless. The first is the fastest that passes
    with a chance of SURE, or else the most harmless whose chance is best; harsher ones follow. The
    chance allows for tails heavier than normal ones, of which the search can have seen nothing.
    """
    front: list[Raced[T]] = []
    by_harm = sorted(
        raced,
        key=lambda entry: (entry.predicted_share, median(entry.sizes), -entry.speedup),
    )
    for entry in by_harm:
        if entry.speedup > _WORTH * max((before.speedup for before in front), default=1.0):
            front.append(entry)
    if not front:
        return []
    chances = [
        pass_chance(entry.predicted_share + _unseen(entry), draws, alpha, confidence)
        for entry in front
    ]
    sure = [index for index, chance in enumerate(chances) if chance >= SURE]
    start = sure[-1] if sure else chances.index(max(chances))
    return front[start:] if chances[start] > 0 else []


def _unseen(entry: Raced[T]) -> float:
    """A share of which so few pictures show nothing (Jeffreys' mean)."""
    return 0.5 / (len(entry.sizes) + 1)


def expected_speedup(
    queue: Sequence[Raced[T]], draws: int, alpha: float, confidence: float, otherwise: float
) -> float:
    """Of what the tests of this queue certify, where nothing leaves the speedup at `otherwise`."""
    chances = (pass_chance(entry.predicted_share, draws, alpha, confidence) for entry in queue)
    gains = (
        chance * entry.speedup + (1 - chance) * otherwise
        for chance, entry in zip(chances, queue, strict=True)
    )
    return max(gains, default=otherwise)


@dataclass(frozen=True)
class ShareTest:
    """One test: how many pictures, how many of them differ, and the bound where it passed."""

    pairs: int
    different: int
    at_most: float | None
    passed: bool


def share_test(sizes: Iterable[float], draws: int, alpha: float, confidence: float) -> ShareTest:
    """Whether at most `alpha` of the pictures differ visibly, with `confidence`.

    `sizes` are of `draws` pictures that chose nothing; they are asked for one by one, and no more
    once too many differ. Where there are fewer than `draws` the test fails.
    """
    allowed = most_failures(draws, alpha, confidence)
    pairs = different = 0
    for size in sizes:
        pairs += 1
        different += size > 1
        if different > allowed:
            return ShareTest(pairs, different, None, False)
    if pairs < draws:
        return ShareTest(pairs, different, None, False)
    bound = largest_share(different, pairs, confidence=confidence)
    return ShareTest(pairs, different, bound, passed=True)
