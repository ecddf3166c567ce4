"""From paired measurements to a verdict: an equivalence test against a margin in noise floors.

For a distance the question is one-sided: is its mean below the margin? For a signed score it is
two-sided: does the mean difference lie within plus and minus the margin? Both by the interval form
of the two one-sided tests (Schuirmann 1987): `equivalent` when the 90 % interval lies inside the
margin, `different` when an interval that is widened for the number of comparisons (Bonferroni) lies
outside, else `inconclusive`. The intervals are those of `means`.

A mean says little of a rare fault, so single pairs are looked at as well (`outliers`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean, stdev

import numpy as np
from msgspec.structs import replace

from halftime.base.stats import Interval
from halftime.records.verdict import EVERYTHING, Comparison, Decision
from halftime.verbs.verify.means import (
    ENOUGH,
    LEFT_SKEWED,
    SMALLEST,
    distance_mean,
    signed_mean,
    skewness,
)
from halftime.verbs.verify.metrics import METRICS

FEWEST = 5  # pairs in a class for an interval that means something
SENSIBLE = 500  # prompts that anybody draws for a verdict
SEEN_BY = ("flip", "flip_local")  # model a viewer: over the picture, and in a small block
MOST = 1_000_000  # prompts that are ever asked for
_ALPHA = 0.05
_POWER = 0.8


def compare(
    measured: Sequence[Mapping[str, float]],
    classes: Sequence[str],
    floor: Mapping[str, float],
    margin: float,
    *,
    strict: bool = False,
) -> list[Comparison]:
    """Every metric in every class that has enough pairs, and over all pairs.

    What cannot decide here stands aside (`_stand_aside`), except in `strict` mode.
    """
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
    comparisons = []
    for group_name, group in tested:
        rows = [measured[index] for index in group]
        for name in names:
            values = [row[name] for row in rows]
            comparison = _compare(name, group_name, values, floor[name], margin, max(tests, 1))
            reason = "" if strict else _stand_aside(comparison, rows, floor, margin)
            if reason:
                comparison = replace(comparison, decides=False, stands_aside=reason)
            comparisons.append(comparison)
    return comparisons


def _stand_aside(
    comparison: Comparison,
    rows: Sequence[Mapping[str, float]],
    floor: Mapping[str, float],
    margin: float,
) -> str:
    """Why a comparison should not decide, or ''.

    MS-SSIM divides by the contrast, so on flat and dark areas it finds a lost structure where
    nobody sees a difference (Nilsson and Akenine-Moeller 2020, arXiv 2006.13846). FLIP models the
    viewer: where it sees nothing in any block of any pair, MS-SSIM has nothing to add. A judge's
    score that no sensible number of prompts settles says nothing either way.
    """
    if not comparison.decides or comparison.decision == "equivalent":
        return ""
    if comparison.metric == "ms_ssim" and all(name in rows[0] for name in SEEN_BY):
        if all(seen_floors(row, floor) <= margin for row in rows):
            return "FLIP sees no difference in any block of any pair"
    elif METRICS[comparison.metric].kind == "signed":
        need = comparison.prompts_needed or 0
        if comparison.decision == "inconclusive" and need > SENSIBLE:
            return f"it would need {need:,} prompts"
    return ""


def seen_floors(row: Mapping[str, float], floor: Mapping[str, float]) -> float:
    """How much of a pair a viewer sees, in floors."""
    return max(row[name] / floor[name] for name in SEEN_BY)


def _compare(
    metric: str,
    content_class: str,
    values: Sequence[float],
    floor: float,
    margin: float,
    tests: int,
) -> Comparison:
    limit = margin * floor
    is_distance = METRICS[metric].kind == "distance"

    def interval(confidence: float) -> Interval:
        if is_distance:
            return distance_mean(values, confidence, limit, METRICS[metric].largest)
        return signed_mean(values, confidence)

    inner = interval(1 - 2 * _ALPHA)
    decision = decide(inner, interval(1 - 2 * _ALPHA / tests), limit, len(values))
    if is_distance and len(values) < FEWEST and all_far(values, limit, _ALPHA / tests):
        decision = "different"
    undecided = decision == "inconclusive"
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
        prompts_needed=prompts_needed(values, limit, skewed=is_distance) if undecided else None,
    )


def all_far(values: Sequence[float], limit: float, alpha: float) -> bool:
    """Whether so few distances are so large that their mean cannot lie within the limit.

    Were it within, the product of the distances in units of the limit would have a mean of at most
    1, and would exceed 1 / alpha with a probability of at most alpha (Markov). Exact for any
    positive values and any number of them.
    """
    return math.prod(value / limit for value in values) >= 1 / alpha


def decide(inner: Interval, outer: Interval, limit: float, pairs: int) -> Decision:
    """Inside, outside, or neither; fewer than FEWEST pairs decide only when all are equal."""
    if pairs < FEWEST:
        return "equivalent" if inner == Interval(0.0, 0.0, 0.0) else "inconclusive"
    if -limit < inner.low and inner.high < limit:
        return "equivalent"
    return "different" if outer.low > limit or outer.high < -limit else "inconclusive"


def prompts_needed(values: Sequence[float], limit: float, *, skewed: bool = True) -> int:
    """How many pairs would decide with 80 % probability if mean and spread stay (normal theory).

    `skewed` distances that are to be shown within the limit are judged by their logarithms too.
    """
    mean, spread = abs(fmean(values)), stdev(values) if len(values) > 1 else abs(fmean(values))
    need = _pairs_for(spread, abs(mean - limit))
    if skewed and mean < limit and len(values) > 1:
        logs = np.log(np.maximum(values, SMALLEST * limit))
        variance = float(logs.var(ddof=1))
        gap = math.log(limit) - float(logs.mean()) - variance / 2
        by_logs = _pairs_for(math.sqrt(variance + variance**2 / 2), gap)
        need = max(need, min(by_logs, ENOUGH) if skewness(logs) < LEFT_SKEWED else by_logs)
    return max(FEWEST, need)


def _pairs_for(spread: float, gap: float) -> int:
    if gap <= 0:
        return MOST  # on the margin itself: no number of prompts settles it
    z = NormalDist().inv_cdf(1 - _ALPHA) + NormalDist().inv_cdf(_POWER)
    return min(MOST, math.ceil((z * spread / gap) ** 2))


def overall(comparisons: Sequence[Comparison]) -> Decision:
    """Different if any deciding comparison is; equivalent if all are; else inconclusive."""
    decisions = [c.decision for c in comparisons if c.decides]
    if "different" in decisions:
        return "different"
    return (
        "equivalent" if decisions and all(d == "equivalent" for d in decisions) else "inconclusive"
    )
