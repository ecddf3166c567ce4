"""The decision: a pure function of a calibrated router and a request's features."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from halftime.records.captions import FirstLook, Router
from halftime.verbs.captions.boosting import CompiledTrees
from halftime.verbs.captions.features import Array

Reason = Literal[
    "acceptable",
    "threshold",
    "ask",
    "uncertified",
    "unlike",
    "not calibrated",
    "no picture",
    "many pictures",
    "picture by url",
    "not seen",
    "not understood",
    "timeout",
    "check",
    "failed",
    "rule",
    "drift",
]
_COMPILED: OrderedDict[int, CompiledRouter] = OrderedDict()
_MOST_COMPILED = 16


class Decision(NamedTuple):
    """Which model, and why; `ask`: the small one's answer must be checked first.

    `probability` is that of an acceptable small answer, where it was computed.
    """

    small: bool
    reason: Reason
    probability: float | None = None


class _LogitModel:
    """One logistic model with its trees, as arrays."""

    def __init__(self, model: Router | FirstLook) -> None:
        self.weights = np.asarray(model.weights)
        self.intercept, self.slope, self.offset = model.intercept, model.slope, model.offset
        self.trees = CompiledTrees(model.trees) if model.trees is not None else None

    def probabilities(self, scores: Array) -> Array:
        logits = self.slope * (scores @ self.weights + self.intercept) + self.offset
        if self.trees is not None:
            logits = logits + self.trees.slope * self.trees.logits(scores)
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))))


class CompiledRouter:
    """A router as arrays: converting its tuples would take longer than a decision."""

    def __init__(self, router: Router) -> None:
        self.router = router  # held, so that its id is not given to another one
        self.mean, self.scale = np.asarray(router.mean), np.asarray(router.scale)
        self.last = _LogitModel(router)
        self.first = _LogitModel(router.first_look) if router.first_look is not None else None

    def standard(self, values: Array) -> Array:
        """Standard scores of features, with the check or without it."""
        width = values.shape[-1]
        return np.asarray((values - self.mean[:width]) / self.scale[:width])


def compiled(router: Router) -> CompiledRouter:
    """The same router as arrays; the last few are remembered."""
    ready = _COMPILED.get(id(router))
    if ready is None:
        ready = _COMPILED[id(router)] = CompiledRouter(router)
        while len(_COMPILED) > _MOST_COMPILED:
            _COMPILED.popitem(last=False)
    return ready


def probabilities(router: Router, values: Array) -> Array:
    """Requests x features -> the probability of an acceptable answer."""
    ready = compiled(router)
    return ready.last.probabilities(ready.standard(values))


def first_probabilities(router: Router, values: Array) -> Array:
    """Requests x features without the check -> the same, by a cascade's first look."""
    ready = compiled(router)
    assert ready.first is not None, "this router has no first look"
    return ready.first.probabilities(ready.standard(values))


def strangeness(router: Router, values: Array) -> Array:
    """Mean squared standard score of each row; about 1 for requests like the calibrated ones."""
    return np.asarray(np.square(compiled(router).standard(values)).mean(axis=-1))


def decide(router: Router, features: Sequence[float]) -> Decision:
    """Small only with a certificate, a request like the calibrated ones, and the threshold met.

    `features` of a cascade end with the check; without it only its first look decides, or nothing
    can be decided before the small model is asked.
    """
    if router.threshold is None:
        return Decision(False, "uncertified")
    unchecked = router.mode == "cascade" and len(features) == len(router.features) - 1
    if len(features) != len(router.features) and not unchecked:
        return Decision(False, "not understood")
    values = np.asarray([features], dtype=float)
    if not np.isfinite(values).all() or strangeness(router, values)[0] > router.limit:
        return Decision(False, "unlike")
    if unchecked:
        look = router.first_look
        if look is None:
            return Decision(False, "ask")
        return _first(look, float(first_probabilities(router, values)[0]))
    probability = float(probabilities(router, values)[0])
    if math.isnan(probability):
        return Decision(False, "unlike")
    small = probability >= router.threshold
    return Decision(small, "acceptable" if small else "threshold", probability)


def _first(look: FirstLook, probability: float) -> Decision:
    if probability >= look.small_from:
        return Decision(True, "acceptable", probability)
    if probability >= look.ask_from:
        return Decision(False, "ask", probability)
    # nan, too
    return Decision(False, "threshold", probability)
