"""Hard prompts in full: a score of the first steps says which calls go on cheaply.

A cheap setting that shares its first steps with the recipe can be left until then without throwing
anything away. A score that was learned from such steps predicts how far the cheap picture will be
from the full one, and a threshold on it is certified like a setting: thresholds are tested from
strict to loose on prompts that neither taught the score nor chose the thresholds, up to the first
at which too many of all pictures, cheap and full, differ visibly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from halftime.base.certain import fixed_sequence, most_failures, pass_chance
from halftime.base.stats import largest_share
from halftime.verbs.tune.race import SURE

Array = NDArray[np.float64]
_RIDGE = 10.0  # how much the weights are held down, in prompts
_SMALLEST = 1e-3
_THRESHOLDS = 20  # that are tested at most
_FOLDS = 6  # the learned prompts are scored by the others, for a forecast


class Routed(NamedTuple):
    """A score (`weights`, the constant last, on features of mean `centre` and spread `scale`) and
    the certified threshold: -inf where everything is drawn in full."""

    weights: Array
    centre: Array
    scale: Array
    threshold: float
    cheap_share: float  # of the test's pictures
    different: int  # of the test's pictures, cheap and full
    at_most: float  # of all pictures, with the confidence; 1.0 where nothing was certified

    def setting(self) -> list[float]:
        """For `hard` of the fix `step-cache`: weights of the plain features, constant, threshold.

        Raises ValueError where nothing was certified.
        """
        if self.threshold == -np.inf:
            raise ValueError("no threshold was certified: every call is to be drawn in full")
        weights = self.weights[:-1] / self.scale
        constant = self.weights[-1] - float(weights @ self.centre)
        return [*map(float, weights), float(constant), self.threshold]


def learned(features: Array, sizes: Array) -> tuple[Array, Array, Array]:
    """Weights, centre and scale of a ridge regression for the logarithm of a pair's size."""
    centre, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-9)
    columns = np.column_stack([(features - centre) / scale, np.ones(len(features))])
    penalty = _RIDGE * np.eye(columns.shape[1])
    penalty[-1, -1] = 0.0
    goal = np.log(np.clip(sizes, _SMALLEST, 1 / _SMALLEST))
    weights = np.linalg.solve(columns.T @ columns + penalty, columns.T @ goal)
    return weights, centre, scale


def score(weights: Array, centre: Array, scale: Array, features: Array) -> Array:
    """Each prompt's: larger is harder."""
    return np.asarray((features - centre) / scale @ weights[:-1] + weights[-1])


def thresholds_of(scores: Array) -> list[float]:
    """What is tested: everything in full, then thresholds from strict to loose."""
    quantiles = np.quantile(scores, np.linspace(0, 1, _THRESHOLDS + 1)[1:])
    return [-np.inf, *map(float, quantiles)]


def foreseen(
    features: Array, cheap: Array, full: Array, draws: int, alpha: float, confidence: float
) -> float:
    """The share of prompts that a router learned from these will draw cheaply: that of the loosest
    threshold which a test on so many draws is very likely to pass, each prompt scored by a router
    that did not see it. 0.0 where there is none."""
    scores = np.empty(len(cheap))
    for fold in range(_FOLDS):
        out = np.arange(len(cheap)) % _FOLDS == fold
        scores[out] = score(*learned(features[~out], cheap[~out]), features[out])
    share = 0.0
    for threshold in thresholds_of(scores):
        is_cheap = scores <= threshold
        different = int((np.where(is_cheap, cheap, full) > 1).sum())
        expected = (different + 0.5) / (len(cheap) + 1)  # Jeffreys' mean
        if pass_chance(expected, draws, alpha, confidence) < SURE:
            break
        share = float(is_cheap.mean())
    return share


def calibrate(
    features: Array,
    cheap: Array,
    full: Array,
    learning: NDArray[np.intp],
    tests: NDArray[np.intp],
    alpha: float,
    confidence: float,
) -> Routed:
    """Learn the score on some prompts, and certify a threshold on others.

    `cheap` and `full` are the sizes of each prompt's pair, drawn cheaply and in full.
    """
    parts = learned(features[learning], cheap[learning])
    thresholds = thresholds_of(score(*parts, features[learning]))
    scores = score(*parts, features[tests])
    allowed = most_failures(len(tests), alpha, confidence)

    def different(threshold: float) -> int:
        sizes = np.where(scores <= threshold, cheap[tests], full[tests])
        return int((sizes > 1).sum())

    results = fixed_sequence(thresholds, different, lambda count: count <= allowed)
    passed = [count for count in results if count <= allowed]
    if not passed:
        return Routed(*parts, -np.inf, 0.0, results[-1], 1.0)
    threshold = thresholds[len(passed) - 1]
    return Routed(
        *parts,
        float(threshold),
        float((scores <= threshold).mean()),
        passed[-1],
        largest_share(passed[-1], len(tests), confidence=confidence),
    )


def route(routed: Routed, features: Array) -> NDArray[np.bool_]:
    """Which prompts go on cheaply."""
    scores = score(routed.weights, routed.centre, routed.scale, features)
    return np.asarray(scores <= routed.threshold)
