"""What a way of choosing costs, router, judge and wasted small calls included; how good it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from halftime.records.captions import Policy
from halftime.verbs.captions.features import Array, Indices
from halftime.verbs.captions.log import Log

RESAMPLES = 1000


@dataclass(frozen=True)
class Prices:
    """Quality, cost and seconds of both models and of the judge's check, request by request."""

    small_quality: Array
    large_quality: Array
    small_cost: Array
    large_cost: Array
    small_seconds: Array
    large_seconds: Array
    check_cost: Array
    check_seconds: Array
    acceptable: Array  # 1.0 where the small answer is within the tolerance
    family: Indices  # of near duplicates
    router_cost: float = 0.0
    router_seconds: float = 0.0

    def of(self, chosen: Indices) -> Prices:
        """Some of the requests."""
        arrays = {
            name: value[chosen]
            for name, value in vars(self).items()
            if name not in ("router_cost", "router_seconds")
        }
        return Prices(**arrays, router_cost=self.router_cost, router_seconds=self.router_seconds)


def prices_of(log: Log, tolerance: float, router_cost: float, router_seconds: float) -> Prices:
    """The log as arrays."""
    rows = log.rows
    column = np.asarray
    small, large = column([r.small.quality for r in rows]), column([r.large.quality for r in rows])
    return Prices(
        small,
        large,
        column([r.small.cost for r in rows]),
        column([r.large.cost for r in rows]),
        column([r.small.seconds for r in rows]),
        column([r.large.seconds for r in rows]),
        column([r.check.cost if r.check else 0.0 for r in rows]),
        column([r.check.seconds if r.check else 0.0 for r in rows]),
        (small >= large - tolerance - 1e-12).astype(float),
        np.asarray(log.groups, dtype=np.intp),
        router_cost,
        router_seconds,
    )


def paid(
    prices: Prices, small: Array, checked: Array | None = None, *, routed: bool = False
) -> tuple[Array, Array]:
    """Cost and seconds of each request; `small` is the chance (0 to 1) of the small answer.

    Where the answer is `checked`, the small model and the judge are paid in any case. `routed`: a
    router decided, and is paid, too.
    """
    checks = np.zeros(len(small)) if checked is None else checked
    small_calls, large_calls = np.maximum(small, checks), 1 - small
    cost = small_calls * prices.small_cost + checks * prices.check_cost
    seconds = small_calls * prices.small_seconds + checks * prices.check_seconds
    cost, seconds = (
        cost + large_calls * prices.large_cost,
        seconds + large_calls * prices.large_seconds,
    )
    return (
        (cost + prices.router_cost, seconds + prices.router_seconds) if routed else (cost, seconds)
    )


def policy(
    name: str,
    prices: Prices,
    small: Array,
    checked: Array | None = None,
    *,
    routed: bool = False,
    resamples: int = RESAMPLES,
) -> Policy:
    """A way of choosing, with bootstrap intervals over families of near duplicates."""
    cost, seconds = paid(prices, small, checked, routed=routed)
    quality = small * prices.small_quality + (1 - small) * prices.large_quality
    savings, interval, quality_interval = _intervals(prices, cost, quality, resamples)
    sent = float(small.sum())
    return Policy(
        name=name,
        small_share=float(small.mean()),
        cost=float(cost.mean()),
        seconds=float(seconds.mean()),
        quality=float(quality.mean()),
        quality_low=quality_interval[0],
        quality_high=quality_interval[1],
        savings=savings,
        low=interval[0],
        high=interval[1],
        error=float((small * (1 - prices.acceptable)).sum()) / sent if sent else None,
    )


def _intervals(
    prices: Prices, cost: Array, quality: Array, resamples: int
) -> tuple[float, tuple[float, float], tuple[float, float]]:
    savings = float(1 - cost.sum() / prices.large_cost.sum())
    if not resamples:
        return savings, (savings, savings), (float(quality.mean()),) * 2
    _, family = np.unique(prices.family, return_inverse=True)
    sums = np.column_stack(
        [
            np.bincount(family, column)
            for column in (cost, prices.large_cost, quality, np.ones(len(cost)))
        ]
    )
    # how often a bootstrap draws each family; a hundred at a time, for the memory's sake
    rng, equal = np.random.default_rng(0), np.full(len(sums), 1 / len(sums))
    totals = np.concatenate(
        [rng.multinomial(len(sums), equal, size=100) @ sums for _ in range(resamples // 100)]
    )
    low, high = np.quantile(1 - totals[:, 0] / totals[:, 1], [0.025, 0.975])
    bottom, top = np.quantile(totals[:, 2] / totals[:, 3], [0.025, 0.975])
    return savings, (float(low), float(high)), (float(bottom), float(top))


def mixed_at(prices: Prices, cost: float) -> Array:
    """Random mixing that costs `cost` a request: the same chance of the small model for all."""
    small, large = prices.small_cost.mean(), prices.large_cost.mean()
    chance = float(np.clip((large - cost) / (large - small), 0, 1)) if large != small else 0.0
    return np.full(len(prices.small_cost), chance)
