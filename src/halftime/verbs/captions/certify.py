"""Thresholds with a guarantee: fixed-sequence testing over Clopper-Pearson bounds.

With probability at least 1 - delta over the requests it was calibrated on, at most a share alpha of
what a certified threshold sends to the small model is not acceptable (Angelopoulos et al. 2021,
'Learn then Test', section 4).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from halftime.records.captions import Step
from halftime.verbs.captions.extra import need
from halftime.verbs.captions.features import Array


def upper_bound(errors: int, sent: int, delta: float) -> float:
    """Clopper and Pearson (1934), one-sided at 1 - delta: 1.0 where nothing was seen."""
    if errors >= sent:
        return 1.0
    beta = need("scipy.stats").beta
    return float(beta.ppf(1 - delta, errors + 1, sent - errors))


def upper_bounds(errors: Array, sent: Array, delta: float) -> Array:
    """The same for arrays."""
    beta = need("scipy.stats").beta
    return np.where(
        errors >= sent, 1.0, beta.ppf(1 - delta, errors + 1, np.maximum(sent - errors, 1))
    )


def lower_bound(errors: int, sent: int, delta: float) -> float:
    """Clopper and Pearson (1934), the other side: 0.0 where no error was seen."""
    if not errors:
        return 0.0
    beta = need("scipy.stats").beta
    return float(beta.ppf(delta, errors, sent - errors + 1))


def needed(alpha: float, delta: float, rate: float) -> int | None:
    """How many requests the small model must answer for a certificate, with errors at `rate`.

    None where `rate` is not below alpha, or where a million would not be enough.
    """
    if rate >= alpha:
        return None
    low, high = 1, 1_000_000
    if upper_bound(round(rate * high), high, delta) > alpha:
        return None
    while low < high:
        middle = (low + high) // 2
        passed = upper_bound(round(rate * middle), middle, delta) <= alpha
        low, high = (low, middle) if passed else (middle + 1, high)
    return low


def sequence(
    scores: Array, acceptable: Array, *, alpha: float, delta: float, fresh: int, most: int = 40
) -> list[float]:
    """Thresholds to test on `fresh` other requests, the strictest first.

    The first is the strictest that would pass there even if its error were as large as it may be
    with 80 % confidence, or else the one whose bound is lowest here. Looser ones follow, down to
    where the error here is twice what is allowed. Empty where no threshold has a chance.
    """
    order = np.argsort(-scores, kind="stable")
    errors = np.cumsum(1 - acceptable[order])
    sent = np.arange(1.0, len(order) + 1)
    start = _start(errors, sent, alpha, delta, fresh / len(order))
    if start is None:
        return []
    last = max(start, int(np.flatnonzero(errors / sent <= 2 * alpha)[-1]))
    ranks = np.unique(np.linspace(start, last, most).round().astype(int))
    thresholds = [float(scores[order[rank]]) for rank in ranks]
    return sorted(set(thresholds), reverse=True)


def _start(errors: Array, sent: Array, alpha: float, delta: float, ratio: float) -> int | None:
    fresh_sent = np.floor(sent * ratio)
    unlucky = np.ceil(fresh_sent * upper_bounds(errors, sent, 0.2))
    safe = np.flatnonzero(upper_bounds(unlucky, fresh_sent, delta) <= alpha)
    if len(safe):
        return int(safe[0])
    bounds = upper_bounds(errors, sent, delta)
    best = int(bounds.argmin())
    return best if bounds[best] <= alpha else None


def certified(
    thresholds: Sequence[float], scores: Array, acceptable: Array, *, alpha: float, delta: float
) -> list[Step]:
    """Test the thresholds in order up to the first that fails; the last that passed is certified.

    Every test is at level delta, and no correction is needed, since each is only reached if those
    before it passed (fixed-sequence testing). `scores` and `acceptable` must be of requests that
    chose nothing before.
    """
    steps: list[Step] = []
    for threshold in thresholds:
        chosen = scores >= threshold
        sent, errors = int(chosen.sum()), int((1 - acceptable[chosen]).sum())
        bound = upper_bound(errors, sent, delta) if sent else 1.0
        steps.append(
            Step(threshold=threshold, sent=sent, errors=errors, bound=bound, passed=bound <= alpha)
        )
        if bound > alpha:
            break
    return steps


def threshold_of(steps: Sequence[Step]) -> float | None:
    """The last threshold that passed."""
    passed = [step.threshold for step in steps if step.passed]
    return passed[-1] if passed else None
