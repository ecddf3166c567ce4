"""The few statistics that halftime reports: robust, paired, with intervals.

All functions take plain sequences of floats and return floats; none of them rounds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FEWEST = 4  # fewer values say from where to where they went, and nothing of what others would


class Interval(NamedTuple):
    """An estimate with its two-sided confidence bounds, or the range of few values."""

    value: float
    low: float
    high: float


def median(values: Sequence[float] | NDArray[np.generic]) -> float:
    """The middle value, or the mean of the two in the middle. Raises ValueError when empty."""
    if not len(values):
        raise ValueError("median of no values")
    ordered = _ordered(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def quantile(values: Sequence[float], q: float) -> float:
    """Linear interpolation between order statistics (Hyndman and Fan 1996, type 7)."""
    if not values:
        raise ValueError("quantile of no values")
    if not 0 <= q <= 1:
        raise ValueError(f"quantile {q} is not between 0 and 1")
    ordered = _ordered(values)
    at, share = divmod(q * (len(ordered) - 1), 1)
    low, high = ordered[int(at)], ordered[min(int(at) + 1, len(ordered) - 1)]
    if low == high:
        return low
    return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)


def _ordered(values: Sequence[float] | NDArray[np.generic]) -> list[float]:
    """Sorted; NaN alone where any is. numpy's own median and quantile load its masked arrays."""
    ordered: list[float] = np.sort(np.asarray(values, dtype=float)).tolist()
    return [math.nan] if math.isnan(ordered[-1]) else ordered


def spread(values: Sequence[float]) -> float:
    """Interquartile range over the median: 0.05 on a steady machine, above 0.2 on a shaky one."""
    middle = median(values)
    return (quantile(values, 0.75) - quantile(values, 0.25)) / middle if middle else 0.0


def middle_half(order_by: Sequence[float]) -> list[int]:
    """Indices of the values within the middle half by rank; all of fewer than three.

    Averages over these are as robust as an interquartile mean, and since every row of a ledger is
    averaged over the same runs, the rows still add up to the whole, which medians would not.
    """
    n = len(order_by)
    ranked = sorted(range(n), key=lambda i: order_by[i])
    cut = n // 4 if n != 3 else 1
    return sorted(ranked[cut : n - cut])


def largest_share(count: int, total: int, *, confidence: float = 0.95) -> float:
    """The upper bound on a share of which `count` of `total` were seen (Clopper and Pearson 1934).

    One-sided: the share at which so few would be seen with a probability of 1 - `confidence`.
    """
    if count >= total:
        return 1.0
    low, high = count / total, 1.0
    for _ in range(60):  # bisection: the probability falls as the share grows
        share = (low + high) / 2
        if at_most_chance(count, total, share) > 1 - confidence:
            low = share
        else:
            high = share
    return high


def smallest_share(count: int, total: int, *, confidence: float = 0.95) -> float:
    """The lower bound on the same share, one-sided; 0.0 where none was seen."""
    return 1 - largest_share(total - count, total, confidence=confidence)


def at_most_chance(count: int, total: int, share: float) -> float:
    """How likely no more than `count` of `total` are seen of a `share` of all (binomial)."""
    if share <= 0 or count >= total:
        return 1.0
    if share >= 1:
        return 0.0
    terms = (
        math.lgamma(total + 1)
        - math.lgamma(k + 1)
        - math.lgamma(total - k + 1)
        + k * math.log(share)
        + (total - k) * math.log1p(-share)
        for k in range(count + 1)
    )
    return min(1.0, math.fsum(map(math.exp, terms)))


def bootstrap(
    values: Sequence[float],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval (Efron 1979) of `statistic`, the median unless given.

    `statistic` maps an array of shape (resamples, n) to (resamples,). Pass paired differences or
    ratios for a paired interval. One value gives a degenerate interval, none raises ValueError.
    """
    data = np.asarray(values, dtype=float)
    if data.size == 0:
        raise ValueError("bootstrap of no values")
    function = statistic or (lambda sample: np.median(sample, axis=-1))
    estimate = float(function(data[np.newaxis, :])[0])
    rng = np.random.default_rng(seed)
    estimates = function(data[rng.integers(0, data.size, size=(resamples, data.size))])
    tail = (1 - confidence) / 2
    low, high = np.quantile(estimates, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high))


def bounds_word(count: int) -> str:
    """What the bounds from so many values are: 'range of 3 runs', '95 % interval'."""
    return "95 % interval" if count >= FEWEST else f"range of {count} runs"


def spanned(values: Sequence[float]) -> Interval:
    """The median with its bootstrap interval, or of fewer than FEWEST values their range."""
    if len(values) >= FEWEST:
        return bootstrap(values)
    return Interval(median(values), min(values), max(values))


def paired_ratio(
    baseline: Sequence[float], candidate: Sequence[float], *, confidence: float = 0.95
) -> Interval:
    """Speedup baseline / candidate: the median of the pairwise ratios, with its bootstrap interval,
    or the range of fewer than FEWEST pairs.

    Pairs must have been measured next to each other, so that a drifting machine cancels. Raises
    ValueError for unequal lengths.
    """
    if len(baseline) != len(candidate):
        raise ValueError(
            f"{len(baseline)} baseline values cannot be paired with {len(candidate)} candidate "
            "values"
        )
    ratios = [b / c for b, c in zip(baseline, candidate, strict=True)]
    return bootstrap(ratios, confidence=confidence) if len(ratios) >= FEWEST else spanned(ratios)


def unpaired_ratio(
    baseline: Sequence[float],
    candidate: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Speedup as the ratio of medians, each side resampled separately.

    For runs that were not made in turns: drift between the two sides is not in the interval; prefer
    `paired_ratio`. A single run has no spread to resample: low and high are then the value itself;
    of two or three on a side they are the widest range.
    """
    value = median(baseline) / median(candidate)
    if min(len(baseline), len(candidate)) < 2:
        return Interval(value, value, value)
    if min(len(baseline), len(candidate)) < FEWEST:
        return Interval(value, min(baseline) / max(candidate), max(baseline) / min(candidate))
    rng = np.random.default_rng(0)
    sides = []
    for values in (baseline, candidate):
        data = np.asarray(values, dtype=float)
        samples = data[rng.integers(0, data.size, size=(resamples, data.size))]
        sides.append(np.median(samples, axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(sides[0] / sides[1], [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def poisson(rate: float, rng: random.Random) -> Iterator[float]:
    """Moments of arrivals by chance, so many a second, without end."""
    moment = 0.0
    while True:
        moment += rng.expovariate(rate)
        yield moment
