"""From paired measurements to a verdict: an equivalence test against a margin in noise floors.

For a distance the question is one-sided: is its mean below the margin? For a signed score it is
two-sided: does the mean difference lie within plus and minus the margin? Both by the interval form
of the two one-sided tests (Schuirmann 1987): `equivalent` when the 90 % interval lies inside the
margin, `different` when an interval that is widened for the number of comparisons (Bonferroni) lies
outside, else `inconclusive`. The intervals are bootstrap ones (Efron 1979) over pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean, stdev

import numpy as np
from numpy.typing import NDArray

from halftime.base.stats import Interval, bootstrap
from halftime.records.verdict import EVERYTHING, Comparison, Decision
from halftime.verbs.verify.metrics import METRICS

FEWEST = 5  # pairs in a class for an interval that means something
_ALPHA = 0.05
_POWER = 0.8


def compare(
    measured: Sequence[Mapping[str, float]],
    classes: Sequence[str],
    floor: Mapping[str, float],
    margin: float,
) -> list[Comparison]:
    """Every metric in every class that has enough pairs, and over all pairs."""
    groups = {EVERYTHING: list(range(len(classes)))}
    for index, name in enumerate(classes):
        groups.setdefault(name, []).append(index)
    tested = [
        (name, group)
        for name, group in groups.items()
        if name == EVERYTHING or len(group) >= FEWEST
    ]
    if len(tested) == 2:  # the only class is everything
        tested = tested[:1]
    names = list(measured[0])
    tests = len(tested) * sum(METRICS[name].decides for name in names)
    return [
        _compare(
            name, group_name, [measured[i][name] for i in group], floor[name], margin, max(tests, 1)
        )
        for group_name, group in tested
        for name in names
    ]


def _compare(
    metric: str,
    content_class: str,
    values: Sequence[float],
    floor: float,
    margin: float,
    tests: int,
) -> Comparison:
    inner = mean_interval(values, 1 - 2 * _ALPHA)
    outer = mean_interval(values, 1 - 2 * _ALPHA / tests)
    decision = decide(inner, outer, margin * floor, len(values))
    return Comparison(
        metric=metric,
        content_class=content_class,
        pairs=len(values),
        value=inner.value,
        low=inner.low,
        high=inner.high,
        floors=abs(inner.value) / floor,
        decision=decision,
        decides=METRICS[metric].decides,
        prompts_needed=prompts_needed(values, margin * floor)
        if decision == "inconclusive"
        else None,
    )


def mean_interval(values: Sequence[float], confidence: float) -> Interval:
    """Bootstrap interval of the mean."""

    def mean(sample: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(sample.mean(axis=-1))

    return bootstrap(values, mean, confidence=confidence)


def decide(inner: Interval, outer: Interval, limit: float, pairs: int) -> Decision:
    """Inside, outside, or neither; fewer than FEWEST pairs decide only when all are equal."""
    if pairs < FEWEST:
        return "equivalent" if inner == Interval(0.0, 0.0, 0.0) else "inconclusive"
    if -limit < inner.low and inner.high < limit:
        return "equivalent"
    return "different" if outer.low > limit or outer.high < -limit else "inconclusive"


def prompts_needed(values: Sequence[float], limit: float) -> int:
    """How many pairs would decide with 80 % probability if mean and spread stay (normal theory)."""
    distance = abs(abs(fmean(values)) - limit)
    spread = stdev(values) if len(values) > 1 else abs(fmean(values))
    z = NormalDist().inv_cdf(1 - _ALPHA) + NormalDist().inv_cdf(_POWER)
    if distance == 0:
        return 1_000_000  # on the margin itself: no number of prompts settles it
    return max(FEWEST, min(1_000_000, math.ceil((z * spread / distance) ** 2)))


def overall(comparisons: Sequence[Comparison]) -> Decision:
    """Different if any deciding comparison is; equivalent if all are; else inconclusive."""
    decisions = [c.decision for c in comparisons if c.decides]
    if "different" in decisions:
        return "different"
    return (
        "equivalent" if decisions and all(d == "equivalent" for d in decisions) else "inconclusive"
    )
