"""Promises about a share: how many draws they take, and tests in a fixed order.

A share of at most alpha is certified with some confidence when the exact upper bound on it (Clopper
and Pearson 1934: `halftime.base.stats.largest_share`) lies at or below alpha. Several settings may
be tested on the same draws without a correction, if their order was fixed before and the first that
fails ends it (fixed-sequence testing; Angelopoulos et al. 2021, 'Learn then Test').
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import TypeVar

from halftime.base.stats import at_most_chance, largest_share

T = TypeVar("T")
R = TypeVar("R")


def fixed_sequence(
    choices: Iterable[T], test: Callable[[T], R], passed: Callable[[R], bool]
) -> list[R]:
    """Test the choices in their order, up to the first that fails; it is the last of the results.

    Each test at level delta: none is reached unless all before it passed, so that any false pass is
    one of the first false choice's, and no correction is needed.
    """
    results: list[R] = []
    for choice in choices:
        results.append(test(choice))
        if not passed(results[-1]):
            break
    return results


def fewest_draws(alpha: float, confidence: float) -> int:
    """How many draws, none of which fails, certify a share of at most `alpha`: 149 for 2 % at
    95 %."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-alpha) - 1e-9)


@cache
def most_failures(draws: int, alpha: float, confidence: float) -> int:
    """The most failures among so many draws that still certify `alpha`; -1 where not even 0
    would."""
    failures = -1
    while failures + 1 < draws and largest_share(failures + 1, draws, confidence=confidence) <= (
        alpha
    ):
        failures += 1
    return failures


def fewest_alike(draws: int, alpha: float, confidence: float) -> int:
    """The fewest draws that allow as many failures: more of them would only fail oftener."""
    allowed = most_failures(draws, alpha, confidence)
    while draws > 1 and most_failures(draws - 1, alpha, confidence) == allowed:
        draws -= 1
    return draws


def pass_chance(share: float, draws: int, alpha: float, confidence: float) -> float:
    """How likely `draws` certify `alpha` where a share of them fails on average."""
    allowed = most_failures(draws, alpha, confidence)
    return at_most_chance(allowed, draws, share) if allowed >= 0 else 0.0
