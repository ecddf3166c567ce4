"""The decision: a pure function of a calibrated router and a request's features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from halftime.records.captions import Router
from halftime.verbs.captions.features import Array

Reason = Literal[
    "acceptable",
    "threshold",
    "uncertified",
    "unlike",
    "no picture",
    "many pictures",
    "picture by url",
    "not seen",
    "not understood",
    "timeout",
    "check",
    "failed",
]


class Decision(NamedTuple):
    """Which model, and why.

    `probability` is that of an acceptable small answer, where it was computed.
    """

    small: bool
    reason: Reason
    probability: float | None = None


def probabilities(router: Router, values: Array) -> Array:
    """Requests x features -> the probability of an acceptable answer."""
    logits = standard(router, values) @ np.asarray(router.weights) + router.intercept
    return np.asarray(1 / (1 + np.exp(-np.clip(router.slope * logits + router.offset, -60, 60))))


def standard(router: Router, values: Array) -> Array:
    """Standard scores, by the calibration's mean and scale."""
    return np.asarray((values - np.asarray(router.mean)) / np.asarray(router.scale))


def strangeness(router: Router, values: Array) -> Array:
    """Mean squared standard score of each row; about 1 for requests like the calibrated ones."""
    return np.asarray(np.square(standard(router, values)).mean(axis=-1))


def decide(router: Router, features: Sequence[float]) -> Decision:
    """Small only with a certificate, a request like the calibrated ones, and the threshold met."""
    if router.threshold is None:
        return Decision(False, "uncertified")
    if len(features) != len(router.features):
        return Decision(False, "not understood")
    values = np.asarray([features], dtype=float)
    if not np.isfinite(values).all() or strangeness(router, values)[0] > router.limit:
        return Decision(False, "unlike")
    probability = float(probabilities(router, values)[0])
    if math.isnan(probability):
        return Decision(False, "unlike")
    small = probability >= router.threshold
    return Decision(small, "acceptable" if small else "threshold", probability)
