"""Single pairs: one wrong picture in 24 hardly moves a mean, and is a fault all the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from halftime.base.stats import largest_share
from halftime.records.verdict import Outlier, VisibleShare
from halftime.verbs.verify.decide import SEEN_BY, seen_floors
from halftime.verbs.verify.pictures import Picture

CONFIDENCE = 0.95
_FAR_OUT = 3.0  # interquartile ranges beyond the third quartile: Tukey's outer fence
_TWICE = 2.0  # margins: an outlier just beyond the margin is left to the mean


def outliers(
    pictures: Sequence[Picture],
    rows: Sequence[Mapping[str, float]],
    floor: Mapping[str, float],
    unrelated: Mapping[str, NDArray[np.float64]],
    margin: float,
) -> list[Outlier]:
    """Pairs that are a difference by themselves, the farthest first.

    Either by a distance that a quarter of unrelated pictures do not reach, or because they are seen
    and lie far outside of what the other pairs do.
    """
    fence = _fence([seen_floors(row, floor) for row in rows])
    result = []
    for picture, row in zip(pictures, rows, strict=True):
        outlier = _stranger(picture, row, floor, unrelated, margin) or _far_out(
            picture, row, floor, max(fence, _TWICE * margin)
        )
        if outlier:
            result.append(outlier)
    return sorted(result, key=lambda outlier: -outlier.floors)


def _fence(sizes: Sequence[float]) -> float:
    """Tukey's outer fence (1977) of the sizes' logarithms; sizes under a floor count as one."""
    logs = np.log(np.maximum(sizes, 1.0))
    low, high = np.quantile(logs, [0.25, 0.75], method="lower")
    return math.exp(high + _FAR_OUT * (high - low))


def _stranger(
    picture: Picture,
    row: Mapping[str, float],
    floor: Mapping[str, float],
    unrelated: Mapping[str, NDArray[np.float64]],
    margin: float,
) -> Outlier | None:
    for name, distances in unrelated.items():
        near, typical = np.quantile(distances, [0.25, 0.5])
        if row[name] >= near and row[name] > margin * floor[name]:
            reason = (
                f"as far from the baseline's as pictures of different prompts are: {name} "
                f"{row[name]:.2g}, theirs {typical:.2g}"
            )
            return _outlier(picture, name, row[name], floor, reason)
    return None


def _far_out(
    picture: Picture, row: Mapping[str, float], floor: Mapping[str, float], limit: float
) -> Outlier | None:
    name = max(SEEN_BY, key=lambda name: row[name] / floor[name])
    floors = row[name] / floor[name]
    if floors <= limit:
        return None
    where = " in one block of 8x8 pixels" if name == "flip_local" else ""
    reason = f"it differs visibly{where} and others do not: {floors:.2g} noise floors by {name}"
    return _outlier(picture, name, row[name], floor, reason)


def _outlier(
    picture: Picture, metric: str, value: float, floor: Mapping[str, float], reason: str
) -> Outlier:
    return Outlier(
        name=picture.name,
        content_class=picture.content_class,
        metric=metric,
        value=value,
        floors=value / floor[metric],
        reason=reason,
    )


def visible_share(
    rows: Sequence[Mapping[str, float]], floor: Mapping[str, float], margin: float, broken: int
) -> VisibleShare:
    """The pictures that differ visibly, `broken` ones besides the measured ones included."""
    different = sum(seen_floors(row, floor) > margin for row in rows) + broken
    pairs = len(rows) + broken
    return VisibleShare(
        pairs=pairs,
        different=different,
        at_most=largest_share(different, pairs, confidence=CONFIDENCE),
        confidence=CONFIDENCE,
    )
