"""The anytime-valid test behind `gate`: pure functions of what processes measured.

The unit is the process, a random effect, and not the call: calls of one process share its memory
layout, its core and its luck, so a thousand of them still are one draw of that luck. Processes come
in cohorts that live side by side; who is base and who is candidate, who starts first and who is
called next is drawn.
Where nothing differs, the labels within a cohort could have been dealt otherwise, so

    e = exp(tilt * T) / mean over all relabellings of exp(tilt * T)

with T the difference of the two sides' means has the mean 1 whatever the noise looks like: skewed,
heavy-tailed, drifting or loaded (Koning 2023, "Measuring evidence against exchangeability and group
invariance with e-values", arXiv 2310.01153; for one process a side it is the symmetric betting
score 1 + tanh). Cohorts are drawn afresh, so the product over them is a test martingale, and by
Ville's inequality it exceeds 1 / alpha with a probability of at most alpha at whatever moment one
looks and stops (Ramdas, Gruenwald, Vovk, Shafer 2023, "Game-theoretic statistics and safe anytime-
valid inference", arXiv 2210.01948). The tilt is mixed over a fixed grid, which keeps the mean 1;
and as e falls when the candidate gets faster, 'not slower' is tested along with 'equal'.

A shift is taken off the candidate's calls before anything else is computed, so that the same law
holds for 'slower by 3 %' as for 'equal'. Times are logarithms of seconds, so a shift is a ratio.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from halftime.base.stats import Interval

Numbers = NDArray[np.float64]

# Tilts for a cohort of n processes a side, over n. The best one for a shift d and a standard
# deviation s between processes is d / (2 s^2): 17 for 3 % and 3 %, 150 for 3 % and 1 %.
TILTS = (16.0, 64.0, 256.0)


Calls = tuple[float, ...]  # of one process, in the order of the rounds


class Cohort(NamedTuple):
    """The calls of each process of either side that lived side by side: logarithms of seconds."""

    base: tuple[Calls, ...]
    candidate: tuple[Calls, ...]

    def values(self, shift: float = 0.0) -> list[float]:
        """One value for each process, base first, with `shift` taken off the candidate's."""
        shifted = [tuple(value - shift for value in calls) for calls in self.candidate]
        return process_values(list(zip(*self.base, *shifted, strict=True)))


def process_values(rounds: Sequence[Sequence[float]]) -> list[float]:
    """One value for each process from rounds in which each was called once: the mean of the faster
    half of its calls.

    What the machine does beside them only ever adds time, and a round that it spoils is spoilt for
    all; so the faster half is nearer to what the code takes than the middle is. Relabelling
    processes relabels the values, so they are as exchangeable as the processes are.
    """
    if not rounds:
        raise ValueError("process values of no rounds")
    calls = np.sort(np.array(rounds), axis=0)  # [rounds, processes]
    return [float(value) for value in calls[: (len(rounds) + 1) // 2].mean(axis=0)]


def evidence(cohorts: Sequence[Cohort], shift: float = 0.0, *, below: bool = False) -> float:
    """The logarithm of the e-process against 'the candidate is at most `shift` slower'; with
    `below`, against 'it is at least `shift` slower'."""
    if not cohorts:
        return 0.0
    logs = [_log_e_values(cohort, shift, below) for cohort in cohorts]
    return float(log_mean_exp(np.sum(logs, axis=0)))


@lru_cache(maxsize=4096)  # each look asks for all cohorts again
def _log_e_values(cohort: Cohort, shift: float, below: bool) -> Numbers:
    """The logarithm of one cohort's e-value for each tilt."""
    values = np.array(cohort.values(shift))
    n_base, n_candidate = len(cohort.base), len(cohort.candidate)
    # the harmonic mean is n for n a side
    size = 2 * n_base * n_candidate / (n_base + n_candidate)
    tilts = (-1 if below else 1) * size * np.array(TILTS)
    # relabelled[0] is the labelling that was dealt
    differences = relabellings(n_base, n_candidate) @ (values - values.mean())
    exponents = np.outer(tilts, differences)
    return np.array(exponents[:, 0] - log_mean_exp(exponents))


@cache
def relabellings(n_base: int, n_candidate: int) -> Numbers:
    """Every way of dealing the labels: rows whose product with the values is the difference of the
    means, candidate minus base. [ways, processes]; the first is the one that was dealt."""
    count = n_base + n_candidate
    dealt = tuple(range(n_base, count))
    ways = [dealt, *(way for way in combinations(range(count), n_candidate) if way != dealt)]
    rows = np.full((len(ways), count), -1.0 / n_base)
    for row, way in zip(rows, ways, strict=True):
        row[list(way)] = 1.0 / n_candidate
    return rows


def log_mean_exp(values: Numbers) -> Numbers:
    """log(mean(exp(values))) over the last axis, without overflow."""
    top = values.max(axis=-1, keepdims=True)
    shifted = np.exp(values - top)
    return np.asarray(top[..., 0] + np.log(np.mean(shifted, axis=-1)), dtype=np.float64)


class Decided(NamedTuple):
    """What the test says so far: 'slower', 'pass', 'faster' or '' for not yet."""

    word: str
    slower: float  # logarithm of the evidence against 'not slower'
    fine: float  # against 'slower by the margin'
    faster: float  # against 'not faster'


def decide(cohorts: Sequence[Cohort], margin: float, alpha: float) -> Decided:
    """Pass: shown not to be slower by `margin` (a ratio, 0.03 for 3 %), and called faster where
    that is shown, too. Slower: shown not to be equal or faster, while `margin` is not excluded.

    Each is wrong with a probability of at most `alpha`, over the whole run.
    """
    slower = evidence(cohorts)
    fine = evidence(cohorts, math.log1p(margin), below=True)
    faster = evidence(cohorts, below=True)
    bar = -math.log(alpha)
    word = "slower" if slower >= bar else ""
    if fine >= bar:
        word = "faster" if faster >= bar else "pass"
    return Decided(word, slower, fine, faster)


def excludes_at_least(cohorts: Sequence[Cohort], margin: float, alpha: float) -> bool:
    """Whether 'slower by `margin` or more' is excluded at `alpha`, whenever one looks."""
    return evidence(cohorts, math.log1p(margin), below=True) >= -math.log(alpha)


def excludes_at_most(cohorts: Sequence[Cohort], margin: float, alpha: float) -> bool:
    """Whether 'slower by at most `margin`' is excluded at `alpha`, whenever one looks."""
    return evidence(cohorts, math.log1p(margin)) >= -math.log(alpha)


def shift_interval(cohorts: Sequence[Cohort], alpha: float) -> Interval:
    """The shift with its confidence sequence: all shifts that neither one-sided test excludes at
    `alpha`, so that it never contradicts the verdict. Either end is wrong with a probability of at
    most `alpha`, at every moment at once, so also when looking has stopped the run."""
    value = shift_estimate(cohorts)
    bar = -math.log(alpha)
    low = _edge(cohorts, value, bar, below=False)
    return Interval(value, low, _edge(cohorts, value, bar, below=True))


def shift_estimate(cohorts: Sequence[Cohort]) -> float:
    """Candidate minus base: the mean over cohorts of the difference of their means, weighed by
    their processes."""
    sizes = [len(cohort.base) + len(cohort.candidate) for cohort in cohorts]
    return float(np.average([_difference(cohort) for cohort in cohorts], weights=sizes))


def _difference(cohort: Cohort) -> float:
    values = cohort.values()
    return float(np.mean(values[len(cohort.base) :]) - np.mean(values[: len(cohort.base)]))


_FARTHEST = math.log(1000)  # nobody asks whether something is slower by more


def _edge(cohorts: Sequence[Cohort], value: float, bar: float, *, below: bool) -> float:
    """The farthest shift on one side that is not excluded, by bisection; infinite where none is."""
    sign = 1 if below else -1
    inside, outside = value, value + sign * _FARTHEST
    if evidence(cohorts, outside, below=below) < bar:
        return sign * math.inf
    for _ in range(30):
        middle = (inside + outside) / 2
        if evidence(cohorts, middle, below=below) < bar:
            inside = middle
        else:
            outside = middle
    return inside


def cohorts_needed(cohorts: Sequence[Cohort], margin: float, alpha: float) -> int | None:
    """About how many more cohorts like these would decide; None where the shift is so near to
    where both tests are slow that no sensible number would."""
    if not cohorts:
        return None
    state = decide(cohorts, margin, alpha)
    bar = -math.log(alpha)
    gains = [value / len(cohorts) for value in (state.slower, state.fine)]
    needs = [math.ceil((bar - gain * len(cohorts)) / gain) for gain in gains if gain > bar / _MOST]
    return max(1, min(needs)) if needs else None


_MOST = 200  # cohorts: more is not a plan
