"""Bounds on a mean that hold for few and skewed values.

The percentile bootstrap, which stood here before, calls 26 % of sets equivalent at 5 pairs whose
true mean lies on the margin, where 5 % are meant (`benchmarks/verify_coverage.py` measures it).
Distances between pictures are positive and skewed to the right: most pairs hardly differ, a few do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from halftime.base.stats import Interval

_DRAWS = 20_000
SMALLEST = 0.05  # of the limit: smaller distances count as this, so that no logarithm runs away
ENOUGH = 50  # values to see their distribution
LEFT_SKEWED = -0.5  # of logarithms: the skewness of a distribution with a tail of small values


def signed_mean(values: Sequence[float], confidence: float) -> Interval:
    """Student's interval of the mean; a single value gives a degenerate one."""
    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    if data.size < 2:
        return Interval(mean, mean, mean)
    z, chi2 = _pivots(data.size)
    width = float(np.quantile(np.abs(z) / np.sqrt(chi2), confidence) * data.std(ddof=1))
    return Interval(mean, mean - width, mean + width)


def distance_mean(
    values: Sequence[float], confidence: float, limit: float, largest: float
) -> Interval:
    """An interval of the mean of values in 0..`largest`, to be compared with `limit`.

    Below it is Student's, which right-skewed values make wider than it need be. Above it is the
    larger of Student's and the generalised bound for a log-normal mean (Krishnamoorthy and Mathew,
    J. Statistical Planning and Inference 115, 2003), which is exact for log-normal values at any
    number of them. Many values with a tail of small ones are not log-normal: for these Hall's
    bound, which corrects for the skewness, takes its place.
    """
    interval = signed_mean(values, confidence)
    if len(values) < 2 or min(values) == max(values):
        return interval
    data = np.asarray(values, dtype=float)
    logs = np.log(np.maximum(data, SMALLEST * limit))
    if has_small_tail(logs):
        skewed = _hall_bound(data, confidence)
    else:
        skewed = _log_normal_bound(logs, confidence)
    high = min(max(interval.high, skewed), largest)
    return Interval(interval.value, max(0.0, interval.low), max(high, interval.value))


def has_small_tail(logs: NDArray[np.float64]) -> bool:
    """Whether so many logarithms are skewed to the left that they are not those of log-normals."""
    return len(logs) >= ENOUGH and skewness(logs) < LEFT_SKEWED


def skewness(data: NDArray[np.float64]) -> float:
    """The third standardised moment; 0 for equal values."""
    scale = float(data.std())
    return float(((data - data.mean()) ** 3).mean()) / scale**3 if scale else 0.0


def _log_normal_bound(logs: NDArray[np.float64], confidence: float) -> float:
    variance = float(logs.var(ddof=1))
    z, chi2 = _pivots(logs.size)
    means = logs.mean() - z * np.sqrt(variance / chi2) + variance / chi2 / 2
    return float(np.exp(min(float(np.quantile(means, (1 + confidence) / 2)), 700.0)))


def _hall_bound(data: NDArray[np.float64], confidence: float) -> float:
    """Hall's transformation of Student's statistic (J. Royal Statistical Society B 54, 1992)."""
    z, chi2 = _pivots(data.size)
    t = -float(np.quantile(np.abs(z) / np.sqrt(chi2), confidence))
    skew = skewness(data)
    if abs(skew) > 1e-9:
        inner = 1 + skew * (t - skew / (6 * data.size))
        t = 3 / skew * (float(np.cbrt(inner)) - 1)
    return float(data.mean() - t * data.std(ddof=1))


@lru_cache(maxsize=32)
def _pivots(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draws of a standard normal over sqrt(count), and of chi-square over its degrees of freedom.

    From these two come Student's quantiles and the log-normal bound alike.
    """
    rng = np.random.default_rng(count)
    z = rng.standard_normal(_DRAWS) / np.sqrt(count)
    return z, rng.chisquare(count - 1, _DRAWS) / (count - 1)
