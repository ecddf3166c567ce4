"""Choices with a guarantee: fixed-sequence testing over Clopper-Pearson bounds.

With probability at least 1 - delta over the requests it was calibrated on, at most a share alpha of
what a certified choice sends to the small model is not acceptable (Angelopoulos et al. 2021,
'Learn then Test', section 4). `families` draws the requests that prove it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from halftime.base.certain import fixed_sequence
from halftime.records.captions import Step
from halftime.verbs.captions.extra import need
from halftime.verbs.captions.features import Array

SURE = 0.99  # the chance to pass that the first test should have


def upper_bound(errors: float, sent: float, delta: float) -> float:
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


@cache
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


def most_errors(alpha: float, delta: float, sent: Array) -> Array:
    """The most errors among `sent` (counts) that still certify alpha; -1 where not even 0 would."""
    most = np.full(len(sent), -1.0)
    for errors in range(int(alpha * sent.max(initial=0)) + 1):
        passed = upper_bounds(np.full(len(sent), float(errors)), sent, delta) <= alpha
        if not passed.any():
            break
        most[passed] = errors
    return most


def sequence(
    errors: Array,
    sent: Array,
    pool: int,
    *,
    alpha: float,
    delta: float,
    draws: int,
    most: int = 100,
) -> list[int]:
    """Which choices to test on `draws` fresh requests: numbers of those, the strictest first.

    `errors` and `sent` are each choice's, among `pool` requests that it was chosen by. The first is
    the strictest that passes with a chance of SURE, or else the one whose chance is best; looser
    ones follow, down to where the error here is twice what is allowed. Empty where no choice would
    pass even without an error.
    """
    if not pool or not len(sent):
        return []
    chances = pass_chances(errors, sent, np.floor(sent * draws / pool), alpha, delta)
    sure = np.flatnonzero(chances >= SURE)
    start = int(sure[0]) if len(sure) else int(chances.argmax())
    if not chances[start] > 0:
        return []
    allowed = np.flatnonzero(errors <= 2 * alpha * sent)
    last = max(start, int(allowed[-1])) if len(allowed) else start
    return sorted(set(np.linspace(start, last, most).round().astype(int).tolist()))


def pass_chances(errors: Array, sent: Array, fresh: Array, alpha: float, delta: float) -> Array:
    """How likely each choice passes on `fresh` other requests, by what it did on `sent`.

    Its errors there are beta-binomial, with Jeffreys' prior.
    """
    predicted = need("scipy.stats").betabinom(fresh, errors + 0.5, sent - errors + 0.5)
    return np.asarray(predicted.cdf(most_errors(alpha, delta, fresh)))


def step(
    threshold: float, sent: Array, acceptable: Array, passing: Array, alpha: float, delta: float
) -> Step:
    """One test: of all draws, and of those alone that are of no recurring family.

    Both are at level delta and both must pass (an intersection-union test, which needs no
    correction), so that recurring pictures cannot vouch for all others.
    """
    bounds = []
    for drawn_mask in (sent > 0, (sent > 0) & (passing > 0)):
        size, errors = int(drawn_mask.sum()), int((1 - acceptable[drawn_mask]).sum())
        bounds.append((upper_bound(errors, size, delta) if size else 1.0, size, errors))
    if passing.all():
        bounds.pop()
    bound = max(value for value, _, _ in bounds)
    _, size, errors = bounds[0]
    return Step(threshold=threshold, sent=size, errors=errors, bound=bound, passed=bound <= alpha)


def certified(
    choices: Sequence[tuple[float, Array]],
    acceptable: Array,
    *,
    alpha: float,
    delta: float,
    passing: Array | None = None,
) -> list[Step]:
    """Test choices (each a threshold, and 1.0 for what it sends) up to the first that fails.

    The last that passed is certified. Every test is at level delta, and no correction is needed
    (`fixed_sequence`). `acceptable` must be of independent requests that chose nothing before.
    """
    everything = np.ones(len(acceptable))

    def test(choice: tuple[float, Array]) -> Step:
        threshold, sent = choice
        tested = everything if passing is None else passing
        return step(threshold, sent, acceptable, tested, alpha, delta)

    return fixed_sequence(choices, test, lambda result: result.passed)


def threshold_of(steps: Sequence[Step]) -> float | None:
    """The last threshold that passed."""
    passed = [step.threshold for step in steps if step.passed]
    return passed[-1] if passed else None
