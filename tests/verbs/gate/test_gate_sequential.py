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
BAR = -math.log(ALPHA)
values = st.lists(st.floats(-0.3, 0.3), min_size=4, max_size=4)


def once(base, candidate) -> Cohort:
    """Processes that were called once."""
    return Cohort(tuple((x,) for x in base), tuple((x,) for x in candidate))


def cohorts(rng, count, shift=0.0, spread=0.01, size=3):
    draws = rng.normal(0, spread, (count, 2, size))
    return [once(base, candidate + shift) for base, candidate in draws]


def measured(rng, count, shift=0.0, between=0.01, within=0.027, rounds=8, size=3):
    """Cohorts as the gate measures them: processes differ, calls differ, and rounds drift."""
    runs = []
    for _ in range(count):
        process = rng.normal(0, between, (2, size, 1))
        drift = rng.normal(0, 0.1, rounds).cumsum()
        calls = process + drift + rng.exponential(within, (2, size, rounds))
        calls[1] += shift
        runs.append(Cohort(*(tuple(tuple(map(float, row)) for row in side) for side in calls)))
    return runs


def first_word(run) -> str:
    """What a run that looks after each cohort ends with."""
    words = (decide(run[:n], MARGIN, ALPHA).word for n in range(1, len(run) + 1))
    return next((word for word in words if word), "")


@settings(max_examples=30)
@given(values)
def test_over_all_relabellings_the_mean_is_one(numbers: list[float]) -> None:
    """The law that makes false alarms impossible beyond alpha, whatever the numbers are."""
    dealt = [math.exp(evidence([once((a, b), (c, d))])) for a, b, c, d in permutations(numbers)]
    assert np.mean(dealt) == pytest.approx(1.0)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(-0.1, 0.1))
def test_the_law_holds_at_any_shift_and_over_rounds(seed: int, shift: float) -> None:
    """Processes that differ by `shift` and by luck: the mean over who had which luck is one."""
    luck = np.random.default_rng(seed).normal(0, 0.05, (4, 5))
    dealt = []
    for order in permutations(range(4)):
        rows = [tuple(luck[i]) for i in order]
        candidate = tuple(tuple(value + shift for value in row) for row in rows[2:])
        dealt.append(math.exp(evidence([Cohort(tuple(rows[:2]), candidate)], shift)))
    assert np.mean(dealt) == pytest.approx(1.0)


@settings(max_examples=30)
@given(values, st.floats(0, 0.2))
def test_a_faster_candidate_is_never_more_evidence_of_slower(
    numbers: list[float], gain: float
) -> None:
    a, b, c, d = numbers
    before = evidence([once((a, b), (c, d))])
    assert evidence([once((a, b), (c - gain, d - gain))]) <= before + 1e-9


@settings(max_examples=20)
@given(st.permutations(range(4)), st.floats(-3, 3))
def test_relabelled_processes_have_relabelled_values(order: list[int], level: float) -> None:
    rows = np.random.default_rng(1).normal(0, 1, (7, 4)) + level
    direct = process_values(rows.tolist())
    shuffled = process_values(rows[:, order].tolist())
    assert shuffled == pytest.approx([direct[i] for i in order])


def test_a_round_that_is_spoilt_for_all_counts_for_nothing() -> None:
    rows = np.random.default_rng(2).normal(0, 0.02, (7, 6))
    spoilt = np.insert(rows, 3, rows[0] + 1.0, axis=0)
    assert process_values(spoilt.tolist()) == pytest.approx(process_values(rows.tolist()))


def test_a_machine_that_slows_down_is_no_difference_between_processes() -> None:
    rows = np.random.default_rng(2).normal(0, 0.02, (8, 6))
    drifting = rows + np.linspace(0, 2, 8)[:, None]
    first_half = rows[:4].mean(axis=0)  # the quickest rounds of all
    assert np.diff(process_values(drifting.tolist())) == pytest.approx(np.diff(first_half))


def test_calls_that_something_else_slowed_down_do_not_hide_three_per_cent() -> None:
    """A third of the calls are up to 60 % slower: most runs still find a slowdown of 3 % within
    eight cohorts, where the mean of the middle half found it in 7 of these 40."""
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(40):
        run = []
        for _ in range(8):
            calls = 0.015 * rng.normal(size=(6, 1)) + 0.01 * rng.normal(size=(6, 4))
            calls += rng.uniform(0, 0.6, (6, 4)) * (rng.random((6, 4)) < 1 / 3)
            base, candidate = calls[:3], calls[3:] + np.log1p(0.03)
            run.append(Cohort(tuple(map(tuple, base)), tuple(map(tuple, candidate))))
        found += any(evidence(run[:n]) >= BAR for n in range(1, 9))
    assert found >= 20


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy-tailed"])
def test_false_alarms_between_processes_stay_below_alpha(heavy: bool) -> None:
    """Looks after each of eight cohorts, in 300 runs of equal sides whose processes differ by 6.4 %
    (as twelve real ones did)."""
    rng = np.random.default_rng(3)
    alarms = 0
    for _ in range(300):
        draws = rng.standard_t(2, (8, 2, 3)) if heavy else rng.normal(0, 1, (8, 2, 3))
        run = [once(base, candidate) for base, candidate in 0.064 * draws]
        alarms += any(evidence(run[:n]) >= BAR for n in range(1, 9))
    assert alarms <= 8  # of 3 at most in the mean; more than 8 has a probability of 0.4 %


def test_a_slowdown_of_the_margin_passes_in_at_most_alpha() -> None:
    rng = np.random.default_rng(9)
    wrong = 0
    for _ in range(150):
        run = measured(rng, 5, math.log1p(MARGIN), between=0.02)
        wrong += first_word(run) in ("pass", "faster")
    assert wrong <= 6  # of 1.5 at most in the mean; more than 6 has a probability of 0.1 %


def test_calls_taken_for_processes_would_raise_false_alarms() -> None:
    """What the unit is for: the same numbers, with ten calls of a process as ten processes."""
    rng = np.random.default_rng(4)
    alarms = 0
    for _ in range(40):
        base, candidate = rng.normal(0, 0.064, 2)  # one process a side, many calls
        calls = rng.normal(0, 0.01, (10, 2, 3)) + np.array([base, candidate])[:, None]
        alarms += decide([once(b, c) for b, c in calls], MARGIN, ALPHA).word == "slower"
    assert alarms > 8


@pytest.mark.parametrize(
    ("slowdown", "words"),
    [(0.0, {"pass"}), (0.03, {"slower"}), (0.2, {"slower"}), (-0.1, {"faster", "pass"})],
)
def test_the_verdict_on_a_planted_shift(slowdown: float, words: set[str]) -> None:
    """Power: with processes 1 % apart, eight cohorts find 3 % in at least 19 of 20 runs."""
    runs = [measured(np.random.default_rng(n), 8, math.log1p(slowdown)) for n in range(20)]
    assert sum(first_word(run) in words for run in runs) >= 19


def test_slower_by_less_than_the_margin_passes_where_both_are_shown() -> None:
    run = cohorts(np.random.default_rng(1), 3, 0.004, spread=0.0001)
    state = decide(run, MARGIN, ALPHA)
    assert min(state.slower, state.fine) >= BAR
    assert state.word == "pass"


@pytest.mark.parametrize("slowdown", [0.0, 0.02, 0.05, -0.04])
def test_verdict_and_interval_never_contradict(slowdown: float) -> None:
    for seed in range(5):
        run = measured(np.random.default_rng(seed), 5, math.log1p(slowdown))
        state, interval = decide(run, MARGIN, ALPHA), shift_interval(run, ALPHA)
        assert (state.slower >= BAR) == (interval.low > 0)
        assert (state.faster >= BAR) == (interval.high < 0)
        assert (state.fine >= BAR) == (interval.high < math.log1p(MARGIN))


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
