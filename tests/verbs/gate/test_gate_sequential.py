"""The test behind `gate`: exact under relabelling, valid between processes, and powerful enough."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halftime.verbs.gate.sequential import (
    Cohort,
    cohorts_needed,
    decide,
    evidence,
    process_values,
    shift_interval,
)

MARGIN, ALPHA = 0.03, 0.01
values = st.lists(st.floats(-0.3, 0.3), min_size=4, max_size=4)


def cohorts(rng, count, shift=0.0, spread=0.01, size=3):
    draws = rng.normal(0, spread, (count, 2, size))
    return [Cohort(tuple(base), tuple(candidate + shift)) for base, candidate in draws]


@settings(max_examples=30)
@given(values)
def test_over_all_relabellings_the_mean_is_one(numbers: list[float]) -> None:
    """The law that makes false alarms impossible beyond alpha, whatever the numbers are."""
    dealt = [math.exp(evidence([Cohort((a, b), (c, d))])) for a, b, c, d in permutations(numbers)]
    assert np.mean(dealt) == pytest.approx(1.0)


@settings(max_examples=30)
@given(values, st.floats(0, 0.2))
def test_a_faster_candidate_is_never_more_evidence_of_slower(
    numbers: list[float], gain: float
) -> None:
    a, b, c, d = numbers
    before = evidence([Cohort((a, b), (c, d))])
    assert evidence([Cohort((a, b), (c - gain, d - gain))]) <= before + 1e-9


@settings(max_examples=20)
@given(st.permutations(range(4)), st.floats(-3, 3))
def test_relabelled_processes_have_relabelled_values(order: list[int], level: float) -> None:
    rows = np.random.default_rng(1).normal(0, 1, (7, 4)) + level
    direct = process_values(rows.tolist())
    shuffled = process_values(rows[:, order].tolist())
    assert shuffled == pytest.approx([direct[i] for i in order])


def test_what_a_round_has_in_common_is_no_difference() -> None:
    rows = np.random.default_rng(2).normal(0, 0.02, (8, 6))
    drifting = rows + np.linspace(0, 2, 8)[:, None]
    calm, slow = process_values(rows.tolist()), process_values(drifting.tolist())
    assert np.diff(slow) == pytest.approx(np.diff(calm))


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy-tailed"])
def test_false_alarms_between_processes_stay_below_alpha(heavy: bool) -> None:
    """Twelve looks at each of 300 runs of equal sides whose processes differ by 6.4 %."""
    rng = np.random.default_rng(3)
    alarms = 0
    for _ in range(300):
        draws = rng.standard_t(2, (12, 2, 3)) if heavy else rng.normal(0, 1, (12, 2, 3))
        run = [Cohort(tuple(b), tuple(c)) for b, c in 0.064 * draws]
        alarms += any(evidence(run[:n]) >= -math.log(ALPHA) for n in range(1, 13))
    assert alarms <= 8  # of 3 at most in the mean; more than 8 has a probability of 0.4 %


def test_calls_taken_for_processes_would_raise_false_alarms() -> None:
    """What the unit is for: the same numbers, with ten calls of a process as ten processes."""
    rng = np.random.default_rng(4)
    alarms = 0
    for _ in range(40):
        base, candidate = rng.normal(0, 0.064, 2)  # one process a side, many calls
        calls = rng.normal(0, 0.01, (10, 2, 3)) + np.array([base, candidate])[:, None]
        alarms += decide([Cohort(tuple(b), tuple(c)) for b, c in calls], MARGIN, ALPHA).word in (
            "slower",
        )
    assert alarms > 8


@pytest.mark.parametrize(
    ("shift", "word"), [(0.0, "pass"), (0.03, "slower"), (0.2, "slower"), (-0.1, "faster")]
)
def test_the_verdict_on_a_planted_shift(shift: float, word: str) -> None:
    right = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        run = cohorts(rng, 8, math.log1p(shift))
        words = (decide(run[:n], MARGIN, ALPHA).word for n in range(1, 9))
        first = next((w for w in words if w), "")
        right += first == word or (word == "faster" and first == "pass")
    assert right >= 19


def test_the_interval_holds_the_shift_and_excludes_what_was_refuted() -> None:
    run = cohorts(np.random.default_rng(5), 8, 0.05)
    low, high = shift_interval(run, ALPHA)[1:]
    assert 0 < low < 0.05 < high < 0.10


def test_one_cohort_bounds_nothing() -> None:
    """Of 20 relabellings one is as extreme: that is evidence of 20 to 1, and alpha asks for 200."""
    run = cohorts(np.random.default_rng(6), 1, 0.5)
    assert decide(run, MARGIN, ALPHA).word == ""
    assert math.isinf(shift_interval(run, ALPHA).low)


def test_what_would_decide() -> None:
    noisy = cohorts(np.random.default_rng(7), 3, 0.03, spread=0.02)
    needed = cohorts_needed(noisy, MARGIN, ALPHA)
    assert needed is None or needed >= 1
    assert cohorts_needed(cohorts(np.random.default_rng(8), 1, 0.5), MARGIN, ALPHA) == 1
    assert cohorts_needed([], MARGIN, ALPHA) is None
