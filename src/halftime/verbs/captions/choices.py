"""Which requests go small, which are checked first: a path of choices from strict to loose.

On the path each choice is the best for one price of an error: the requests whose answers are sent
without a check, those that are asked and checked, and those that go to the large model at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from halftime.records.captions import Router
from halftime.verbs.captions.features import Array
from halftime.verbs.captions.price import Prices
from halftime.verbs.captions.router import first_probabilities, probabilities, strangeness

STEPS = 240
_ROUNDING = 1e-9  # requests of equal probability stay together
GRID = 100  # quantiles that a first look's thresholds are taken from


class Scores(NamedTuple):
    """Probabilities of an acceptable answer, -1 for a strange request.

    `first` is of a cascade's first look, before the check; None in a route.
    """

    last: Array
    first: Array | None = None


class Thresholds(NamedTuple):
    """One choice: what `Router.threshold` and the thresholds of a first look are."""

    threshold: float
    small_from: float = 2.0
    ask_from: float = -2.0


class Sent(NamedTuple):
    """1.0 for each request whose small answer is given, and for each that the judge looks at."""

    small: Array
    checked: Array


def scores_of(router: Router, values: Array) -> Scores:
    """Probabilities as the live router uses them: nothing strange is ever sent."""
    last = np.where(strangeness(router, values) > router.limit, -1.0, probabilities(router, values))
    if router.first_look is None:
        return Scores(last)
    without = values[:, :-1]
    odd = strangeness(router, without) > router.limit
    return Scores(last, np.where(odd, -1.0, first_probabilities(router, without)))


def without(scores: Scores, barred: Array) -> Scores:
    """The same where the requests that a rule bars (1.0) are never sent."""
    first = scores.first
    return Scores(
        np.where(barred > 0, -1.0, scores.last),
        None if first is None else np.where(barred > 0, -1.0, first),
    )


def sent(scores: Scores, thresholds: Thresholds | None, cascade: bool) -> Sent:
    """Who gets the small model's answer; nobody without thresholds."""
    nobody = np.zeros(len(scores.last))
    if thresholds is None:
        return Sent(nobody, nobody)
    enough = scores.last >= thresholds.threshold
    if scores.first is None:
        return Sent(enough.astype(float), nobody + 1.0 if cascade else nobody)
    direct = scores.first >= thresholds.small_from
    ask = ~direct & (scores.first >= thresholds.ask_from)
    return Sent((direct | (ask & enough)).astype(float), ask.astype(float))


def thresholds_of(router: Router) -> Thresholds | None:
    """A router's own choice."""
    if router.threshold is None:
        return None
    look = router.first_look
    if look is None:
        return Thresholds(router.threshold)
    return Thresholds(router.threshold, look.small_from, look.ask_from)


def path(scores: Scores, prices: Prices, alpha: float) -> list[Thresholds]:
    """Choices from strict to loose, by held-out probabilities and what requests cost.

    A small answer of probability p is worth what it saves less `weight` x (1 - p - alpha), for a
    weight that falls along the path (the Lagrangian of 'most savings with an error of alpha').
    """
    if scores.first is None:
        return _route_path(scores.last)
    stricter = [(alpha * share, 1e4) for share in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)]
    looser = [(alpha, float(weight)) for weight in np.geomspace(1e3, 0.3, STEPS)]
    ranking = _Ranking(scores, prices)
    return list(dict.fromkeys(ranking.best(*step) for step in (*stricter, *looser)))


def _route_path(probability: Array) -> list[Thresholds]:
    ranked = np.unique(probability[probability >= 0])[::-1]
    if not len(ranked):
        return []
    ranks = np.unique(np.linspace(0, len(ranked) - 1, 400).round().astype(int))
    return [Thresholds(float(ranked[rank]) - _ROUNDING) for rank in ranks]


class _Ranking:
    """Requests by the first look's probability, with what they cost in units of a large answer."""

    def __init__(self, scores: Scores, prices: Prices) -> None:
        assert scores.first is not None
        order = np.argsort(-scores.first, kind="stable")
        unit = float(prices.large_cost.mean())
        self.first, self.last = scores.first[order], scores.last[order]
        self.large, self.small = prices.large_cost[order] / unit, prices.small_cost[order] / unit
        self.check = prices.check_cost[order] / unit
        self.ranks = np.unique(np.linspace(0, len(order), GRID + 1).round().astype(int))

    def best(self, alpha: float, weight: float) -> Thresholds:
        """Where the sum of what the requests are worth is largest."""
        threshold = 1 - alpha - 1 / weight
        direct = self.large - self.small - weight * (1 - self.first - alpha)
        worth = self.large - weight * (1 - self.last - alpha)
        checked = np.where(self.last >= threshold, worth, 0.0) - self.small - self.check
        # what the first n requests are worth, sent directly or asked; at a few n alone
        checked_sums = _sums(checked)[self.ranks]
        gains = _sums(direct)[self.ranks] - checked_sums
        best_ends = np.maximum.accumulate(checked_sums[::-1])[::-1]  # at or after each rank
        start = int((gains + best_ends).argmax())
        end = start + int(checked_sums[start:].argmax())
        return Thresholds(threshold, self._score_at(start), self._score_at(end))

    def _score_at(self, rank: int) -> float:
        """The threshold that the requests before `rank` meet."""
        count = int(self.ranks[rank])
        if count == 0:
            return 2.0
        return 0.0 if count == len(self.first) else float(self.first[count - 1]) - _ROUNDING


def _sums(values: Array) -> Array:
    """Of the first n, for n from 0."""
    return np.concatenate([[0.0], np.cumsum(values)])
