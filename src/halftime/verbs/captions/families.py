"""Families of near duplicates: which requests are evidence of their own, and who gets them.

The promise is per request, and near duplicates stand or fall together. So the requests that prove
it are drawn such that every request has the same chance, and no two come from one family: a family
is drawn with a probability that grows with its size (Poisson sampling with probability proportional
to size, Sarndal et al. 1992, 3.5), and one of its requests at random speaks for it. The draws are
then independent, each is distributed as the requests are, and a binomial bound holds for them.

A family so large that it alone could break the promise would have to be drawn more often than once.
Where it comes all through the log, as the pictures of a fixed camera do, it will come again: its
requests are then draws from it, and count one by one. Else the log certifies little, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from halftime.records.captions import FamilyCounts, LogPower
from halftime.verbs.captions.certify import most_errors, needed
from halftime.verbs.captions.features import Array, Indices

Treatment = Literal["auto", "passing", "recurring"]
PROOF_SHARE, MOST_PROOF_SHARE = 0.30, 0.50  # of the requests, drawn to prove the promise
TEST_SHARE = 0.18  # of the families that were not drawn, for the report
LARGE_SHARE, LARGE = 0.02, 50  # of the log, and requests: a family that may be a fixed camera's
TENTHS = 9  # of the log's ten tenths, in which a recurring family must be
MOST_RECURRING_SHARE = 0.5  # beyond it the promise would rest on families alone that must recur
_SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Division:
    """Who gets which requests of a log: to learn from, to prove with, to report on.

    `proof` holds independent draws; `passing` is 1.0 for those that are of no recurring family.
    """

    fit: Indices
    proof: Indices
    test: Indices
    passing: Array
    counts: FamilyCounts


def recurring_families(names: Indices, treatment: Treatment) -> Indices:
    """The families whose requests count one by one."""
    families, counts = np.unique(names, return_counts=True)
    large = families[(counts >= LARGE) & (counts >= LARGE_SHARE * len(names))]
    if treatment != "auto":
        return large if treatment == "recurring" else large[:0]
    tenth = np.arange(len(names)) * 10 // len(names)
    spread = [family for family in large if len(np.unique(tenth[names == family])) >= TENTHS]
    held = np.isin(names, spread).mean()
    return np.asarray(spread if held <= MOST_RECURRING_SHARE else [], dtype=np.intp)


def divide(
    groups: Sequence[int], *, alpha: float, delta: float, seed: int, treatment: Treatment = "auto"
) -> Division:
    """Draw the proof, and split the families that were not drawn into fit and test."""
    rng = np.random.default_rng(seed)
    names = np.asarray(groups, dtype=np.intp)
    recurring = np.isin(names, recurring_families(names, treatment))
    units = np.where(recurring, names.max(initial=0) + 1 + np.arange(len(names)), names)
    _, unit_of, sizes = np.unique(units, return_inverse=True, return_counts=True)
    chosen = rng.random(len(sizes)) < _chance(sizes, alpha, delta) * sizes
    remaining = rng.permutation(np.flatnonzero(~chosen))
    tested = np.zeros(len(sizes), dtype=bool)
    tested[remaining[: round(TEST_SHARE * len(remaining))]] = True
    proof = _one_of_each(np.flatnonzero(chosen[unit_of]), unit_of, rng)
    return Division(
        np.flatnonzero(~chosen[unit_of] & ~tested[unit_of]),
        proof,
        np.flatnonzero(tested[unit_of]),
        (~recurring[proof]).astype(float),
        _counts(names, recurring),
    )


def _chance(sizes: Indices, alpha: float, delta: float) -> float:
    """Of each request to be drawn: as much as is wanted, and as unequal families allow."""
    total = float(sizes.sum())
    least = needed(alpha, delta, 0.0) or total
    share = float(np.clip(2 * least / total, PROOF_SHARE, MOST_PROOF_SHARE))
    # a family is drawn with a chance of at most 1, and those drawn hold at most half of the log
    most_requests = MOST_PROOF_SHARE * total / float(np.square(sizes.astype(float)).sum())
    return min(share, 1 / float(sizes.max()), most_requests)


def _one_of_each(indices: Indices, unit_of: Indices, rng: np.random.Generator) -> Indices:
    shuffled = rng.permutation(indices)
    _, first = np.unique(unit_of[shuffled], return_index=True)
    return np.sort(shuffled[first])


def _counts(names: Indices, recurring: NDArray[np.bool_]) -> FamilyCounts:
    _, counts = np.unique(names, return_counts=True)
    return FamilyCounts(
        families=len(counts),
        largest=int(counts.max()),
        largest_share=float(counts.max() / len(names)),
        recurring=len(np.unique(names[recurring])),
        recurring_share=float(recurring.mean()),
    )


def power(division: Division, requests: int, *, alpha: float, delta: float) -> LogPower:
    """What these draws can certify, whatever is learned."""
    draws = len(division.proof)
    least = needed(alpha, delta, 0.0) or 0
    counts = np.round(np.asarray(_SHARES) * draws)
    pairs = zip(_SHARES, most_errors(alpha, delta, counts), strict=True)
    errors = {f"{share:.0%}": int(most) for share, most in pairs if most >= 0}
    return LogPower(
        draws=draws,
        least_alpha=1 - delta ** (1 / draws) if draws else 1.0,
        needed=least,
        most_errors=errors,
        why_few=_why_few(division.counts, requests, least) if draws < least else "",
    )


def _why_few(counts: FamilyCounts, requests: int, least: int) -> str:
    if counts.largest > 1 and requests >= 2 * least:
        return (
            f"its {requests:,} requests show {counts.families:,} different pictures, and "
            f"{counts.largest:,} requests ({counts.largest_share:.1%}) are near duplicates of one "
            "another, which fail or succeed together"
        )
    return f"it has {requests:,} requests of {counts.families:,} different pictures"
