"""How likely the small model's answer is acceptable: a logistic model and boosted trees, stacked.

Everything that is chosen (the penalty, how far to trust either part) is chosen on predictions for
families that the predicting model had not seen (cross-fitting), so that all requests teach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from halftime.records.captions import Trees
from halftime.verbs.captions.boosting import boosted, leaves
from halftime.verbs.captions.extra import need
from halftime.verbs.captions.features import Array, Indices

STRENGTHS = (0.003, 0.03, 0.3)  # inverse L2 penalties that are tried
FOLDS = 3
FEWEST_FOR_TREES = 500  # requests; with fewer the logistic model is better alone
FAR = 1.25  # how much farther out than the farthest learned request still counts as like them


class Scale(NamedTuple):
    """What standard scores are taken by, and how strange a request may be."""

    mean: Array
    width: Array
    limit: float


class Learned(NamedTuple):
    """One model of a Router; `held_out` are its probabilities for requests it had not seen."""

    weights: tuple[float, ...]
    intercept: float
    slope: float
    offset: float
    trees: Trees | None
    held_out: Array


def scale_of(values: Array) -> Scale:
    """Standard scores as these requests have them."""
    mean, width = values.mean(0), values.std(0) + 1e-6
    return Scale(mean, width, FAR * float(np.square((values - mean) / width).mean(1).max()))


def learned(values: Array, acceptable: Array, families: Indices, seed: int = 0) -> Learned:
    """Fit to standard scores.

    Where all requests agree, or a fold has only one kind, there is nothing to learn: the model then
    gives their share to everyone.
    """
    fold = folds(families, seed)
    parts = [acceptable[fold != number] for number in range(FOLDS)]
    if min(len(np.unique(part)) for part in parts) < 2:
        return constant(values.shape[1], acceptable)
    strength, linear = _linear_held_out(values, acceptable, fold)
    model = _logistic(strength, values, acceptable)
    weights, intercept = np.asarray(model.coef_[0]), float(model.intercept_[0])
    if len(values) < FEWEST_FOR_TREES:
        slope, _, offset = _stacked(linear, np.zeros_like(linear), acceptable)
        probability = _chance(slope * linear + offset)
        return Learned(_numbers(weights), intercept, slope, offset, None, probability)
    trees = np.zeros(len(values))
    for number in range(FOLDS):
        own = fold == number
        trees[own] = leaves(boosted(values[~own], acceptable[~own], seed), values[own])
    slope, tree_slope, offset = _stacked(linear, trees, acceptable)
    probability = _chance(slope * linear + tree_slope * trees + offset)
    forest = boosted(values, acceptable, seed, slope=tree_slope) if tree_slope else None
    return Learned(_numbers(weights), intercept, slope, offset, forest, probability)


def folds(families: Indices, seed: int) -> Indices:
    """Each request's fold, whole families together."""
    _, family = np.unique(families, return_inverse=True)
    order = np.random.default_rng(seed).permutation(int(family.max(initial=0)) + 1)
    return np.asarray(order[family] % FOLDS)


def _numbers(values: Array) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _chance(logits: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))))


def constant(width: int, acceptable: Array) -> Learned:
    """The same probability for everyone: where nothing can be learned, or need be."""
    share = (acceptable.sum() + 1) / (len(acceptable) + 2)
    intercept = float(np.log(share / (1 - share)))
    return Learned(
        (0.0,) * width, intercept, 1.0, 0.0, None, _chance(np.full(len(acceptable), intercept))
    )


def _logistic(strength: float, values: Array, acceptable: Array):  # type: ignore[no-untyped-def]
    linear = need("sklearn.linear_model")
    return linear.LogisticRegression(C=strength, max_iter=2000).fit(values, acceptable)


def _linear_held_out(values: Array, acceptable: Array, fold: Indices) -> tuple[float, Array]:
    """The best penalty, and its logits for requests of folds that it was not fitted on."""
    best: tuple[float, float, Array] | None = None
    for strength in STRENGTHS:
        logits = np.zeros(len(values))
        for number in range(FOLDS):
            own = fold == number
            model = _logistic(strength, values[~own], acceptable[~own])
            logits[own] = values[own] @ model.coef_[0] + model.intercept_[0]
        loss = float(np.logaddexp(0, np.where(acceptable > 0, -logits, logits)).mean())
        if best is None or loss < best[0]:
            best = (loss, strength, logits)
    assert best is not None
    return best[1], best[2]


def _stacked(linear: Array, trees: Array, acceptable: Array) -> tuple[float, float, float]:
    """Two slopes and an offset of a logistic curve through held-out logits (Platt 1999).

    A falling curve would reverse the order, which only chance on few examples can do: the part that
    falls is left out.
    """
    columns = np.column_stack([linear, trees])
    useful = np.ptp(columns, axis=0) > 0
    slopes, offset = np.zeros(2), 0.0
    while useful.any():
        model = _logistic(1e6, columns[:, useful], acceptable)
        slopes[:], offset = 0.0, float(model.intercept_[0])
        slopes[useful] = model.coef_[0]
        if (slopes >= 0).all():
            return float(slopes[0]), float(slopes[1]), offset
        useful &= slopes > 0
    share = (acceptable.sum() + 1) / (len(acceptable) + 2)
    return 0.0, 0.0, float(np.log(share / (1 - share)))


def split(groups: Sequence[int], shares: Sequence[float], seed: int) -> list[Indices]:
    """Disjoint indices by shares, whole groups together, at random."""
    rng = np.random.default_rng(seed)
    names = np.asarray(groups)
    order = rng.permutation(np.unique(names))
    ends = np.round(np.cumsum(shares) * len(order)).astype(int)
    parts = np.split(order, ends[:-1])
    return [np.flatnonzero(np.isin(names, part)) for part in parts]
