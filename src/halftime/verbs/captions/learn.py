"""How likely the small model's answer is acceptable: logistic regression, recalibrated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from halftime.verbs.captions.extra import need
from halftime.verbs.captions.features import Array, Indices

STRENGTHS = (0.003, 0.03, 0.3)  # inverse L2 penalties that are tried
FAR = 1.25  # how much farther out than the farthest calibrated request still counts as like them


class Learned(NamedTuple):
    """The numbers of a Router that are learned."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    slope: float
    offset: float
    limit: float


def learned(
    values: Array, acceptable: Array, fresh_values: Array, fresh_acceptable: Array
) -> Learned:
    """Fit on the first pair, choose the penalty and recalibrate (Platt 1999) on the second.

    Where all requests of a pair agree there is nothing to learn: the model then gives their share
    to everyone.
    """
    mean, scale = values.mean(0), values.std(0) + 1e-6
    scaled, fresh = (values - mean) / scale, (fresh_values - mean) / scale
    limit = FAR * float(max(np.square(scaled).mean(1).max(), np.square(fresh).mean(1).max()))
    weights, intercept = _weights(scaled, acceptable, fresh, fresh_acceptable)
    slope, offset = _platt(fresh @ weights + intercept, fresh_acceptable)
    return Learned(
        _numbers(mean), _numbers(scale), _numbers(weights), intercept, slope, offset, limit
    )


def _numbers(values: Array) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _weights(
    scaled: Array, acceptable: Array, fresh: Array, fresh_acceptable: Array
) -> tuple[Array, float]:
    if acceptable.min() == acceptable.max():
        return np.zeros(scaled.shape[1]), 0.0
    linear = need("sklearn.linear_model")
    best: tuple[float, Array, float] | None = None
    for strength in STRENGTHS:
        model = linear.LogisticRegression(C=strength, max_iter=2000).fit(scaled, acceptable)
        weights, intercept = np.asarray(model.coef_[0]), float(model.intercept_[0])
        loss = _log_loss(fresh @ weights + intercept, fresh_acceptable)
        if best is None or loss < best[0]:
            best = (loss, weights, intercept)
    assert best is not None
    return best[1], best[2]


def _log_loss(logits: Array, acceptable: Array) -> float:
    return float(np.logaddexp(0, np.where(acceptable > 0, -logits, logits)).mean())


def _platt(logits: Array, acceptable: Array) -> tuple[float, float]:
    """Slope and offset of a logistic curve through the held-out logits.

    Where all requests agree there is no curve: the offset then gives their smoothed share.
    """
    if acceptable.min() == acceptable.max() or np.ptp(logits) == 0:
        share = (acceptable.sum() + 1) / (len(acceptable) + 2)
        return 1.0, float(np.log(share / (1 - share)) - (logits[0] if len(logits) else 0.0))
    linear = need("sklearn.linear_model")
    model = linear.LogisticRegression(C=1e6).fit(logits[:, None], acceptable)
    slope = float(model.coef_[0, 0])
    # A falling curve would reverse the order, which only chance on few examples can do.
    return (slope, float(model.intercept_[0])) if slope > 0 else (1.0, 0.0)


def split(groups: Sequence[int], shares: Sequence[float], seed: int) -> list[Indices]:
    """Disjoint indices by shares, whole groups together, at random."""
    rng = np.random.default_rng(seed)
    names = np.asarray(groups)
    order = rng.permutation(np.unique(names))
    ends = np.round(np.cumsum(shares) * len(order)).astype(int)
    parts = np.split(order, ends[:-1])
    return [np.flatnonzero(np.isin(names, part)) for part in parts]


def one_of_each(indices: Indices, groups: Sequence[int], seed: int) -> Indices:
    """One request of every group, at random: near duplicates are not independent evidence."""
    shuffled = np.random.default_rng(seed).permutation(indices)
    _, first = np.unique(np.asarray(groups)[shuffled], return_index=True)
    return np.sort(shuffled[first])
